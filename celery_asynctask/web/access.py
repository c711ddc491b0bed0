"""Who sends a request, and what they may see and do.

Closed by default: a request needs a token of `asynctask_tokens`, or the consent of the function `asynctask_access`.
Only where neither is configured, a server that listens to this host alone (`serve`) lets everybody on the host read.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from fastapi import Request
from kombu.utils.imports import symbol_by_name
from starlette.concurrency import run_in_threadpool

from celery_asynctask.core.ids import Id, keys_of
from celery_asynctask.core.rights import Right, hashed
from celery_asynctask.errors import SettingsError
from celery_asynctask.settings import Settings
from celery_asynctask.web.problem import ProblemError

Function = Callable[[Request], object]
"""`asynctask_access`: returns an `Access` or None, or a coroutine of that."""

_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of proxies: the request may come from another host."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Access:
    """What a caller may see and do. The function `asynctask_access` returns one, or None for an unknown caller."""

    customers: Set[Id] | None = field(default_factory=frozenset)
    """Ids of the customers whose tasks the caller sees (numbers, UUIDs or texts), kept as their texts; None: all tasks,
    also those without a customer. By default no tasks."""
    rights: Set[Right | str] = frozenset({Right.READ})
    """Members of `Right`, or their names."""
    name: str = ""
    """Name of the caller, recorded with reruns and logged with purges."""

    def __post_init__(self) -> None:
        """Raises `TypeError` and `ValueError` for wrong values: a slip must not grant anything."""
        customers = self.customers
        if customers is not None:
            if isinstance(customers, (str, bytes, Mapping)):
                raise TypeError(f"customers must be None or a set of ids, not a {type(customers).__name__}")
            try:
                customers = keys_of(customers)
            except ValueError as exc:
                raise TypeError(f"customers must be ids, each {exc}") from None
        if not isinstance(self.rights, (set, frozenset, list, tuple)):
            raise TypeError(f"rights must be a set of names, not a {type(self.rights).__name__}")
        object.__setattr__(self, "customers", customers)
        object.__setattr__(self, "rights", frozenset(Right(right) for right in self.rights))
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not a {type(self.name).__name__}")

    def may(self, right: Right) -> bool:
        """Whether the caller has a right."""
        return right in self.rights


class Authenticator:
    """Finds the `Access` of a request."""

    def __init__(self, settings: Settings, *, loopback: bool = False) -> None:
        """``loopback``: the server listens to this host alone. Raises `SettingsError` for a function that cannot be
        imported."""
        self._tokens = {
            name: (
                grant["sha256"].lower().encode(),
                Access(None if grant["customers"] == "*" else frozenset(grant["customers"]), grant["rights"], name),
            )
            for name, grant in (settings.tokens or {}).items()
        }
        try:
            self._function: Function | None = symbol_by_name(settings.access)
        except (ImportError, AttributeError, ValueError) as exc:
            raise SettingsError(
                f"Setting 'asynctask_access' names {settings.access!r}, which cannot be imported: {exc}. Correct "
                "the name, or run this where it can be imported."
            ) from exc
        self.is_open = loopback and not self.has_credentials
        """Whether everybody on this host may read."""

    @property
    def has_credentials(self) -> bool:
        """Whether tokens or a function are configured."""
        return bool(self._tokens) or self._function is not None

    @property
    def takes_tokens(self) -> bool:
        """Whether tokens are configured."""
        return bool(self._tokens)

    @property
    def has_function(self) -> bool:
        """Whether the function `asynctask_access` is configured."""
        return self._function is not None

    async def access(self, request: Request, kept: str | None = None) -> Access:
        """What a request may see and do; ``kept`` is a token from a cookie. Raises `ProblemError`, and whatever the
        user's function raises."""
        if self._function is not None and (access := await _call(self._function, request)) is not None:
            return access
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" and kept and self.has_credentials:  # "Basic" is for a proxy
            scheme, token = "bearer", kept
        if scheme.lower() == "bearer" and token:
            if (holder := self.holder(token.strip())) is not None:
                return holder
        elif self.is_open:
            return _here(request)
        raise ProblemError(
            "unauthenticated", 401, self._remedy(bool(token)), headers={"WWW-Authenticate": 'Bearer realm="asynctask"'}
        )

    def holder(self, token: str) -> Access | None:
        """What the holder of a token may see and do; None: the token is unknown."""
        digest = hashed(token).encode()
        return next((access for known, access in self._tokens.values() if hmac.compare_digest(known, digest)), None)

    def _remedy(self, given: bool) -> str:
        if not self.has_credentials:
            return (
                "This server has no credentials yet: set asynctask_tokens (`celery -A APP asynctask token` "
                "creates one)."
            )
        if given:
            return "Invalid token. Ask the operator of this server for another."
        if not self._tokens:
            return (
                "asynctask_access does not know who sends this request. Log in to the application that this server "
                "belongs to, then try again."
            )
        return "No token. Send one: Authorization: Bearer …"


async def _call(function: Function, request: Request) -> Access | None:
    if inspect.iscoroutinefunction(function):
        access = await function(request)
    else:
        access = await run_in_threadpool(function, request)
    if access is not None and not isinstance(access, Access):
        raise TypeError(f"asynctask_access must return an Access or None, not a {type(access).__name__}")
    return access


def _here(request: Request) -> Access:
    """The access of everybody on this host, where no credentials are configured. Two kinds of requests only seem to
    come from here: a page of another site may send a browser here by a name of its own, which is in Host then; and a
    proxy passes on requests from outside, with its headers or in HTTP/1.0, as nginx did until 1.29."""
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if (
        name.lower() not in _LOOPBACK
        or any(header in request.headers for header in _FORWARDED)
        or request.scope["http_version"] == "1.0"
    ):
        raise ProblemError(
            "forbidden",
            403,
            "Without credentials this server answers only requests from its own host, to the name localhost. Set "
            "asynctask_tokens (`celery -A APP asynctask token` creates one).",
        )
    return Access(customers=None, rights=frozenset({Right.READ, Right.PAYLOADS}))
