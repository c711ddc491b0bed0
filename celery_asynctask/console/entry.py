"""Signing in to the console and out of it: a token or a code is exchanged for the cookie of a session."""

from __future__ import annotations

import re
import time
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from celery_asynctask.console import markup
from celery_asynctask.web.cookies import cookie
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.service import Service, same_site
from celery_asynctask.web.sessions import TOKEN_COOKIE, Session, cookie_name

MAX_FIELDS: Final = 20
_ONLY_HERE: Final = (
    "You are signed out of this browser. The record could not be written, so other server processes do not know it, "
    "nor this one after a restart: a copy of your cookie is valid there until it expires. To be sure, let the operator "
    "of this server remove or replace your token."
)
_SIGN_IN: Final = "/sign-in"


async def form(
    request: Request, exc: ProblemError | None = None, *, detail: str = "", back: str | None = None
) -> Response:
    """The form to sign in, or where the server takes no tokens, what to do. ``exc`` is why it is shown, ``detail`` what
    it says; ``back``: the address to go to afterwards; None: this one."""
    service: Service = request.app.state.asynctask
    access = service.authenticator
    query = request.scope["query_string"].decode("latin-1")  # `request.url` may cut the path
    here = quote(request.scope["path"]) + (f"?{query}" if query else "")
    is_signed_in = await access.is_signed_in(request)
    page = markup.render(
        request,
        "sign-in.html",
        takes_tokens=access.takes_tokens,
        takes_codes=access.local is not None,
        has_function=access.has_function,
        is_open=access.is_open,
        may_read=access.is_open or is_signed_in,
        detail=detail or (exc.detail if exc and not access.takes_tokens else ""),
        back=_safe(here if back is None else back),
    )
    answer = HTMLResponse(page, exc.status if exc else 200, headers={**markup.SECURITY, **(exc.headers if exc else {})})
    if not is_signed_in:
        _forget(request, answer)
    return answer


async def _sign_in(request: Request) -> Response:
    if request.method != "POST":
        return await form(request, back="")
    same_site(request)
    sent = await fields(request)
    back = _safe(sent.get("back", ""))
    service: Service = request.app.state.asynctask
    try:
        session, value = await service.authenticator.sign_in(request, sent.get("token", "").strip())
    except ProblemError as exc:
        return await form(request, exc, detail=exc.detail, back=back)
    answer = RedirectResponse(back or markup.url(request), 303, headers=markup.SECURITY)
    _forget(request, answer)
    _keep(request, answer, session, value)
    return answer


async def _sign_out(request: Request) -> Response:
    same_site(request)
    service: Service = request.app.state.asynctask
    if await service.authenticator.sign_out(request):
        answer: Response = RedirectResponse(markup.url(request, _SIGN_IN), 303, headers=markup.SECURITY)
    else:
        answer = await form(request, detail=_ONLY_HERE, back="")
    _forget(request, answer)
    return answer


def _keep(request: Request, answer: Response, session: Session, value: str) -> None:
    """Set the cookie of a session. It is for https alone where the reader came by https, which behind a proxy only the
    reader's browser may know."""
    service: Service = request.app.state.asynctask
    is_https = service.authenticator.origins.is_https(request)
    secure = is_https or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(
        cookie_name(request, secure=secure),
        value,
        max_age=max(0, session.expires - int(time.time())),
        path=_path(request),
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def _forget(request: Request, answer: Response) -> None:
    """Let the browser forget the cookies that it sent."""
    names = (
        (cookie_name(request, secure=True), True),
        (cookie_name(request, secure=False), False),
        (TOKEN_COOKIE, False),
    )
    for name, secure in names:
        if cookie(request.headers, name) is not None:
            answer.delete_cookie(name, path=_path(request), secure=secure, httponly=True, samesite="lax")


def _path(request: Request) -> str:
    return request.scope.get("root_path", "") or "/"


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
    Route(_SIGN_IN, _sign_in, methods=["GET", "POST"]),
    Route("/sign-out", _sign_out, methods=["POST"]),
)
