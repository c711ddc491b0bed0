"""The callers of a server, with their customers and rights; and what all requests share: settings and the database.

Closed by default: a request needs a token of `asynctask_tokens`, or the consent of the function `asynctask_access`.
Only where neither is configured, a server that listens to this host alone (`serve`) lets everybody on the host read.
"""

from __future__ import annotations

import datetime as dt
import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from kombu.utils.imports import symbol_by_name
from starlette.concurrency import run_in_threadpool

from celery_asynctask.core.ids import Id, key_of, keys_of
from celery_asynctask.core.rights import Right, hashed
from celery_asynctask.errors import SettingsError
from celery_asynctask.queries.reader import Reader
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.web.answer import Answers
from celery_asynctask.web.health import Health, health
from celery_asynctask.web.memory import RecentReruns, SingleFlightCache
from celery_asynctask.web.problem import ProblemError, invalid

T = TypeVar("T")

QUERY_SECONDS: Final = 10
"""How long a query may take before the database stops it."""
THREADS: Final = 6
"""Queries at a time. With more, one Python process would not answer faster."""
MAX_WAITING: Final = 200
"""Requests that may wait for one of the threads."""
KEPT_SECONDS: Final = 5.0
"""How long a `Health` is kept."""
_POOL: Final = {"pool_size": THREADS, "max_overflow": THREADS, "pool_timeout": 5}
"""Connections are kept: to open one takes longer than most queries."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

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


class Service:
    """What the requests of one ASGI application share."""

    def __init__(self, celery: Any, settings: Settings, *, loopback: bool = False) -> None:
        """``loopback`` as in `Authenticator`. Raises `SettingsError`."""
        self.celery = celery
        self.settings = settings
        self.authenticator = Authenticator(settings, loopback=loopback)
        self.answers = Answers()
        self.sent = RecentReruns()
        self.health: SingleFlightCache[Health] = SingleFlightCache()
        options = engine_options(settings.engine_options, **_POOL)
        self._reader = Reader(settings.url, options, seconds=QUERY_SECONDS)
        self._checked = False
        self._requests = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work``, which queries the database, in a thread; in one of our own, because a host application needs
        its threads. Raises `ProblemError` where too many requests wait, and what ``work`` raises."""
        if self._requests >= THREADS + MAX_WAITING:
            detail = f"{MAX_WAITING} requests are waiting for the database. Send fewer requests, and try again."
            raise ProblemError("busy", 503, detail, headers={"Retry-After": "1"})
        self._requests += 1
        try:
            return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._requests -= 1

    @cached_property
    def _threads(self) -> CapacityLimiter:
        return CapacityLimiter(THREADS)

    @property
    def reader(self) -> Reader:
        """The database, once its schema was checked. Raises `StoreError`."""
        if not self._checked:
            self._reader.check_schema()  # without a lock: threads must not wait for each other if the database is away
            self._checked = True
        return self._reader

    def close(self) -> None:
        """Close the connections."""
        self._reader.close()


class Caller:
    """The caller of a request. Its `reader` is the only way to a task, and sees the caller's customers alone."""

    def __init__(self, access: Access, service: Service) -> None:
        self.access = access
        self.service = service
        self.now = dt.datetime.now(dt.timezone.utc)

    @cached_property
    def reader(self) -> Reader:
        """The database, scoped to the caller's customers. Raises `StoreError`."""
        return self.service.reader.scoped(self.access.customers)

    def whose(self, customer: str | None) -> Reader:
        """The database, scoped to the tasks of one customer, by its key (empty: none), as far as the caller may see
        them; None: to all that it may see. Raises `ProblemError` for a text that is no key, and `StoreError`."""
        if customer:
            try:
                key_of(customer)
            except ValueError as exc:
                raise invalid("customer", f"customer must be {exc}; or empty.") from None
        return self.reader.narrowed(customer)

    @property
    def this_minute(self) -> dt.datetime:
        """The end of this minute: the same for all requests within it, so that their answers can be too."""
        return self.now.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)

    @property
    def payloads(self) -> bool:
        """Whether the caller may see the values of tasks."""
        return self.access.may(Right.PAYLOADS)

    def health(self) -> Health:
        """The ledger and the journal of this host, `KEPT_SECONDS` old at most. Raises `ProblemError` for callers who do
        not see all customers, and `StoreError`."""
        if self.access.customers is not None:
            raise ProblemError(
                "forbidden",
                403,
                "Events belong to processes, not to customers: only callers who see all customers see them.",
            )
        make = partial(health, self.reader, self.service.settings.directory)
        return self.service.health.get(make, KEPT_SECONDS)

    def need(self, right: Right, parameter: str | None = None) -> None:
        """Raises `ProblemError` unless the caller has the right; ``parameter`` is what needs it."""
        if not self.access.may(right):
            what = f"{parameter} needs" if parameter else "This needs"
            detail = f"{what} the right {right.value!r}. The operator of this server can grant it."
            raise ProblemError("forbidden", 403, detail, parameter=parameter)


async def caller_of(request: Request, *rights: Right, kept: str | None = None) -> Caller:
    """The caller of a request, with all these rights; ``kept`` as in `Authenticator.access`. Raises `ProblemError`."""
    service: Service = request.app.state.asynctask
    caller = Caller(await service.authenticator.access(request, kept), service)
    for right in rights:
        caller.need(right)
    if request.method not in _SAFE:
        same_site(request)
    return caller


def needing(right: Right, *parameters: str) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency of operations whose query has these ``parameters`` at most: the caller, with the right.
    `http.tasks.ReadingRoute` finds the caller itself; there it is for the document alone. Raises `ProblemError`."""

    async def dependency(request: Request) -> Caller:
        caller = await caller_of(request, right)
        query_of(request, dict.fromkeys(parameters, False))
        return caller

    return dependency


def query_of(request: Request, known: Mapping[str, bool]) -> dict[str, str | list[str]]:
    """The parameters of a request's query. ``known``: those of the operation, and whether each is a list. Raises
    `ProblemError` for others, and for one that is given more than once and is not a list."""
    given = request.query_params
    for name in given:
        if name not in known:
            options = f"Allowed: {', '.join(known)}." if known else "This operation has none."
            raise invalid(name[:80], f"Unknown parameter {name[:80]!r}. {options}")
        if not known[name] and len(given.getlist(name)) > 1:
            raise invalid(name, f"The parameter {name} was given more than once. Give it once.")
    return {name: given.getlist(name) if known[name] else given[name] for name in given}


def same_site(request: Request) -> None:
    """Raises `ProblemError` for an action that a page of another site sends: browsers let any page post a form here,
    with the cookies that the function `asynctask_access` may read."""
    site = request.headers.get("sec-fetch-site")
    if site is None:  # no browser, or an old one. Only then Host counts: a proxy may change it
        origin = request.headers.get("origin")
        refused = origin is not None and origin.partition("://")[2] != request.headers.get("host", "")
    else:
        refused = site not in ("same-origin", "none")
    if refused:
        raise ProblemError(
            "cross-site",
            403,
            "This request comes from a page of another site. Use a page of this server, or no browser.",
        )
