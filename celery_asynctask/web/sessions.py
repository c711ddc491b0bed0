"""Sessions of the console: a signed cookie that a token or a code is exchanged for, and the sessions that ended early.

The cookie is worth nothing in the API, and says who signed in, not with what. Its key is made of the hash of the token
as it is configured, so a session ends everywhere when its token is removed or replaced.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from starlette.requests import Request

from celery_asynctask.core.tokens import Token
from celery_asynctask.errors import StoreError
from celery_asynctask.web.cookies import cookie
from celery_asynctask.web.memory import Latest
from celery_asynctask.web.problem import ProblemError

MAX_SECONDS: Final = 30 * 86_400
"""How long a session lasts, if its token does not expire before."""
LOOK_SECONDS: Final = 5.0
"""How long it may take until a server process knows of a sign-out at another one."""
MAX_SESSIONS: Final = 10_000
"""Sessions that one process remembers, the latest ones."""
COOKIE: Final = "asynctask_session"
TOKEN_COOKIE: Final = "asynctask_token"  # noqa: S105 - a name
"""The cookie of earlier releases, which held the token itself. It is ignored, and removed from the browser."""
_SECURE: Final = "__Secure-"
"""Browsers take a cookie with this beginning only from https."""
_FORM: Final = re.compile(
    r"(?P<signed>1\.(?P<name>[\w-]{1,1500})\.(?P<id>[\w-]{22})\.(?P<issued>[0-9]{1,12})\.(?P<expires>[0-9]{1,12}))"
    r"\.(?P<mac>[\w-]{43})",
    re.ASCII,
)
_NOBODYS: Final = secrets.token_bytes(32)


class Session(NamedTuple):
    """A session as its cookie states it; times in seconds since the epoch."""

    name: str
    """Of its token."""
    id: str
    """128 random bits, as text."""
    issued: int
    expires: int


class Signed(NamedTuple):
    """A session with its signature, which is not checked yet."""

    session: Session
    signed: str
    mac: bytes

    def is_by(self, token: Token | None) -> bool:
        """Whether it was signed with the key of that token. Without one, this takes as long and is false."""
        key = _NOBODYS if token is None else _key(token)
        return hmac.compare_digest(_mac(key, self.signed), self.mac) and token is not None


def new_session(token: Token, now: float) -> tuple[Session, str]:
    """A new session of the holder of a token, and its cookie."""
    end = int(now) + MAX_SECONDS
    if token.expires is not None:
        end = min(end, int(token.expires.timestamp()))
    session = Session(token.name, secrets.token_urlsafe(16), int(now), end)
    signed = f"1.{_encoded(token.name.encode())}.{session.id}.{session.issued}.{session.expires}"
    return session, f"{signed}.{_encoded(_mac(_key(token), signed))}"


def read_session(text: str) -> Signed | None:
    """The session in a cookie; None: it has another form."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    try:
        name = _decoded(match["name"]).decode()
        mac = _decoded(match["mac"])
    except ValueError:
        return None
    return Signed(Session(name, match["id"], int(match["issued"]), int(match["expires"])), match["signed"], mac)


def cookie_name(request: Request, *, secure: bool) -> str:
    """Name of the cookie. It has the port that a browser was sent to, because browsers send the cookies of a host to
    all its ports: two servers on one host would sign each other's readers out."""
    _, _, port = request.headers.get("host", "").rpartition(":")
    suffix = f"_{port}" if re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) else ""
    return f"{_SECURE if secure else ''}{COOKIE}{suffix}"


def cookie_of(request: Request, *, https: bool = False) -> str | None:
    """The cookie of a request. With ``https`` only one that was set over https counts: anybody on the network between
    could have set another."""
    secure = cookie(request.headers, cookie_name(request, secure=True))
    return secure if secure is not None or https else cookie(request.headers, cookie_name(request, secure=False))


class EndedSessions:
    """The sessions that somebody signed out of, as far as this process knows."""

    def __init__(self, look: Callable[[str], Awaitable[bool]]) -> None:
        """``look`` says whether the record has a session as ended. Raises `StoreError`, or `ProblemError` where too
        many requests wait."""
        self._look = look
        self._looked: Latest[str, float] = Latest(MAX_SESSIONS)
        self._ended: Latest[str, bool] = Latest(MAX_SESSIONS)

    def knows(self, session: str) -> bool:
        """Whether a session ended, as far as is known without asking the record."""
        return session in self._ended

    async def has(self, session: str) -> bool:
        """Whether a session ended; asks the record every `LOOK_SECONDS` while it is in use. While the database is away,
        what is known counts."""
        at = self._looked.get(session)
        if session not in self._ended and (at is None or time.monotonic() - at >= LOOK_SECONDS):
            self._looked[session] = time.monotonic()
            try:
                if await self._look(session):
                    self.add(session)
            except (StoreError, ProblemError):
                pass  # the page itself says so
        return session in self._ended

    def add(self, session: str) -> None:
        """Remember that a session ended."""
        self._ended[session] = True


def _key(token: Token) -> bytes:
    return hmac.digest(bytes.fromhex(token.sha256), b"celery-asynctask session", "sha256")


def _mac(key: bytes, signed: str) -> bytes:
    return hmac.digest(key, signed.encode("ascii"), "sha256")


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(f"{text}{'=' * (-len(text) % 4)}", altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError(text) from None
