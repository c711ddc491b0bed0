"""Who looks at the console: as for the API, or by a token that was typed once and is kept in a cookie."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from celery_asynctask.console import markup
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Service, same_site

MAX_FIELDS: Final = 20
_MAX_AGE: Final = 30 * 86_400
"""Seconds that a browser keeps the cookie."""


def asked(request: Request, exc: ProblemError | None = None, told: str = "", back: str | None = None) -> Response:
    """The form; where nothing is to be typed, what else there is to do. ``back``: where it leads to; None: here."""
    service: Service = request.app.state.asynctask
    query = request.scope["query_string"].decode("latin-1")  # in `request.url` a path may be cut
    here = quote(request.scope["path"]) + (f"?{query}" if query else "")
    found = markup.render(
        request,
        "sign-in.html",
        takes_tokens=service.authenticator.takes_tokens,
        has_function=service.authenticator.has_function,
        detail=told or (exc.detail if exc and not service.authenticator.takes_tokens else ""),
        back=_safe(here if back is None else back),
    )
    headers = {**markup.SECURITY, **(exc.headers if exc else {})}
    return HTMLResponse(found, 401 if exc or told else 200, headers=headers)


async def _sign_in(request: Request) -> Response:
    if request.method != "POST":
        return asked(request, back="")
    same_site(request)
    form = await fields(request)
    token, back = form.get("token", "").strip(), _safe(form.get("back", ""))
    service: Service = request.app.state.asynctask
    if service.authenticator.holder(token) is None:
        return asked(
            request,
            told="Invalid token. Check that you copied all of it, or ask the operator of this server for another.",
            back=back,
        )
    answer = RedirectResponse(back or markup.url(request), 303, headers=markup.SECURITY)
    answer.set_cookie(
        markup.COOKIE,
        token,
        max_age=_MAX_AGE,
        path=request.scope.get("root_path", "") or "/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return answer


async def _sign_out(request: Request) -> Response:
    same_site(request)
    answer = RedirectResponse(markup.url(request, "/sign-in"), 303, headers=markup.SECURITY)
    answer.delete_cookie(markup.COOKIE, path=request.scope.get("root_path", "") or "/", httponly=True, samesite="lax")
    return answer


async def fields(request: Request) -> dict[str, str]:
    """Of a form that was sent: the first of each name. Raises `ProblemError`."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[0] for name, values in parse_qs(body, max_num_fields=MAX_FIELDS).items()}
    except ValueError as exc:
        raise invalid("body", f"A form has at most {MAX_FIELDS} fields. Open the page again and use its form.") from exc


def _safe(back: str) -> str:
    """A path of this server; nothing that leads to another."""
    ours = re.fullmatch(r"/(?!/)[^\\]*", back) is not None and back.isprintable()
    return back if ours else ""


ROUTES: Final = (
    Route("/sign-in", _sign_in, methods=["GET", "POST"]),
    Route("/sign-out", _sign_out, methods=["POST"]),
)
