"""The audit: who did what, from where, and how it ended. Entries are inserted and never changed.

What takes a while and changes something, or hands tasks out, has two entries with one `Entry.operation`: ``begun``
before anything is done, and another once it has ended. Without the first one nothing is done. If only that one is
there, the process was killed, or lost the database.
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from celery_asynctask.core.accounting import listed
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.text import one_line, rfc3339
from celery_asynctask.core.time import now, time_of
from celery_asynctask.errors import AuditError, SettingsError, StoreError
from celery_asynctask.operations.rerun import is_elsewhere
from celery_asynctask.operations.retention import Rule, as_written
from celery_asynctask.operations.session import Writer, bounded
from celery_asynctask.queries.reader import look_for_file
from celery_asynctask.queries.scope import ALL, Scope
from celery_asynctask.queries.search.filter import ANY, Filter, Term, Value, quoted
from celery_asynctask.queries.search.keys import JSON_KEYS, KEYS, duration
from celery_asynctask.settings import Settings
from celery_asynctask.store.tables import async_task_audit

MAX_TEXT: Final = 2000
"""Characters of a target or a detail."""
MAX_NAME: Final = 255
"""Characters of an actor or an origin."""
BATCH: Final = 1000
"""Entries that are deleted in one transaction."""
_HIDDEN: Final = JSON_KEYS | {"message"}
"""Keys of a search whose values may be secret."""
_STOPPED: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, BrokenPipeError)

logger = logger_of("celery_asynctask.audit")


class Action(str, enum.Enum):
    """What was done."""

    SIGN_IN = "sign-in"
    SIGN_OUT = "sign-out"
    RERUN = "rerun"
    PURGE = "purge"
    ERASE = "erase"
    EXPORT = "export"
    REPLAY = "replay"
    """Of events in quarantine, as `DROP`."""
    DROP = "drop"
    ACCEPT = "accept"
    """That something will never be known, or that another database has the record."""


class Outcome(str, enum.Enum):
    """How it ended."""

    BEGUN = "begun"
    """Not yet: another entry of the operation says how."""
    DONE = "done"
    REFUSED = "refused"
    """Nothing was done: the caller has not the right, or the task cannot be rerun."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """By a person, or by the end of the process or of the pipe that it wrote to."""


class Entry(NamedTuple):
    """One action."""

    action: Action
    actor: str
    """Who: the name of a token or of an `Access`, or the user of the operating system."""
    origin: str
    """From where: an address, or ``command line of HOST``."""
    target: str | None = None
    """To what: a task id, a search, a customer."""
    outcome: Outcome = Outcome.DONE
    detail: str | None = None
    """More in words, such as numbers and reasons."""
    operation: str | None = None
    """What its entries have in common: random."""


class Operation:
    """An action under way. What is set here stands in the entry of its end."""

    outcome: Outcome = Outcome.DONE
    detail: str = ""


class Audit:
    """Writes entries; shared by threads. Those about another record than the app's own go into its own, and name the
    other one. Where that is not possible, they are only logged, and that is said."""

    def __init__(self, settings: Settings, app: Any = None, say: Callable[[str], None] = logger.warning) -> None:
        """``settings`` are those of the record that is worked on, ``app`` is the Celery app. Raises `SettingsError`."""
        self.is_elsewhere = app is not None and is_elsewhere(app, settings)
        """Whether the record is not the app's own."""
        self._where = f" in {settings.absolute_url}" if self.is_elsewhere else ""
        self._say = say
        own = Settings.from_app(app) if self.is_elsewhere else settings
        self._writer = Writer(bounded(own))

    def write(self, entry: Entry) -> None:
        """Store an entry, with the present time, and log it. Raises `AuditError`."""
        entry = _fitted(entry._replace(target=f"{entry.target or ''}{self._where}".strip() or None))
        try:
            self._store(entry)
        except StoreError as exc:
            if not self.is_elsewhere:
                raise AuditError(f"The audit cannot be written. {exc.problem}", exc.remedy) from exc
            self._say(f"The audit of the app's own record has no entry of this: {exc} It is logged: {_line(entry)}")
        logger.info("%s", _line(entry))

    @contextmanager
    def operation(self, entry: Entry) -> Iterator[Operation]:
        """Store an entry before what is done inside, and another of its end. Raises `AuditError`: nothing was done.

        If the entry of the end cannot be stored, that is logged as an error."""
        entry = entry._replace(operation=secrets.token_hex(8))
        try:
            self.write(entry._replace(outcome=Outcome.BEGUN))
        except AuditError as exc:
            raise AuditError(f"Not done, for every {entry.action.value} is audited. {exc.problem}", exc.remedy) from exc
        operation = Operation()
        try:
            yield operation
        except BaseException as exc:
            operation.outcome = Outcome.INTERRUPTED if isinstance(exc, _STOPPED) else Outcome.FAILED
            # Without its text, which may quote values. A `ProblemError` has a kind.
            kind = getattr(exc, "kind", type(exc).__name__)
            operation.detail = f"{operation.detail}; {kind}" if operation.detail else kind
            raise
        finally:
            end = entry._replace(outcome=operation.outcome, detail=operation.detail or entry.detail)
            try:
                self.write(end)
            except AuditError as exc:
                logger.log(logging.ERROR, "The audit does not say how this ended: %s. %s", _line(end), exc)

    def close(self) -> None:
        """Give the connections back."""
        self._writer.close()

    def _store(self, entry: Entry) -> None:
        """Raises `StoreError`."""
        look_for_file(self._writer.settings.url)
        values = {**entry._asdict(), "at": time_of(now()), "action": entry.action.value, "outcome": entry.outcome.value}
        try:
            self._insert(values)
        except (StoreError, UnicodeError):
            texts = {name: text for name, text in values.items() if isinstance(text, str) and not text.isascii()}
            if not texts:
                raise
            # The encoding of the database may lack these characters.
            self._insert({**values, **{name: ascii(text)[1:-1] for name, text in texts.items()}})

    def _insert(self, values: dict[str, Any]) -> None:
        with self._writer.connection() as connection, connection.begin():
            connection.execute(insert(async_task_audit).inline().values(values))


class Retention:
    """Deletes entries that are older than an age."""

    def __init__(self, writer: Writer, age: dt.timedelta, at: dt.datetime) -> None:
        self._writer = writer
        self._old = async_task_audit.c.at < at - age

    def count(self) -> int:
        """The entries that are to be deleted. Raises `StoreError`."""
        return int(self._writer.read(select(func.count()).where(self._old))[0][0])

    def run(self) -> int:
        """Delete them in batches; returns their number. Raises `StoreError`."""
        deleted = 0
        ids = select(async_task_audit.c.id).where(self._old).order_by(async_task_audit.c.at).limit(BATCH)
        while batch := [row.id for row in self._writer.read(ids)]:
            deleted += self._writer.batch(partial(_delete, batch))
        return deleted


def retention(settings: Settings) -> dt.timedelta | None:
    """How long entries are kept; None: forever. Raises `SettingsError`."""
    age = settings.audit_retention
    try:
        return None if age is None else duration(age)
    except ValueError as exc:
        raise SettingsError(f"Setting 'asynctask_audit_retention' has the age {age!r}; it must be {exc}.") from None


def search_target(search: Filter) -> str:
    """A search as the target of an entry, ``*`` for all tasks: without the values that may be secret."""
    return " ".join(map(_term, search.terms)) or ANY


def purge_target(rules: Sequence[Rule], *, unfinished: bool, scope: Scope = ALL) -> str:
    """What a purge by these rules deletes in a scope, as the target of an entry."""
    parts = [
        f"{search_target(rule.search)} {'stay' if rule.age is None else f'older than {as_written(rule.age)}'}"
        for rule in rules
    ]
    owners = {"customers": scope.customers, "creators": scope.creators}
    whose = [f"; of {name} {listed(sorted(keys), 20) or 'none'}" for name, keys in owners.items() if keys is not None]
    return f"{', '.join(parts)}{'; unfinished ones too' if unfinished else ''}{''.join(whose)}"


def _delete(ids: Sequence[int], connection: Connection) -> int:
    return connection.execute(delete(async_task_audit).where(async_task_audit.c.id.in_(ids))).rowcount


def _term(term: Term) -> str:
    key = ".".join((f"-{term.key}" if term.negated else term.key, *term.path))
    return f"{key}:{'…' if term.key in _HIDDEN else ','.join(_value(term.key, value) for value in term.values)}"


def _value(key: str, value: Value) -> str:
    match value.operator:
        case "none":
            return "none"
        case "any":
            return ANY
        case "..":
            return f"{_operand(value.value)}..{_operand(value.high)}"
        case operator:
            return f"{'' if operator == KEYS[key].operator else operator}{_operand(value.value)}"


def _operand(value: object) -> str:
    if isinstance(value, dt.datetime):
        return rfc3339(value).replace(".000000", "")
    if isinstance(value, dt.timedelta):
        return as_written(value)
    text = str(value)
    return quoted(text) if any(char.isspace() or char in ',"' for char in text) else text


def _fitted(entry: Entry) -> Entry:
    """With texts on one line, without control characters, as long as the columns are."""
    target, detail = (None if text is None else one_line(text)[:MAX_TEXT] for text in (entry.target, entry.detail))
    actor, origin = (one_line(text)[:MAX_NAME] for text in (entry.actor, entry.origin))
    return entry._replace(actor=actor, origin=origin, target=target, detail=detail)


def _line(entry: Entry) -> str:
    """An entry as a line of the log."""
    entry = _fitted(entry)
    parts = (entry.target, entry.detail, entry.operation and f"operation {entry.operation}")
    said = "; ".join(part for part in parts if part)
    return f"{entry.action.value} {entry.outcome.value} by {entry.actor!r} from {entry.origin!r}{said and f': {said}'}"
