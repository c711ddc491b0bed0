"""What all requests of a server share, settings and the database; and the caller of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from celery_asynctask.core.ids import key_of
from celery_asynctask.core.rights import Right
from celery_asynctask.errors import AuditError, logger
from celery_asynctask.operations.audit import Action, Audit, Entry, Outcome
from celery_asynctask.operations.rerun import is_elsewhere
from celery_asynctask.queries.reader import Parts, Reader
from celery_asynctask.queries.search.filter import Term
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.web.access import Access
from celery_asynctask.web.answer import Answers
from celery_asynctask.web.authenticator import Authenticator
from celery_asynctask.web.health import Health, health
from celery_asynctask.web.memory import RecentReruns, Refusals, SingleFlightCache
from celery_asynctask.web.origin import share
from celery_asynctask.web.parameters import in_errors, in_values
from celery_asynctask.web.problem import ProblemError, invalid
from celery_asynctask.web.share import Rate, Rates, Shares

T = TypeVar("T")

QUERY_SECONDS: Final = 10
"""How long a query may take before the database stops it."""
THREADS: Final = 6
"""Queries at a time. With more, one Python process would not answer faster."""
MAX_WAITING: Final = 200
"""Requests that may wait for one of the threads."""
OWN_THREADS: Final = THREADS - 2
"""Queries of one caller at a time: the other threads are always for others."""
OWN_WAITING: Final = 50
"""Requests of one caller that may wait."""
KEPT_SECONDS: Final = 5.0
"""How long a `Health` is kept."""
_POOL: Final = {"pool_size": THREADS, "max_overflow": THREADS, "pool_timeout": 5}
"""Connections are kept: to open one takes longer than most queries."""
_ACTIONS: Final = {Right.RERUN: Action.RERUN, Right.PURGE: Action.PURGE}
"""Actions that are audited, by the right that they need."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Service:
    """What the requests of one ASGI application share."""

    def __init__(
        self,
        celery: Any,
        settings: Settings,
        *,
        loopback: bool = False,
        local: bool = False,
        from_elsewhere: bool = False,
    ) -> None:
        """``loopback`` and ``local`` as in `Authenticator`, ``from_elsewhere`` as in `operations.rerun.Options`. Raises
        `SettingsError`."""
        self.celery = celery
        self.settings = settings
        self.from_elsewhere = from_elsewhere
        self.audit = Audit(settings, celery)
        self.authenticator = Authenticator(settings, self.audit, lambda: self.reader, loopback=loopback, local=local)
        self.refusals = Refusals()
        self.answers = Answers()
        self.sent = RecentReruns()
        self.health: SingleFlightCache[Health] = SingleFlightCache()
        options = engine_options(settings.engine_options, **_POOL)
        self._reader = Reader(settings.url, options, seconds=QUERY_SECONDS)
        self.rates = Rates()
        self._shares = Shares(OWN_THREADS, OWN_WAITING)
        self._checked = False
        self._requests = 0

    async def run(self, work: Callable[[], T], caller: Hashable) -> T:
        """Run ``work``, which queries the database for a caller, in a thread; in one of our own, because a host
        application needs its threads. Raises `ProblemError` where too many requests wait, of all callers or of this
        one, and what ``work`` raises."""
        if self._requests >= THREADS + MAX_WAITING:
            detail = f"{MAX_WAITING} requests are waiting for the database. Send fewer requests, and try again."
            raise ProblemError("busy", 503, detail, headers={"Retry-After": "1"})
        self._requests += 1
        try:
            with self._shares.of(caller) as turn:
                async with turn:
                    return await to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._requests -= 1

    @cached_property
    def is_elsewhere(self) -> bool:
        """Whether the record is another one than the app's own. Raises `SettingsError`."""
        return is_elsewhere(self.celery, self.settings)

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

    def refused(self, entry: Entry) -> None:
        """Audit an action that was refused, where `counted` does not leave it out. What cannot be audited is logged."""
        if (counted := self.counted(entry)) is not None:
            self.audit_refusal(counted)

    def counted(self, entry: Entry) -> Entry | None:
        """The entry of an action that was refused, with the number of those of its actor in this minute; None: there
        were so many that this one is left out."""
        count = self.refusals.count((entry.actor, entry.action))
        if count is None:
            return None
        number = f" ({count} in a minute)" if count > 1 else ""
        return entry._replace(outcome=Outcome.REFUSED, detail=f"{entry.detail or ''}{number}".strip())

    def audit_refusal(self, entry: Entry) -> None:
        """Write an entry that `counted` gave; in a thread."""
        try:
            self.audit.write(entry)
        except AuditError as exc:
            logger.error("%s", exc)

    def close(self) -> None:
        """Close the connections."""
        self.authenticator.close()
        self._reader.close()
        self.audit.close()


class Caller:
    """The caller of a request. Its `reader` is the only way to a task, and sees the caller's scope alone."""

    def __init__(self, access: Access, service: Service, origin: str = "") -> None:
        self.access = access
        self.service = service
        self.origin = origin
        """The address that the request comes from; empty: not known."""
        self.now = dt.datetime.now(dt.timezone.utc)

    @cached_property
    def reader(self) -> Reader:
        """The database, scoped to the caller's customers and creators. Raises `StoreError`."""
        return self.service.reader.scoped(self.access.scope)

    @property
    def who(self) -> Hashable:
        """What distinguishes the caller from others, as far as is known."""
        return (self.access.name or share(self.origin), self.access.scope)

    async def run(self, work: Callable[[], T]) -> T:
        """As `Service.run`, for this caller."""
        return await self.service.run(work, self.who)

    def take(self, rate: Rate) -> None:
        """Count one towards a rate of the caller. Raises `ProblemError` if it must wait."""
        self.service.rates.take(rate, self.who)

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

    @property
    def errors(self) -> bool:
        """Whether the caller may see error messages and tracebacks."""
        return self.access.may(Right.ERRORS)

    @property
    def parts(self) -> Parts:
        """What the caller may see of a task."""
        return Parts(values=self.payloads, errors=self.errors)

    def may_search(self, terms: Collection[Term]) -> None:
        """Raises `ProblemError` for terms that search in what the caller may not see: the answers would reveal it."""
        for right, is_in in ((Right.PAYLOADS, in_values), (Right.ERRORS, in_errors)):
            if is_in(terms):
                self.need(right, "search")

    @property
    def actor(self) -> str:
        """The caller in the audit."""
        return self.access.name or "(no name)"

    def entry(self, action: Action, target: str | None = None, detail: str | None = None) -> Entry:
        """An entry of the audit, about an action of the caller."""
        return Entry(action, self.actor, self.origin, target, detail=detail)

    @property
    def sees_all(self) -> bool:
        """Whether the caller sees the tasks of all customers and creators, and so what belongs to none."""
        return self.access.scope.is_all

    def health(self) -> Health:
        """The ledger and the journal of this host, `KEPT_SECONDS` old at most. Raises `ProblemError` for callers who do
        not see all tasks, and `StoreError`."""
        if not self.sees_all:
            raise ProblemError(
                "forbidden",
                403,
                "Events belong to processes, not to customers: only callers who see all tasks see them.",
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
    origin = service.authenticator.origins.address(request)
    caller = Caller(await service.authenticator.access(request, kept), service, origin)
    try:
        for right in rights:
            caller.need(right)
        if request.method not in _SAFE:
            same_site(request)
    except ProblemError as exc:
        if request.method not in _SAFE and (action := next(filter(None, map(_ACTIONS.get, rights)), None)):
            task = next(iter(request.path_params.values()), None)  # its Celery id, or the number of its row
            entry = service.counted(caller.entry(action, task, exc.kind))
            if entry is not None:
                await caller.run(partial(service.audit_refusal, entry))
        raise
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
        # Behind a proxy that speaks TLS, the browser's address has another scheme than what comes here.
        is_https = request.app.state.asynctask.authenticator.origins.is_https(request)
        schemes = ("https",) if is_https else ("https", "http")
        host = request.headers.get("host")
        refused = origin is not None and not (host and origin in [f"{scheme}://{host}" for scheme in schemes])
    else:
        refused = site not in ("same-origin", "none")
    if refused:
        raise ProblemError(
            "cross-site",
            403,
            "This request comes from a page of another site. Use a page of this server, or no browser.",
        )
