"""Finds out from the errors of SQLAlchemy and of the usual drivers why a database cannot be used, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from celery_asynctask.core.text import reason
from celery_asynctask.core.url import parse
from celery_asynctask.errors import StoreError
from celery_asynctask.store.sqlite import make_private

GRANT: Final = (
    "Give the user of asynctask_url SELECT, INSERT, UPDATE and DELETE on async_task, async_task_attempt, "
    "async_task_source, async_task_change, async_task_identity, async_task_revision, async_task_session and "
    "async_task_token, SELECT, INSERT and DELETE on async_task_audit (in PostgreSQL also USAGE on their sequences), "
    "and SELECT on async_task_version."
)
OWN: Final = (
    "Do this as a user who may create and drop our tables: in PostgreSQL as their owner, with USAGE and CREATE on "
    "their schema."
)
_NOT_OWNER: Final = re.compile(r"must be owner|permission denied for schema|(CREATE|ALTER|DROP|INDEX) command denied")
"""Pattern of the messages that have the codes of `GRANT` and another remedy."""
BEFORE_CONNECTED: Final = (OSError, RuntimeError, TypeError, ValueError)
"""Exceptions besides `SQLAlchemyError` that drivers, and SQLAlchemy with them, raise before they are connected."""
_DRIVERS: Final = {
    "postgresql": ("psycopg", "postgresql"),
    "mysql": ("pymysql", "mysql"),
    "mariadb": ("pymysql", "mysql"),
}
"""The driver for each kind of server, and the extra of ours that installs it."""

_LIBPQ: Final = ("postgresql:", "postgresql+psycopg:", "postgresql+psycopg2:")


class _Kind(NamedTuple):
    """Errors with the same remedy."""

    remedy: str
    """What to do, in a sentence."""
    codes: frozenset[str]
    """SQLSTATEs of PostgreSQL, and error numbers of MySQL and MariaDB."""
    pattern: str
    """Pattern of the message of an error without a code: libpq has none before it is connected, SQLite hardly any."""


_KINDS: Final = (
    _Kind(
        "Correct the user and the password in asynctask_url (an @ in them is written %40), or let this user log in at "
        "the server.",
        frozenset({"28000", "28P01", "1045", "1698"}),
        r'password authentication failed|role ".*" does not exist|no password supplied|pg_hba\.conf',
    ),
    _Kind(
        "Create the database, or correct its name in asynctask_url.",
        frozenset({"3D000", "1049"}),
        r'database ".*" does not exist',
    ),
    _Kind(
        "Start the database, or correct the host and the port in asynctask_url.",
        frozenset({"2002"}),
        r"Connection refused|on socket .* failed: No such file",
    ),
    _Kind(
        "Correct the host in asynctask_url, or repair name resolution on this host.",
        frozenset({"2005"}),
        r"resolve host|translate host name|Name or service not known|name resolution|getaddrinfo",
    ),
    _Kind("Wait until the database has started.", frozenset({"57P03"}), r"the database system is starting up"),
    _Kind(
        "Let fewer processes connect, or raise the server's max_connections.",
        frozenset({"53300", "1040", "1203"}),
        r"too many (clients|connections)|remaining connection slots",
    ),
    _Kind(
        "Ask for less (a shorter time, fewer events in asynctask_batch_size), find out what keeps the database busy, "
        "or raise its statement timeout.",
        frozenset({"57014", "1969", "3024"}),
        r"^interrupted$",
    ),
    _Kind(
        "Another transaction holds a lock: end it, or try again later.",
        frozenset({"55P03", "40P01", "40001", "1205", "1213"}),
        r"database (table )?is locked",
    ),
    _Kind(
        "Run `celery -A APP asynctask upgrade`: tables are missing, or of another version.",
        frozenset({"42P01", "42703", "1146", "1054"}),
        r"no such (table|column)|has no column named",
    ),
    _Kind(
        "Drop those objects first, or take them off our tables.",
        frozenset({"2BP01", "1451", "3730"}),
        r"other objects depend on it",
    ),
    _Kind(GRANT, frozenset({"42501", "1044", "1142", "1143", "1227"}), r"permission denied for"),
    _Kind(
        "The server takes no writes, as a standby does: name the primary server in asynctask_url.",
        frozenset({"25006", "1290", "1792", "1836"}),
        r"read-only transaction",
    ),
    _Kind("Make room on the disk of the database.", frozenset({"53100", "1021"}), r"disk is full|No space left"),
    _Kind(
        "Look into the server's error log for why it ended the connection; MySQL and MariaDB do for statements longer "
        "than max_allowed_packet.",
        frozenset({"2006", "2013", "57P01", "57P02"}),
        r"server closed the connection|connection has been closed",
    ),
    _Kind(
        "Correct the host and the port in asynctask_url, or let the firewall pass this connection.",
        frozenset(),
        r"timeout expired|timed out|No route to host|Network is unreachable",
    ),
    _Kind(
        "Correct the TLS options in asynctask_url, or the certificate of the server.",
        frozenset({"2026"}),
        r"\bSSL\b|certificate",
    ),
    _Kind(
        "Run pip install cryptography, or connect to the server by TLS or a socket.",
        frozenset(),
        r"'cryptography' package is required",
    ),
    _Kind(
        "Correct asynctask_engine_options, or the options behind the ? in asynctask_url.",
        frozenset(),
        r"connection option|unexpected keyword argument|invalid keyword argument",
    ),
    _Kind(
        "Name an SQLite file in asynctask_url, or move this one away.",
        frozenset(),
        r"file is not a database|file is encrypted",
    ),
    _Kind(
        "Restore the file from a backup; `sqlite3 FILE .recover` saves what can be read.",
        frozenset(),
        r"image is malformed",
    ),
)


def remedy(exc: BaseException, url: str) -> str:
    """What to do about an error of SQLAlchemy or of a driver, in a sentence; empty for an unknown error."""
    cause: Any = getattr(exc, "orig", None) or exc
    if isinstance(cause, ImportError):
        return _install(url)
    text = str(cause)
    url_parts = parse(url)
    if url_parts.backend == "sqlite" and re.search(r"unable to open|readonly|disk I/O", text):
        return _of_file(url_parts.database)
    if _NOT_OWNER.search(text):
        return OWN
    sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg2 has the other name
    codes = {str(sqlstate), *(str(code) for code in cause.args[:1] if isinstance(code, int))}
    known = (kind.remedy for kind in _KINDS if kind.codes & codes)
    guessed = (kind.remedy for kind in _KINDS if re.search(kind.pattern, text))
    return next(known, next(guessed, ""))


def _of_file(name: str) -> str:
    """The remedy for an SQLite file that cannot be opened or written."""
    path = Path(name.removeprefix("file:")).absolute()
    if path.is_dir():
        return f"{path} is a directory: name a file in asynctask_url."
    if not path.parent.is_dir():
        return f"Create the directory {path.parent}, or correct the path in asynctask_url."
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        return f"Give this user the right to write {path} and its directory, or run this as the user of the workers."
    return f"See that {path} can be written, and that its disk has room and no errors."


def _install(url: str) -> str:
    """The remedy for a driver that is not installed."""
    backend = parse(url).backend
    if backend not in _DRIVERS:
        return "Install the driver, or correct asynctask_url."
    install = f"pip install 'celery-asynctask[{_DRIVERS[backend][1]}]'"
    if url.startswith(f"{_right(backend)}:"):
        return f"Install the driver: {install}."
    return f"Install it, or write {_right(backend)}:// in asynctask_url and install that driver: {install}."


def make_engine(url: str, options: Mapping[str, Any]) -> Engine:
    """Create an engine without connecting. Raises `StoreError` like `usable`, and for a driver that needs asyncio.

    Unless the user says otherwise, PostgreSQL speaks UTF-8 with us whatever the database has: in LATIN1, psycopg reads
    no JSON, and in SQL_ASCII no text.
    """
    if url.startswith(_LIBPQ) and "client_encoding" not in url:
        options = {**options, "connect_args": {"client_encoding": "utf8", **options.get("connect_args", {})}}
    with usable(url):
        engine = sa.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        make_private(engine)
    if engine.dialect.is_async:
        raise StoreError(
            f"{url.partition(':')[0]} is a driver for asyncio, which celery-asynctask does not use.",
            f"Write {_right(parse(url).backend)}:// in asynctask_url.",
        )
    return engine


@contextmanager
def usable(url: str) -> Iterator[None]:
    """Turn SQLAlchemy's errors about a URL, options, or a missing driver into `StoreError`, which does not name the
    database."""
    try:
        yield
    except NoSuchModuleError as exc:
        backend, _, driver = url.partition(":")[0].partition("+")
        unknown = f"driver {driver!r} for {backend}" if driver else f"database {backend!r}"
        todo = f"Write {_right(backend)}:// in asynctask_url." if backend in _DRIVERS else "Correct asynctask_url."
        raise StoreError(f"SQLAlchemy knows no {unknown}.", todo) from exc
    except ImportError as exc:
        raise StoreError(f"{reason(exc)}.", _install(url)) from exc
    except ArgumentError as exc:
        raise StoreError(f"{reason(exc)}.", "Correct asynctask_url or asynctask_engine_options.") from exc
    except (TypeError, AttributeError, ValueError) as exc:
        raise StoreError(f"{reason(exc)}.", "Correct asynctask_engine_options.") from exc


def _right(backend: str) -> str:
    """The beginning of a URL for this kind of database, without ``://``."""
    return f"{backend}+{_DRIVERS[backend][0]}" if backend in _DRIVERS else backend
