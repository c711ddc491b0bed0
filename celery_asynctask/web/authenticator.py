"""Who sends a request.

Closed by default: a request needs a token of `asynctask_tokens`, a session of the console that one was exchanged for,
or the consent of the function `asynctask_access`. Only where neither is configured, a server that listens to this host
alone (`serve`) makes credentials for its user, or with ``--open`` lets everybody on the host read.
"""

from __future__ import annotations

import datetime as dt
import inspect
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Final, NoReturn

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from kombu.utils.imports import symbol_by_name
from starlette.concurrency import run_in_threadpool

from celery_asynctask.core.text import rfc3339
from celery_asynctask.core.time import now, time_of
from celery_asynctask.core.tokens import is_token
from celery_asynctask.errors import SettingsError, StoreError, logger
from celery_asynctask.operations.audit import Action, Audit, Entry, Outcome
from celery_asynctask.operations.credentials import Credentials, Use
from celery_asynctask.queries.credentials import has_ended
from celery_asynctask.queries.reader import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.web.access import Access, AccessError
from celery_asynctask.web.attempts import Attempts
from celery_asynctask.web.background import Background
from celery_asynctask.web.loopback import LocalRun, check_host, open_access
from celery_asynctask.web.origin import Origins, share
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.sessions import EndedSessions, Session, cookie_of, new_session, read_session
from celery_asynctask.web.share import SIGN_INS, Rates
from celery_asynctask.web.tokens import Holder, Known, Tokens

Function = Callable[[Request], object]
"""`asynctask_access`: returns an `Access` or None, or a coroutine of that."""

THREADS: Final = 4
"""Queries about sessions at a time."""
USE_SECONDS: Final = 60.0
"""How often the use of a token is stored."""
INVALID: Final = (
    "Invalid token. Check that you copied all of it, or ask the operator of this server for another: `celery -A APP "
    "asynctask token` creates one."
)
_HAND_MADE: Final = (
    "This is not a token that `celery -A APP asynctask token` created, which are accepted alone: asynctask_ and 43 "
    "characters. Ask the operator of this server for one."
)
_OLD_CODE: Final = (
    "This code is not valid, or no longer: a code is valid once and for ten minutes. `celery -A APP asynctask code` "
    "prints another."
)


class Authenticator:
    """Finds the `Access` of a request."""

    def __init__(
        self,
        settings: Settings,
        audit: Audit,
        reader: Callable[[], Reader],
        *,
        loopback: bool = False,
        local: bool = False,
    ) -> None:
        """``reader`` returns the record, or raises `StoreError`. ``loopback``: the server listens to this host alone,
        and without configured credentials everybody on it may read; ``local``: only the user who runs it may.
        Raises `SettingsError` for a function that cannot be imported."""
        self.tokens = Tokens(settings.tokens)
        self.origins = Origins(settings.trusted_proxies)
        try:
            self._function: Function | None = symbol_by_name(settings.access)
        except (ImportError, AttributeError, ValueError) as exc:
            raise SettingsError(
                f"Setting 'asynctask_access' names {settings.access!r}, which cannot be imported: {exc}. Correct "
                "the name, or run this where it can be imported."
            ) from exc
        self.is_open = loopback and not local and not self.has_credentials
        """Whether everybody on this host may read."""
        self.local = LocalRun() if local and not self.has_credentials else None
        """The credentials of this run; None: it has none."""
        self._local = None if self.local is None else Known({self.local.token.name: self.local.token})
        self._background = Background()
        self._attempts = Attempts(self._write)
        self._rates = Rates()
        self._audit = audit
        self._reader = reader
        self._credentials = Credentials(settings)
        self._ended = EndedSessions(self._has_ended)
        self._used: dict[str, float] = {}
        """When the use of a token was stored, by `Token.key`."""

    @property
    def has_credentials(self) -> bool:
        """Whether tokens or a function are configured."""
        return self.tokens.is_configured or self._function is not None

    @property
    def takes_tokens(self) -> bool:
        """Whether there are tokens to sign in with."""
        return self.tokens.is_configured or self.local is not None

    @property
    def has_function(self) -> bool:
        """Whether the function `asynctask_access` is configured."""
        return self._function is not None

    def close(self) -> None:
        """Write what waits, and give the connections back."""
        self._attempts.close()
        self._background.close()
        self._credentials.close()

    # -- requests

    async def access(self, request: Request, kept: str | None = None) -> Access:
        """What a request may see and do; ``kept`` is a session from a cookie. Raises `ProblemError`, and whatever the
        user's function raises."""
        if self._function is not None and (access := await _call(self._function, request)) is not None:
            return access
        if self.local is not None:
            check_host(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token:
            return (await self._holder(request, token)).access
        if self.is_open:
            return open_access(request)
        if kept and self.takes_tokens:  # also where "Basic" is for a proxy
            return (await self._of_session(request, kept)).access
        raise _unauthenticated(self._remedy())

    def cookie(self, request: Request) -> str | None:
        """The session in the cookie of a request, unchecked; None: there is none."""
        return cookie_of(request, https=self.origins.is_https(request))

    async def is_signed_in(self, request: Request) -> bool:
        """Whether a request has a valid session, as far as is known without asking the record."""
        signed = read_session(self.cookie(request) or "")
        if signed is None or not self.takes_tokens:
            return False
        holder = (await self._known()).by_name.get(signed.session.name)
        is_valid = signed.is_by(None if holder is None else holder.token)
        return is_valid and not _is_over(signed.session, holder) and not self._ended.knows(signed.session.id)

    async def sign_in(self, request: Request, secret: str) -> tuple[Session, str]:
        """A session for a token or code, and its cookie. Raises `ProblemError`."""
        if self.local is not None:
            check_host(request)
        if self.local is not None and not is_token(secret):
            if not self.local.exchange(secret):
                await self._refuse(request, "wrong or used code", _OLD_CODE)
            token = self.local.token
        else:
            token = (await self._holder(request, secret)).token
        address = self.origins.address(request)
        self._rates.take(SIGN_INS, (token.name, share(address)))
        self._write(Entry(Action.SIGN_IN, token.name, address))
        return new_session(token, time.time())

    async def sign_out(self, request: Request) -> bool:
        """End the session of a request, everywhere. Returns False where other server processes could not be told, and
        only this one knows."""
        signed = read_session(self.cookie(request) or "")
        if signed is None or not self.takes_tokens:
            return True
        holder = (await self._known()).by_name.get(signed.session.name)
        is_valid = signed.is_by(None if holder is None else holder.token)
        if not is_valid or _is_over(signed.session, holder) or self._ended.knows(signed.session.id):
            return True
        session = signed.session
        self._ended.add(session.id)
        self._write(Entry(Action.SIGN_OUT, session.name, self.origins.address(request)))
        expires_at = dt.datetime.fromtimestamp(session.expires, dt.timezone.utc)
        try:
            await to_thread.run_sync(
                partial(self._credentials.end_session, session.id, expires_at), limiter=self._threads
            )
        except StoreError as exc:
            logger.warning("A sign-out is known to this process alone: %s", exc)
            return False
        return True

    # -- who it is

    async def _known(self) -> Known:
        return self._local if self._local is not None else await self.tokens.current()

    async def _holder(self, request: Request, token: str) -> Holder:
        """The holder of a presented token. Raises `ProblemError`, after a while if there were many of them."""
        if not self.takes_tokens:
            raise _unauthenticated(self._remedy())
        holder = (await self._known()).holder(token)
        if holder is None:
            await self._refuse(request, "wrong token", INVALID if is_token(token) else _HAND_MADE)
        expires = holder.token.expires
        if expires is not None and holder.token.is_expired(time_of(now())):
            detail = f"This token expired at {rfc3339(expires)}. Ask the operator of this server for another."
            await self._refuse(request, "expired token", detail, holder.token.name)
        self._note_use(holder)
        return holder

    async def _of_session(self, request: Request, kept: str) -> Holder:
        """The holder of the token that a session was exchanged for. Raises `ProblemError`."""
        signed = read_session(kept)
        if signed is None:
            raise _unauthenticated(self._remedy())
        session = signed.session
        holder = (await self._known()).by_name.get(session.name)
        if not signed.is_by(None if holder is None else holder.token) or holder is None:
            # A session whose token was replaced looks the same as a forged one.
            name = None if holder is None else session.name
            await self._refuse(
                request, "session with a wrong signature", "Your session is not valid. Sign in again.", name
            )
        if _is_over(session, holder) or await self._ended.has(session.id):
            raise _unauthenticated("Your session has ended. Sign in again.")
        self._note_use(holder)
        return holder

    async def _refuse(self, request: Request, why: str, detail: str, name: str | None = None) -> NoReturn:
        await self._attempts.failed(self.origins.address(request), why, name)
        raise _unauthenticated(detail)

    def _remedy(self) -> str:
        if self.local is not None:
            return (
                "No session and no token. Open the address that `celery -A APP asynctask code` prints; programs send "
                "the token that `serve` printed: Authorization: Bearer …"
            )
        if not self.has_credentials:
            return (
                "This server has no credentials yet: set asynctask_tokens (`celery -A APP asynctask token` "
                "creates one)."
            )
        if not self.tokens.is_configured:
            return (
                "asynctask_access does not know who sends this request. Log in to the application that this server "
                "belongs to, then try again."
            )
        return "No token. Send one: Authorization: Bearer …"

    # -- the record

    @cached_property
    def _threads(self) -> CapacityLimiter:
        return CapacityLimiter(THREADS)

    async def _has_ended(self, session: str) -> bool:
        return await to_thread.run_sync(lambda: has_ended(self._reader(), session), limiter=self._threads)

    def _note_use(self, holder: Holder) -> None:
        """Store when a token was used, once a minute at most."""
        key = holder.token.key
        if time.monotonic() - self._used.get(key, -USE_SECONDS) < USE_SECONDS or self.local is not None:
            return
        self._used[key] = time.monotonic()
        uses = {key: Use(holder.token.name, time_of(now()))}
        self._background.submit(partial(self._credentials.used, uses), "the last use of a token", 3600.0)

    def _write(self, entry: Entry) -> None:
        what = f"{entry.outcome.value} {entry.action.value} in the audit: of {entry.actor!r} from {entry.origin!r}"
        every = 0.0 if entry.outcome is Outcome.DONE else 60.0
        self._background.submit(partial(self._audit.write, entry), what, every)


def _is_over(session: Session, holder: Holder | None) -> bool:
    """Whether a session or its token has expired."""
    at = time_of(now())
    return at.timestamp() >= session.expires or holder is None or holder.token.is_expired(at)


def _unauthenticated(detail: str) -> ProblemError:
    return ProblemError("unauthenticated", 401, detail, headers={"WWW-Authenticate": 'Bearer realm="asynctask"'})


async def _call(function: Function, request: Request) -> Access | None:
    try:
        if inspect.iscoroutinefunction(function):
            access = await function(request)
        else:
            access = await run_in_threadpool(function, request)
    except AccessError as exc:  # of an id that a user has, as likely as a bug
        logger.error("asynctask_access: an Access was refused: %s", exc)
        detail = "asynctask_access has no valid access for who sends this request. The server's log says why."
        raise ProblemError("forbidden", 403, detail) from exc
    if access is not None and not isinstance(access, Access):
        raise TypeError(f"asynctask_access must return an Access or None, not a {type(access).__name__}")
    return access
