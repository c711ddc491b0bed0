"""The tokens that let callers in: from the settings, a file or a function, the latter two looked at again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, Final, NamedTuple

import anyio

from celery_asynctask.core.tokens import Token, hashed, is_token
from celery_asynctask.errors import SettingsError, logger
from celery_asynctask.operations.tokens import Source, reader_of
from celery_asynctask.web.access import Access
from celery_asynctask.web.problem import ProblemError

SECONDS: Final = 5.0
"""How often a file or function is looked at."""
GRACE_SECONDS: Final = 60.0
"""How long the tokens that were read last count while the file or function is broken: long enough to mend a slip, and
no longer, for one of them may have been removed."""
LOOK_SECONDS: Final = 10.0
"""How long a look may take."""
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class Holder(NamedTuple):
    """A configured token, and what its holder may see and do."""

    token: Token
    access: Access


class Known:
    """The tokens as they were read last."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self.tokens = tokens
        self.by_name = {name: Holder(token, access_of(token)) for name, token in tokens.items()}
        self._by_hash = {holder.token.sha256: holder for holder in self.by_name.values()}

    def holder(self, token: str) -> Holder | None:
        """The holder of a presented token, expired or not; None: it is unknown. How long it takes to find a hash
        depends on the hash alone, which tells nobody anything about the token."""
        return self._by_hash.get(hashed(token)) if is_token(token) else None


def access_of(token: Token) -> Access:
    """What the holder of a token may see and do."""
    more: dict[str, Any] = {} if token.created_by is None else {"created_by": token.created_by}
    return Access(token.customers, token.rights, token.name, **more)


class Tokens:
    """The tokens of a server. Raises `SettingsError` for a function that cannot be imported."""

    def __init__(self, source: Source) -> None:
        self._read = None if source is None or isinstance(source, Mapping) else reader_of(source)
        self._known = Known(source if isinstance(source, Mapping) else {})
        self.is_configured = self._read is not None or bool(self._known.tokens)
        """Whether anybody can have a token."""
        self._lock = Lock()
        self._until = 0.0
        """When those that were read last are too old to be used without another look."""
        self._look: Future[None] | None = None
        self._began = 0.0
        """When the latest look began."""
        self._was_read = self._read is None
        self._problem = ""
        """Why the latest look failed; empty: it did not."""
        self._broken_since = 0.0

    async def current(self) -> Known:
        """The tokens, at most `SECONDS` old. Raises `ProblemError` where they cannot be read."""
        if self._read is None:
            return self._known
        if time.monotonic() >= self._until - SECONDS / 2:  # before anybody has to wait for it
            look = self._begin()
            pause = _FIRST_PAUSE
            while not look.done() and self._until <= time.monotonic() < self._began + LOOK_SECONDS:
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            if not look.done() and time.monotonic() >= self._began + LOOK_SECONDS:
                self._failed(f"it takes more than {LOOK_SECONDS:g} s")
        is_late = bool(self._problem) and time.monotonic() - self._broken_since > GRACE_SECONDS
        if is_late or not self._was_read:
            raise ProblemError(
                "credentials-unavailable",
                503,
                "The tokens of this server cannot be read, so nobody can be let in by one. Its log says why.",
                headers={"Retry-After": str(int(SECONDS))},
            )
        return self._known

    def check(self) -> None:
        """Read them now. Raises `SettingsError`."""
        if self._read is not None:
            self._succeeded(self._read())

    def _begin(self) -> Future[None]:
        """A look in a thread of its own; the one that is going on, if there is one."""
        with self._lock:
            if self._look is None or self._look.done():
                self._look, self._began = Future(), time.monotonic()
                Thread(target=self._run, args=(self._look,), name="celery-asynctask-tokens", daemon=True).start()
            return self._look

    def _run(self, look: Future[None]) -> None:
        assert self._read is not None
        try:
            self._succeeded(self._read())
        except SettingsError as exc:
            self._failed(str(exc))
        except Exception as exc:  # noqa: BLE001 - nobody looks at what this thread raises
            self._failed(repr(exc))
        finally:
            look.set_result(None)

    def _succeeded(self, tokens: Mapping[str, Token]) -> None:
        known = self._known if tokens is self._known.tokens else Known(tokens)
        with self._lock:
            was_broken, self._problem = bool(self._problem), ""
            self._known, self._was_read, self._until = known, True, time.monotonic() + SECONDS
        if was_broken:
            logger.warning("asynctask_tokens can be read again.")

    def _failed(self, problem: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._until = now + SECONDS
            self._broken_since = self._broken_since if self._problem else now
            is_new, self._problem = problem != self._problem, problem
        if is_new:
            logger.error(
                "asynctask_tokens cannot be read: %s. Those that were read last count for %d more seconds; then no "
                "token is accepted until this is mended.",
                problem.removesuffix("."),
                GRACE_SECONDS,
            )
