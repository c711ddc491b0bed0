"""`Reader`: the database for those who only read, bounded in time and in the tasks that they may see, and the columns
that it reads."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Select, event, select
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session, defer

from celery_asynctask.core import columns
from celery_asynctask.core.text import reason
from celery_asynctask.core.url import parse
from celery_asynctask.errors import NoDirectoryError, NoTablesError, StoreError
from celery_asynctask.queries.scope import ALL, SHOWN, Scope
from celery_asynctask.settings import engine_options
from celery_asynctask.store import tables
from celery_asynctask.store.change import COUNT as CHANGES
from celery_asynctask.store.connection import connect_bound
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.remedies import BEFORE_CONNECTED, make_engine, remedy, usable
from celery_asynctask.store.schema import NO_TABLES, schema_problem
from celery_asynctask.store.sqlite import created_file

QUERY_SECONDS: Final = 30
"""Time after which the database stops a query."""
_IDLE_SECONDS: Final = 1.0
"""A connection that was idle for longer is tested before it is used."""
_AUTOCOMMIT: Final = "celery_asynctask_autocommit"
"""Execution option of connections whose statements are in no transaction."""
_IDLE_SINCE: Final = "celery_asynctask.idle_since"
_INSTRUCTIONS: Final = 100_000
"""Instructions of SQLite's virtual machine between two looks at the clock: about a millisecond."""
_INSTRUCTIONS_OF_GLOBS: Final = 100
"""The same where one instruction may compare a glob with a long text, which takes milliseconds."""
_GLOB: Final = re.compile(r" GLOB |\binstr\(")

TASK_COLUMNS: Final = tuple(column.name for column in columns.TASK if column.api is not None)
"""Columns of a task that are shown."""
ATTEMPT_COLUMNS: Final = ("attempt", *(column.name for column in columns.ATTEMPT if column.api is not None))
"""Columns of an attempt that are shown. The first, its number, is counted."""
WITHOUT_VALUES: Final = tuple(defer(getattr(AsyncTask, name)) for name in columns.VALUES)
"""Options of a SELECT of `AsyncTask` that leave its values unread."""
_TASKS: Final = AsyncTask.__table__.c
"""Used instead of the attributes of `AsyncTask`: SQLAlchemy compares each of those with the compiled statement on
every execution."""


class Reader:
    """Reads one store, and of its tasks only those of its ``scope``.

    The database stops a query after ``seconds``. Connections are opened on first use and shared by all `scoped` copies.
    """

    def __init__(
        self,
        url: str,
        engine_options: Mapping[str, Any] | None = None,
        *,
        scope: Scope = ALL,
        seconds: float = QUERY_SECONDS,
    ) -> None:
        self.url = url
        self.shown_url = parse(url).shown
        self.scope = scope
        self._options = dict(engine_options or {})
        self._seconds = seconds

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises `StoreError` for a URL that SQLAlchemy cannot use, and for a missing SQLite file."""
        backend = parse(self.url).backend
        look_for_file(self.url)
        try:
            with usable(self.url):
                options = engine_options(self._options)
                if backend != "sqlite":
                    bound = connect_bound(self.url, self._seconds)
                    options["connect_args"] = {**bound, **options.get("connect_args", {})}
                if backend == "postgresql":
                    options["isolation_level"] = "AUTOCOMMIT"  # `_begin_bounded` begins transactions
            engine = make_engine(self.url, options)
        except StoreError as exc:
            raise StoreError(f"The database {self.shown_url} cannot be used: {exc.problem}", exc.remedy) from exc
        event.listen(engine, "connect", self._bound)
        event.listen(engine, "checkin", _note_idle)
        event.listen(engine, "checkout", partial(_ping_if_idle, engine))
        if backend == "postgresql":
            if engine.dialect.driver == "psycopg2":  # it does not see the transactions that we begin, and refuses
                engine.dialect.supports_server_side_cursors = False
            event.listen(engine, "begin", self._begin_bounded)
            event.listen(engine, "rollback", _roll_back)
        if backend == "sqlite":
            event.listen(engine, "begin", _begin)
            event.listen(engine, "before_cursor_execute", self._bound_statement)
        return engine

    def scoped(self, scope: Scope) -> Reader:
        """A reader of the tasks of another scope, with the same connections. Raises `StoreError` like `engine`."""
        _ = self._autocommit  # made before the copy, so that both share one engine
        reader = copy(self)
        reader.scope = scope
        return reader

    def narrowed(self, customer: str | None) -> Reader:
        """A reader of the tasks of one customer, by its key (empty: tasks without a customer), among those that this
        reader may see; None: this reader. Raises `StoreError`."""
        return self if customer is None else self.scoped(self.scope.narrowed(customer))

    @property
    def sees_several(self) -> bool:
        """Whether it may see tasks of several customers, so that several tasks may have one id."""
        return self.scope.has_several

    def _bound(self, connection: Any, _record: object) -> None:
        """Allow this connection no writes and no long queries, and let each of its transactions see one state."""
        seconds = self._seconds
        if self.engine.dialect.name == "sqlite":
            connection.isolation_level = None  # else sqlite3 begins no transaction for reads; see `_begin`
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
        """Set everything for this transaction and nothing for the session: behind PgBouncer, others use the session
        after us. This takes one message; the driver's own BEGIN would take another. Statements are planned for their
        actual values: a plan for the most frequent name takes many times as long for a rare one."""
        if not connection.get_execution_options().get(_AUTOCOMMIT):
            connection.exec_driver_sql(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
                f"SET LOCAL statement_timeout = {int(self._seconds * 1000)}; "
                "SET LOCAL plan_cache_mode = force_custom_plan"
            )

    def _bound_statement(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        """Give the statement a progress handler, through which SQLite stops it after the deadline."""
        deadline = time.monotonic() + self._seconds
        driver: Any = connection.connection.driver_connection
        often = _INSTRUCTIONS_OF_GLOBS if _GLOB.search(statement) else _INSTRUCTIONS
        driver.set_progress_handler(lambda: time.monotonic() > deadline, often)

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect."""
        return self.engine.dialect.name

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session that reads one consistent state. Raises `StoreError` for any error of the database."""
        with self._guarded(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def connection(self, *, consistent: bool = True) -> Iterator[Connection]:
        """Like `session`, but for queries of plain columns, where it costs less.

        Without ``consistent``, each statement may read a later state, and on PostgreSQL no time limit applies: use it
        for what a unique index finds. It saves two of three round trips.
        """
        with self._guarded(), (self.engine if consistent else self._autocommit).connect() as connection:
            yield connection

    @cached_property
    def _autocommit(self) -> Engine:
        return self.engine.execution_options(**{_AUTOCOMMIT: True})

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as exc:
            raise self._error(exc) from exc

    def tasks(self) -> Select[Any]:
        """SELECT of the tasks that this reader may see."""
        statement: Select[Any] = self.seen(select(AsyncTask))
        return statement

    def seen(self, statement: Any) -> Any:
        """A SELECT from `AsyncTask`, narrowed to the tasks that this reader may see. Those that are not to be recorded
        are hidden from everybody."""
        return self.walked(statement).where(SHOWN)

    def walked(self, statement: Any) -> Any:
        """`seen` with the tasks that are hidden, for what only counts rows in an index or finds a place among them:
        there, a look at each row's status would cost more than all else."""
        return statement.where(*self.scope.conditions(self.dialect))

    def check_schema(self) -> None:
        """Raise `StoreError` unless the tables are there and have the version that this release needs."""
        try:
            with self.engine.connect() as connection:
                problem = schema_problem(connection)
        except (SQLAlchemyError, *BEFORE_CONNECTED) as exc:
            raise self._error(exc) from exc
        if problem:
            kind = NoTablesError if problem == NO_TABLES else StoreError
            raise kind(f"The database {self.shown_url} {problem}")

    def close(self) -> None:
        """Give the connections back."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def _error(self, exc: Exception) -> StoreError:
        return StoreError(f"The database {self.shown_url} cannot be read: {reason(exc)}.", remedy(exc, self.url))


class Parts(NamedTuple):
    """What is read of tasks besides the columns that everybody may see."""

    values: bool = True
    """`columns.VALUES`."""
    errors: bool = True
    """`columns.ERRORS`."""

    def of(self, names: Iterable[str]) -> list[str]:
        """The names of columns without those that are left out."""
        hidden = {*(() if self.values else columns.VALUES), *(() if self.errors else columns.ERRORS)}
        return [name for name in names if name not in hidden]


EVERY: Final = Parts()


@cache
def task_columns(dialect: str, parts: Parts, *, naive: bool = False) -> Select[Any]:
    """SELECT of `TASK_COLUMNS`, JSON as text, as far as they are in ``parts``.

    With ``naive``, times may come without their zone, which is UTC: adding it takes a tenth of the time of an answer.
    """
    return select(*(_column(_TASKS, name, dialect, naive=naive) for name in parts.of(TASK_COLUMNS)))


@cache
def attempt_columns(dialect: str, parts: Parts) -> Select[Any]:
    """SELECT of `ATTEMPT_COLUMNS` as far as they are in ``parts``, and the attempt key, for a dialect of SQLAlchemy."""
    return select(*(_column(AsyncTaskAttempt, name, dialect) for name in (*parts.of(ATTEMPT_COLUMNS), "run_key")))


def _column(table: Any, name: str, dialect: str, *, naive: bool = False) -> Any:
    """A column. JSON comes as the database's own text: exactly as it was stored, and without parsing it only to encode
    it again."""
    column = getattr(table, name)
    if isinstance(column.type, sa.JSON):
        # PostgreSQL's driver decodes JSONB; the other drivers return text, which SQLAlchemy would parse.
        text = sa.cast(column, sa.Text()) if dialect == "postgresql" else sa.type_coerce(column, sa.Text())
        return text.label(name)
    if naive and dialect == "postgresql" and isinstance(column.type, tables.UTCDateTime):
        return sa.func.timezone(sa.literal_column("'UTC'"), column, type_=sa.DateTime()).label(name)
    return column


def revision(session: Session | Connection) -> int | None:
    """A number that every transaction that changes rows increases. Whatever the same session reads belongs to this
    state. None: somebody emptied the table, so there is no count."""
    row = session.execute(CHANGES).first()
    return None if row is None else sum(map(int, row))


def look_for_file(url: str) -> None:
    """Raise `StoreError` for a missing SQLite file: SQLite would create an empty one for a mistyped name."""
    if parse(url).backend != "sqlite":
        return
    database, options = parse(url).database, url.partition("?")[2]
    is_uri = database.startswith("file:") and "uri=true" in options.lower()
    file = created_file(f"{database}?{options}" if is_uri else database, is_uri=is_uri)
    if file is not None and not Path(file).exists():
        path = Path(file).absolute()
        problem = f"There is no database file {path}: nothing has been recorded there yet."
        if not path.parent.is_dir():
            todo = f"Nothing can be: create the directory {path.parent}, or correct asynctask_url."
            raise NoDirectoryError(problem, todo)
        todo = "The recorder writes to asynctask_url; check it. A relative path counts from the working directory."
        raise NoTablesError(problem, todo)


def _note_idle(_connection: object, record: Any) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _ping_if_idle(engine: Engine, connection: Any, record: Any, _proxy: object) -> None:
    """Test a connection that was idle for a while, because the database may have closed it. Testing it each time, as
    SQLAlchemy's ``pool_pre_ping`` does, takes as long as a short query."""
    idle = time.monotonic() - record.info.get(_IDLE_SINCE, time.monotonic())
    if idle < _IDLE_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as exc:
        raise DisconnectionError from exc  # the pool opens another


def _roll_back(connection: Connection) -> None:
    """Roll back explicitly: not every driver does so in autocommit."""
    if connection.get_execution_options().get(_AUTOCOMMIT) or connection.invalidated:
        return
    with suppress(connection.dialect.loaded_dbapi.Error):  # it is broken: SQLAlchemy finds out
        cursor = connection.connection.cursor()
        cursor.execute("ROLLBACK")
        cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
