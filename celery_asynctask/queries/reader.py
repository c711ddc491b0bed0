"""`Reader`: the database for those who only look, with a bound on time and on what they may see, and the columns of
tasks that it reads."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Select, event, select
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, defer

from celery_asynctask.core import columns
from celery_asynctask.core.url import parse
from celery_asynctask.errors import NoTablesError, StoreError
from celery_asynctask.settings import engine_options
from celery_asynctask.store import tables
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_revision

QUERY_SECONDS: Final = 30
"""How long a query may take before the database stops it."""
CONNECT_SECONDS: Final = 5
_REST_SECONDS: Final = 1.0
"""After which a connection is asked whether it stands before it is used."""
_ALONE: Final = "celery_asynctask_alone"
"""Execution option of connections whose statements are in no transaction."""
_RESTS_SINCE: Final = "celery_asynctask.rests_since"
_INSTRUCTIONS: Final = 100_000
"""Of SQLite's machine, between two looks at the clock: about a millisecond."""

TASK_COLUMNS: Final = tuple(one.name for one in columns.TASK if one.api is not None)
"""Columns of a task that are shown."""
ATTEMPT_COLUMNS: Final = ("attempt", *(one.name for one in columns.ATTEMPT if one.api is not None))
"""As `TASK_COLUMNS`, of an attempt; the first is its number, which is counted."""
WITHOUT_VALUES: Final = tuple(defer(getattr(AsyncTask, name)) for name in columns.VALUES)
"""Options of a SELECT of whole tasks that leaves their values unread."""
_TASKS: Final = AsyncTask.__table__.c
"""In place of the attributes of `AsyncTask`, each of which SQLAlchemy compares with that of the statement that it has
compiled, at every execution."""


class Reader:
    """Reads one store. What it selects of tasks is what ``customers`` may see; None: everything."""

    def __init__(
        self,
        url: str,
        engine_options: Mapping[str, Any] | None = None,
        *,
        customers: Collection[int] | None = None,
        seconds: float = QUERY_SECONDS,
    ) -> None:
        self.url = url
        self.shown_url = parse(url).shown
        self.customers = None if customers is None else frozenset(customers)
        self._options = dict(engine_options or {})
        self._seconds = seconds

    @cached_property
    def engine(self) -> Engine:
        """Raises `StoreError` for a URL that SQLAlchemy cannot use, and for an SQLite file that is not there."""
        options = engine_options(self._options)
        backend = parse(self.url).backend
        if backend == "sqlite":
            _look_for_file(self.url)
        else:
            options["connect_args"] = {**_connect_bound(self.url, self._seconds), **options.get("connect_args", {})}
            if backend == "postgresql":
                options["isolation_level"] = "AUTOCOMMIT"  # `_begin_bounded` begins transactions
        try:
            engine = sa.create_engine(self.url, **options)
        except (ArgumentError, NoSuchModuleError, ImportError, TypeError) as exc:
            raise StoreError(f"The database {self.shown_url} cannot be used: {exc}.") from exc
        event.listen(engine, "connect", self._bound)
        event.listen(engine, "checkin", _note_rest)
        event.listen(engine, "checkout", partial(_ping_after_a_rest, engine))
        if backend == "postgresql":
            event.listen(engine, "begin", self._begin_bounded)
            event.listen(engine, "rollback", _roll_back)
        if backend == "sqlite":
            event.listen(engine, "begin", _begin)
            event.listen(engine, "before_cursor_execute", self._bound_statement)
        return engine

    def scoped(self, customers: Collection[int] | None) -> Reader:
        """A reader of what these customers may see, with the same connections. Raises `StoreError` as `engine`."""
        _ = self._alone  # before it is copied, so that there is one, of one `engine`
        found = copy(self)
        found.customers = None if customers is None else frozenset(customers)
        return found

    def _bound(self, connection: Any, _record: object) -> None:
        """Let no query of this connection write, or take longer than it may, and its transactions see one state."""
        seconds = self._seconds
        if self.engine.dialect.name == "sqlite":
            connection.isolation_level = None  # else sqlite3 begins no transaction for what only reads; see `_begin`
        statements = {
            "postgresql": [],  # `_begin_bounded`
            "sqlite": ["PRAGMA query_only = ON", f"PRAGMA busy_timeout = {int(seconds * 1000)}"],
        }.get(self.engine.dialect.name, ["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"])
        if getattr(self.engine.dialect, "is_mariadb", False):
            statements.append(f"SET SESSION max_statement_time = {seconds}")
        elif self.engine.dialect.name == "mysql":
            statements.append(f"SET SESSION max_execution_time = {int(seconds * 1000)}")
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    def _begin_bounded(self, connection: Connection) -> None:
        """All for this transaction and nothing for the session: behind PgBouncer, others get the same one after us. One
        message, where the driver's own BEGIN would be one more. Statements are planned for the very values: a plan that
        serves the most frequent name takes many times as long for one that is rare."""
        if not connection.get_execution_options().get(_ALONE):
            connection.exec_driver_sql(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
                f"SET LOCAL statement_timeout = {int(self._seconds * 1000)}; "
                "SET LOCAL plan_cache_mode = force_custom_plan"
            )

    def _bound_statement(self, connection: Connection, *_: Any) -> None:
        """SQLite stops what the handler tells it to: here, what it has begun so many seconds ago."""
        deadline = time.monotonic() + self._seconds
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect."""
        return self.engine.dialect.name

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that reads one consistent state. Raises `StoreError` for whatever the database refuses."""
        with self._guarded(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def connection(self, *, consistent: bool = True) -> Iterator[Connection]:
        """As `session`, for those who select columns alone: it costs less. If not ``consistent``, each statement may
        read a later state, and on PostgreSQL nothing stops it: for what a unique index finds, which is asked for once
        in place of three times."""
        with self._guarded(), (self.engine if consistent else self._alone).connect() as connection:
            yield connection

    @cached_property
    def _alone(self) -> Engine:
        return self.engine.execution_options(**{_ALONE: True})

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as exc:
            raise self._error(exc) from exc

    def tasks(self) -> Select[Any]:
        """SELECT of the tasks that may be seen."""
        found: Select[Any] = self.seen(select(AsyncTask))
        return found

    def seen(self, statement: Any) -> Any:
        """A SELECT from `AsyncTask`, of what may be seen."""
        return seen_by(self.customers, statement)

    def check_schema(self) -> None:
        """Raises `StoreError` unless the tables are there and of the version that this code knows."""
        try:
            with self.engine.connect() as connection:
                problem = schema_problem(connection)
        except (SQLAlchemyError, OSError, RuntimeError) as exc:  # drivers raise these, too, before they are connected
            raise self._error(exc) from exc
        if problem:
            kind = NoTablesError if problem == _NO_TABLES else StoreError
            raise kind(f"The database {self.shown_url} {problem}")

    def close(self) -> None:
        """Give the connections back."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def _error(self, exc: Exception) -> StoreError:
        cause = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
        reason = re.sub(r"\s+", " ", str(cause)).strip().rstrip(".")[:300]
        return StoreError(f"The database {self.shown_url} cannot be read: {reason}.")


def seen_by(customers: Collection[int] | None, statement: Any) -> Any:
    """A SELECT from `AsyncTask`, of what customers may see; None: everything."""
    return statement if customers is None else statement.where(AsyncTask.customer.in_(sorted(customers)))


@cache
def task_columns(dialect: str, *, values: bool, naive: bool = False) -> Select[Any]:
    """SELECT of `TASK_COLUMNS`; without ``values`` without these. ``naive``: times may come without their zone, which
    is UTC: to give each of a page its zone takes a tenth of the time of an answer."""
    names = [name for name in TASK_COLUMNS if values or name not in columns.VALUES]
    return select(*(_column(_TASKS, name, dialect, naive=naive) for name in names))


@cache
def attempt_columns(dialect: str) -> Select[Any]:
    """SELECT of `ATTEMPT_COLUMNS`."""
    return select(*(_column(AsyncTaskAttempt, name, dialect) for name in ATTEMPT_COLUMNS))


def _column(table: Any, name: str, dialect: str, *, naive: bool = False) -> Any:
    """A column; JSON as the text that the database has: as exact as it was stored, and not parsed to be made text
    again."""
    column = getattr(table, name)
    if isinstance(column.type, sa.JSON):
        # PostgreSQL's driver makes Python of JSONB; the others give text, which SQLAlchemy would parse.
        text = sa.cast(column, sa.Text()) if dialect == "postgresql" else sa.type_coerce(column, sa.Text())
        return text.label(name)
    if naive and dialect == "postgresql" and isinstance(column.type, tables.UTCDateTime):
        return sa.func.timezone(sa.literal_column("'UTC'"), column, type_=sa.DateTime()).label(name)
    return column


def revision(session: Session | Connection) -> int | None:
    """A number that is greater after every transaction that changed rows; what was read in the same session is of that
    state. None: somebody emptied the table, and nobody counts."""
    found: int | None = session.scalar(select(async_task_revision.c.revision).where(async_task_revision.c.id == 1))
    return found


def schema_version(connection: Connection) -> str | None:
    """The version of our tables in a database; None: there are none. Raises `sqlalchemy.exc.SQLAlchemyError`."""
    if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
        return None
    return connection.scalar(select(tables.async_task_version.c.version_num))


_NO_TABLES: Final = (
    "has no tables of celery-asynctask: the recorder makes them with the first task it stores, or "
    "`celery asynctask upgrade` does."
)


def schema_problem(connection: Connection) -> str:
    """Why this code cannot work with the tables in a database, and what to do, as the end of a sentence; else empty."""
    version = schema_version(connection)
    if version is None:
        return _NO_TABLES
    if version > SCHEMA_VERSION:
        return (
            f"has tables of version {version}, and this release of celery-asynctask knows them up to "
            f"{SCHEMA_VERSION}: install a newer release here."
        )
    if version < SCHEMA_VERSION:
        return f"has tables of version {version}, this release needs {SCHEMA_VERSION}: run `celery asynctask upgrade`."
    return ""


def _look_for_file(url: str) -> None:
    """SQLite would make an empty file of a name that is mistyped."""
    database = parse(url).database
    if database and database != ":memory:" and not database.startswith("file:") and not Path(database).exists():
        raise NoTablesError(
            f"There is no database file {Path(database).absolute()}: nothing has been recorded there yet. "
            "asynctask_url says where the recorder writes; a relative path is relative to the working directory."
        )


def _note_rest(_connection: object, record: Any) -> None:
    record.info[_RESTS_SINCE] = time.monotonic()


def _ping_after_a_rest(engine: Engine, connection: Any, record: Any, _proxy: object) -> None:
    """See that a connection still stands that nobody has used for a while: a database may have ended it. To ask each
    time, as SQLAlchemy's ``pool_pre_ping`` does, would take as long as a short query."""
    rested = time.monotonic() - record.info.get(_RESTS_SINCE, time.monotonic())
    if rested < _REST_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as exc:
        raise DisconnectionError from exc  # the pool makes another


def _roll_back(connection: Connection) -> None:
    """Not every driver does that in autocommit."""
    if connection.get_execution_options().get(_ALONE) or connection.invalidated:
        return
    with suppress(connection.dialect.loaded_dbapi.Error):  # it is broken: SQLAlchemy finds out
        cursor = connection.connection.cursor()
        cursor.execute("ROLLBACK")
        cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _connect_bound(url: str, seconds: float) -> dict[str, Any]:
    """Arguments of the usual drivers for not waiting for ever for a host that does not answer."""
    driver = url.partition("://")[0]
    if driver in ("mysql+pymysql", "mariadb+pymysql"):
        return {"connect_timeout": CONNECT_SECONDS, "read_timeout": seconds + CONNECT_SECONDS}
    known = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
    return {"connect_timeout": CONNECT_SECONDS} if driver in known else {}
