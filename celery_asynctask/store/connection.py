"""The recorder's engine: one connection, bounded in all that it waits for, so that neither a host that does not answer
nor a lock keeps a recorder for ever, and a recorder that is frozen keeps nobody else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from celery_asynctask.core.forking import importing
from celery_asynctask.settings import Settings, engine_options
from celery_asynctask.store.remedies import make_engine, usable

CONNECT_SECONDS: Final = 5
"""Time to wait for a connection."""
LOCK_SECONDS: Final = 10
"""Time to wait for a lock, and time for which a transaction that does nothing may hold any."""
_ANSWER_SECONDS: Final = 60
"""Time to wait for the answer to a statement where the driver can bound it."""
_POOL: Final = {"pool_size": 1, "max_overflow": 1}
_PINGED: Final = {"pool_pre_ping": True}
_RECYCLED: Final = {"pool_recycle": 2 * LOCK_SECONDS}
"""Before MySQL closes it, by ``wait_timeout``."""
_LIBPQ: Final = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
_MYSQL: Final = tuple(f"{server}+{driver}" for server in ("mysql", "mariadb") for driver in ("pymysql", "mysqldb"))
_KEEPALIVE: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}
_SQLITE_BUSY_SECONDS: Final = 30
_SQLITE_LOG_PAGES: Final = 4000
"""Pages in SQLite's write-ahead log before they are copied into the file. Its default, 1000, is less than one batch."""
_MYSQL_BOUNDS: Final = {
    "innodb_lock_wait_timeout": LOCK_SECONDS,
    "lock_wait_timeout": LOCK_SECONDS,
    "idle_transaction_timeout": LOCK_SECONDS,  # MariaDB's
    "wait_timeout": 3 * LOCK_SECONDS,  # of MySQL, which has no other bound for an idle transaction
}
_MAY_PREPARE: Final = "celery_asynctask.may_prepare"
_UNKNOWN_VARIABLE: Final = 1193


def recorder_engine(settings: Settings) -> Engine:
    """An engine with one connection. Raises `StoreError` for a URL, options or a driver that cannot be used."""
    return _engine(settings, is_bounded=True)


def writer_engine(settings: Settings) -> Engine:
    """The same for whoever may have to wait, such as a migration for an index, and whose first statement is not tried
    again."""
    return _engine(settings, is_bounded=False)


def _engine(settings: Settings, *, is_bounded: bool) -> Engine:
    url = settings.url
    with usable(url):
        if url.startswith("sqlite"):
            options = engine_options(settings.engine_options)
            bounds: Mapping[str, Any] = {"timeout": _SQLITE_BUSY_SECONDS}
        else:
            options = engine_options(settings.engine_options, **_POOL, **(_RECYCLED if is_bounded else _PINGED))
            bounds = _own_bounds(url) if is_bounded else _not_named(_unprepared(url), url)
        given = options.get("connect_args") or {}
        options["connect_args"] = {**bounds, **given}
    with importing():  # the dialect and the driver
        engine = make_engine(url, options)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _write_ahead)
        sa.event.listen(engine, "connect", _checkpoint_seldom)
    elif engine.dialect.name in ("mysql", "mariadb") and is_bounded:
        sa.event.listen(engine, "connect", partial(_bound_mysql, str(given.get("init_command", ""))))
    elif is_bounded and "prepare_threshold" in bounds and "prepare_threshold" not in given:
        sa.event.listen(engine, "connect", _let_prepare)
    return engine


def connect_bound(url: str, seconds: float) -> dict[str, Any]:
    """Arguments that keep the usual drivers from waiting for ever for a host that does not answer: ``seconds`` for a
    statement where the driver can bound that. Those that the URL itself names are left out."""
    kind, _, rest = url.partition("://")
    bounds: dict[str, Any] = {}
    if kind in _LIBPQ and "service=" not in rest and not {"PGCONNECT_TIMEOUT", "PGSERVICE"} & os.environ.keys():
        bounds = {"connect_timeout": CONNECT_SECONDS}
    elif kind in _MYSQL:
        bounds = {"connect_timeout": CONNECT_SECONDS, "read_timeout": int(seconds) + CONNECT_SECONDS}
    return _not_named(bounds, url)


def _own_bounds(url: str) -> dict[str, Any]:
    """`connect_bound` for a recorder, which also finds out when a host is gone that it has long been connected to."""
    kind, _, rest = url.partition("://")
    bounds = {**connect_bound(url, _ANSWER_SECONDS - CONNECT_SECONDS), **_unprepared(url)}
    if kind in _LIBPQ and "service=" not in rest and "PGSERVICE" not in os.environ:
        bounds |= _KEEPALIVE
    elif kind in _MYSQL:
        bounds["write_timeout"] = _ANSWER_SECONDS
    return _not_named(bounds, url)


def _unprepared(url: str) -> dict[str, Any]:
    """Behind PgBouncer, the next statement may meet another process of the server, which has not prepared it."""
    return {"prepare_threshold": None} if sa.make_url(url).get_dialect().driver == "psycopg" else {}


def _let_prepare(_connection: object, record: Any) -> None:
    record.info[_MAY_PREPARE] = True


def met_process(connection: Connection, pid: int) -> None:
    """Let statements be prepared, which takes the server an eighth of the time, if the process that has answered is the
    one that the connection was made to: no pooler hands out another for each transaction."""
    driver: Any = connection.connection.driver_connection
    if connection.info.pop(_MAY_PREPARE, False) and driver.info.backend_pid == pid:
        driver.prepare_threshold = 0


def _not_named(bounds: Mapping[str, Any], url: str) -> dict[str, Any]:
    query = url.partition("?")[2]
    return {name: value for name, value in bounds.items() if not re.search(rf"\b{name}=", query)}


def _bound_mysql(init_command: str, connection: Any, _record: object) -> None:
    """Bound the waits of this connection, except for what the user's own ``init_command`` sets."""
    for name, seconds in _MYSQL_BOUNDS.items():
        if not re.search(rf"\b{name}\b", init_command):
            _set_variable(connection, f"SET SESSION {name} = IF(@@{name} BETWEEN 1 AND {seconds}, @@{name}, {seconds})")
    # MariaDB 11.6 and later would refuse to change rows that others have changed since the transaction began.
    _set_variable(connection, "SET SESSION innodb_snapshot_isolation = OFF")


def _set_variable(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    except Exception as exc:
        if not exc.args or exc.args[0] != _UNKNOWN_VARIABLE:
            raise
    finally:
        cursor.close()


def _write_ahead(connection: Any, _record: object) -> None:
    """Let readers read an SQLite file while we write to it. The file keeps this mode.

    While another process changes the mode of the same file, SQLite refuses at once, whatever the connection's timeout.
    """
    from sqlite3 import OperationalError as Refused  # not at the top: a Python may be built without it

    deadline = time.monotonic() + _SQLITE_BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except Refused as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _checkpoint_seldom(connection: Any, _record: object) -> None:
    """A page that several batches change is then copied only once. The log takes 16 MB."""
    connection.execute(f"PRAGMA wal_autocheckpoint={_SQLITE_LOG_PAGES}")


_BUSY_STATES: Final = re.compile(r"40...|55P03")
"""PostgreSQL: deadlock, serialization failure and their like; a lock that was not to be had in time."""
_BUSY_NUMBERS: Final = frozenset({1020, 1205, 1213})
"""MySQL and MariaDB: row changed meanwhile, lock wait timeout, deadlock."""
_FULL: Final = frozenset({"3", "1021", "1037", "1041", "1114"})
"""MySQL and MariaDB: error writing a file, disk full, out of memory (twice), table full. PostgreSQL has class 53."""
_FULL_TEXT: Final = re.compile(r"disk is full|disk I/O error")
"""SQLite has no codes."""
_CROWDED: Final = frozenset({"53300", "1040", "1203", "1226"})
_CROWDED_TEXT: Final = re.compile(
    r"too many (clients|connections)|remaining connection slots|no more connections", re.I
)
"""The server, or PgBouncer, gives out no more connections."""


def _codes(exc: DBAPIError) -> set[str]:
    cause: Any = exc.orig
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg2 has the other name
    return {str(code) for code in (state, *getattr(cause, "args", ())[:1]) if isinstance(code, (str, int))}


def is_busy(exc: BaseException) -> bool:
    """Whether another transaction was in the way, which says nothing about what was to be written."""
    if not isinstance(exc, DBAPIError) or exc.orig is None:
        return False
    state = str(getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None) or "")
    number = exc.orig.args[0] if exc.orig.args else None
    return bool(_BUSY_STATES.fullmatch(state)) or number in _BUSY_NUMBERS or "database is locked" in str(exc.orig)


def is_full(exc: BaseException) -> bool:
    """Whether the database lacks disk or memory, so that it refuses one write and takes the next, smaller one."""
    if not isinstance(exc, DBAPIError) or exc.orig is None:
        return False
    codes = _codes(exc)
    return (
        bool(codes & _FULL)
        or any(code.startswith("53") and len(code) == 5 for code in codes)
        or (_FULL_TEXT.search(str(exc.orig)) is not None)
    )


def is_crowded(exc: BaseException) -> bool:
    """Whether the server has no connection left for us."""
    if not isinstance(exc, DBAPIError) or exc.orig is None:
        return False
    return bool(_codes(exc) & _CROWDED or _CROWDED_TEXT.search(str(exc.orig)))
