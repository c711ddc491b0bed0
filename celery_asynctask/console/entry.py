"""Signing in to the console: credentials as for the API, or a token that a cookie keeps."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from celery_asynctask.console import markup
from celery_asynctask.web.cookies import cookie
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Service, same_site

MAX_FIELDS: Final = 20
_MAX_AGE: Final = 30 * 86_400
"""Seconds that a browser keeps the cookie."""


def form(request: Request, exc: ProblemError | None = None, error: str = "", back: str | None = None) -> Response:
    """The form to sign in, or where the server takes no tokens, what to do. ``back``: the address to go to afterwards;
    None: this one."""
    service: Service = request.app.state.asynctask
    access = service.authenticator
    query = request.scope["query_string"].decode("latin-1")  # `request.url` may cut the path
    here = quote(request.scope["path"]) + (f"?{query}" if query else "")
    page = markup.render(
        request,
        "sign-in.html",
        takes_tokens=access.takes_tokens,
        has_function=access.has_function,
        is_open=access.is_open,
        may_read=access.is_open or access.holder(cookie(request.headers, markup.COOKIE) or "") is not None,
        detail=error or (exc.detail if exc and not access.takes_tokens else ""),
        back=_safe(here if back is None else back),
    )
    headers = {**markup.SECURITY, **(exc.headers if exc else {})}
    return HTMLResponse(page, 401 if exc or error else 200, headers=headers)


async def _sign_in(request: Request) -> Response:
    if request.method != "POST":
        return form(request, back="")
    same_site(request)
    sent = await fields(request)
    token, back = sent.get("token", "").strip(), _safe(sent.get("back", ""))
    service: Service = request.app.state.asynctask
    if service.authenticator.holder(token) is None:
        return form(
            request,
            error="Invalid token. Check that you copied all of it, or ask the operator of this server for another.",
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
    """The fields of a posted form, the first of each name. Raises `ProblemError`."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return {name: values[0] for name, values in parse_qs(body, max_num_fields=MAX_FIELDS).items()}
    except ValueError as exc:
        raise invalid("body", f"A form has at most {MAX_FIELDS} fields. Open the page again and use its form.") from exc


def _safe(back: str) -> str:
    """``back`` if it is a path of this server; else empty, so that no address leads to another site."""
    ours = re.fullmatch(r"/(?!/)[^\\]*", back) is not None and back.isprintable()
    return back if ours else ""


ROUTES: Final = (
    Route("/sign-in", _sign_in, methods=["GET", "POST"]),
    Route("/sign-out", _sign_out, methods=["POST"]),
)
