"""Who asks, for which customers, and with which rights.

Closed: without a token of `asynctask_tokens`, or what the function `asynctask_access` says, nothing is answered. Only
a server that listens to this host alone (`serve`) reads for whoever is on it, where nothing else is configured.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from kombu.utils.imports import symbol_by_name
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from celery_asynctask.core.rights import Right
from celery_asynctask.errors import SettingsError
from celery_asynctask.settings import Settings
from celery_asynctask.web.problem import ProblemError

Function = Callable[[Request], object]
"""`asynctask_access`: gives an `Access` or None, or a coroutine of that."""

_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of proxies: who sent the request is not on this host."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Access:
    """What a caller may see and do; also what the function `asynctask_access` returns."""

    customers: Set[int] | None = field(default_factory=frozenset)
    """Customers whose tasks are seen; None: all tasks, also those of no customer. By default none at all."""
    rights: Set[Right | str] = frozenset({Right.READ})
    """Of `Right`, or their names."""
    name: str = ""
    """Who it is: recorded with what the caller does."""

    def __post_init__(self) -> None:
        """Raises `TypeError` and `ValueError` for what is none of this: a slip here must not open anything."""
        customers = self.customers
        if customers is not None:
            if isinstance(customers, (str, bytes, Mapping)):
                raise TypeError(f"customers is a {type(customers).__name__}, and not None or a set of numbers")
            customers = frozenset(customers)
            if not all(isinstance(one, int) and not isinstance(one, bool) for one in customers):
                raise TypeError("customers are numbers")
        if not isinstance(self.rights, (set, frozenset, list, tuple)):
            raise TypeError(f"rights is a {type(self.rights).__name__}, and not a set of names")
        object.__setattr__(self, "customers", customers)
        object.__setattr__(self, "rights", frozenset(Right(one) for one in self.rights))
        if not isinstance(self.name, str):
            raise TypeError(f"name is a {type(self.name).__name__}, and not a str")

    def may(self, right: Right) -> bool:
        """Whether the caller has a right."""
        return right in self.rights


HERE: Final = Access(customers=None, rights=frozenset({Right.READ, Right.PAYLOADS}))
"""Of whoever is on this host, where no credentials are configured."""


def hashed(token: str) -> str:
    """A token as it is configured: SHA-256, in hex. Tokens are random, so nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class Gate:
    """Lets requests in."""

    def __init__(self, settings: Settings, *, loopback: bool = False) -> None:
        """``loopback``: the server listens to this host alone. Raises `SettingsError` for a function that is not
        there."""
        self._tokens = {
            name: (
                grant["sha256"].lower().encode(),
                Access(None if grant["customers"] == "*" else frozenset(grant["customers"]), grant["rights"], name),
            )
            for name, grant in (settings.tokens or {}).items()
        }
        self._function = _resolved(settings.access)
        self._open_here = loopback and not self.has_credentials

    @property
    def has_credentials(self) -> bool:
        """Whether tokens or a function are configured."""
        return bool(self._tokens) or self._function is not None

    @property
    def takes_tokens(self) -> bool:
        """Whether tokens are configured."""
        return bool(self._tokens)

    async def access(self, request: Request, kept: str | None = None) -> Access:
        """What a request may see and do, or who has the token ``kept``. Raises `ProblemError`, and whatever the user's
        function raises."""
        if self._function is not None and (found := await _asked(self._function, request)) is not None:
            return found
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" and kept and self.has_credentials:  # a proxy's own "Basic" is not for us
            scheme, token = "bearer", kept
        if scheme.lower() == "bearer" and token:
            if (holder := self.holder(token.strip())) is not None:
                return holder
        elif self._open_here:
            return _here(request)
        raise ProblemError(
            "unauthenticated", 401, self._remedy(bool(token)), headers={"WWW-Authenticate": 'Bearer realm="asynctask"'}
        )

    def holder(self, token: str) -> Access | None:
        """What whoever has a token may see and do; None: nobody has it."""
        digest = hashed(token).encode()
        return next((access for known, access in self._tokens.values() if hmac.compare_digest(known, digest)), None)

    def _remedy(self, given: bool) -> str:
        if not self.has_credentials:
            return "This server has no credentials yet: set asynctask_tokens (`celery asynctask token` makes one)."
        if given:
            return "The token is not known here."
        if not self._tokens:
            return "Who asks is not known: asynctask_access has not let this request in."
        return "Send a token: Authorization: Bearer …"


async def _asked(function: Function, request: Request) -> Access | None:
    if inspect.iscoroutinefunction(function):
        found = await function(request)
    else:
        found = await run_in_threadpool(function, request)
    if found is not None and not isinstance(found, Access):
        raise TypeError(f"asynctask_access returned a {type(found).__name__}, and not an Access or None")
    return found


def _here(request: Request) -> Access:
    """A browser on this host may be sent here by a page from elsewhere, whose name then stands in Host; and a proxy on
    it passes on what comes from outside: one that says so, or speaks HTTP/1.0, as nginx did until 1.29."""
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if (
        name.lower() not in _LOOPBACK
        or any(one in request.headers for one in _FORWARDED)
        or request.scope["http_version"] == "1.0"
    ):
        raise ProblemError(
            "forbidden",
            403,
            "Without credentials this server answers requests of its own host alone, by the name localhost. Set "
            "asynctask_tokens (`celery asynctask token` makes one).",
        )
    return HERE


def _resolved(function: Function | str | None) -> Function | None:
    if function is None:
        return None
    try:
        found: Function = symbol_by_name(function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise SettingsError(f"Setting 'asynctask_access' names {function!r}, which cannot be imported: {exc}.") from exc
    return found
