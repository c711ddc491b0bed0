"""What an error of a database says to do: what fits it."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import make_url, select, text

from celery_asynctask.errors import StoreError
from celery_asynctask.operations.bundle import Import
from celery_asynctask.operations.doctor import Level, examine
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.remedies import GRANT, OWN, make_engine, remedy
from tests import services

PSYCOPG = "postgresql+psycopg://u:secret@127.0.0.1:9/d"


@pytest.mark.parametrize(
    ("url", "absent", "problem", "todo"),
    [
        (PSYCOPG, "psycopg", "", "Install the driver: pip install 'celery-asynctask[postgresql]'."),
        (
            "mysql://u:secret@h/d",
            "MySQLdb",
            "",
            "Install it, or write mysql+pymysql:// in asynctask_url and install that driver: "
            "pip install 'celery-asynctask[mysql]'.",
        ),
        (
            "postgresql+nosuch://u:secret@h/d",
            "",
            "SQLAlchemy knows no driver 'nosuch' for postgresql.",
            "Write postgresql+psycopg:// in asynctask_url.",
        ),
        ("postgres://u:secret@h/d", "", "SQLAlchemy knows no database 'postgres'.", "Correct asynctask_url."),
        (
            "postgresql+psycopg_async://u:secret@h/d",
            "",
            "postgresql+psycopg_async is a driver for asyncio, which celery-asynctask does not use.",
            "Write postgresql+psycopg:// in asynctask_url.",
        ),
    ],
)
def test_a_url_that_cannot_be_used(
    url: str, absent: str, problem: str, todo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if absent:
        monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(StoreError) as caught:
        make_engine(url, {})
    assert caught.value.problem.startswith(problem)
    assert caught.value.remedy == todo
    settings = Settings(url=url)
    uses: tuple[Callable[[], Any], ...] = (lambda: Reader(url).engine, lambda: Writer(settings).engine)
    for use in uses:
        with pytest.raises(StoreError, match=r"^The database .* cannot be used: ") as wrapped:
            use()
        assert str(wrapped.value).endswith(todo)
        assert "secret" not in str(wrapped.value)


@pytest.mark.parametrize(
    "options", [{"nosuch": 1}, {"pool": 5}, {"connect_args": 5}, {"isolation_level": "WRONG"}], ids=repr
)
def test_options_that_cannot_be_used(options: Mapping[str, Any], tmp_path: Path) -> None:
    """Some are found out only when it connects."""
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    (tmp_path / "rows.db").touch()
    with pytest.raises(StoreError) as caught:
        Reader(url, options).check_schema()
    assert "The database" in caught.value.problem
    with pytest.raises(StoreError):
        Writer(Settings(url=url, engine_options=options)).batch(lambda _: None)


def test_a_driver_that_raises_errors_of_its_own(tmp_path: Path) -> None:
    """As PyMySQL does where the server wants a password encrypted, and cryptography is not installed."""

    def connect() -> NoReturn:
        raise RuntimeError("'cryptography' package is required")

    writer = Writer(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}", engine_options={"creator": connect}))
    uses: tuple[Callable[[], Any], ...] = (lambda: writer.read(select(1)), Import(writer).prepare)
    for use in uses:
        with pytest.raises(StoreError) as caught:
            use()
        assert caught.value.remedy.startswith("Run pip install cryptography")


class Refused(Exception):
    """As a driver raises it."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("cause", "beginning"),
    [
        (Refused('FATAL:  password authentication failed for user "u"'), "Correct the user and the password"),
        (Refused("FATAL:  no pg_hba.conf entry for host, no encryption"), "Correct the user and the password"),
        (Refused("failed to resolve host 'db': [Errno -2] Name or service not known"), "Correct the host in"),
        (Refused("FATAL:  the database system is starting up"), "Wait until the database has started."),
        (Refused("FATAL:  sorry, too many clients already"), "Let fewer processes connect"),
        (Refused("canceling statement due to statement timeout", "57014"), "Ask for less"),
        (Refused("canceling statement due to lock timeout", "55P03"), "Another transaction holds a lock"),
        (Refused("abbruch", "42501"), GRANT),
        (Refused("cannot execute INSERT in a read-only transaction", "25006"), "The server takes no writes"),
        (Refused("could not extend file: No space left on device", "53100"), "Make room on the disk"),
        (Refused("connection timeout expired"), "Correct the host and the port in asynctask_url, or let the firewall"),
        (Refused("SSL error: certificate verify failed"), "Correct the TLS options"),
        (Refused('invalid connection option "nosuch"'), "Correct asynctask_engine_options"),
        (Refused('relation "async_task" does not exist', "42P01"), "Run `celery -A APP asynctask upgrade`"),
        (sqlite3.OperationalError("interrupted"), "Ask for less"),
        (sqlite3.OperationalError("database is locked"), "Another transaction holds a lock"),
        (sqlite3.OperationalError("no such column: x"), "Run `celery -A APP asynctask upgrade`"),
        (sqlite3.DatabaseError("file is not a database"), "Name an SQLite file"),
        (sqlite3.DatabaseError("database disk image is malformed"), "Restore the file from a backup"),
        (Exception(1049, "Unknown database 'd'"), "Create the database"),
        (Exception(1045, "Access denied for user 'u'@'h' (using password: YES)"), "Correct the user and the password"),
        (Exception(1142, "INSERT command denied to user"), GRANT),
        (Exception(1142, "DROP command denied to user 'u'@'h' for table 'async_task'"), OWN),
        (Refused("must be owner of table async_task", "42501"), OWN),
        (Refused("permission denied for schema public", "42501"), OWN),
        (Refused("consuming input failed: SSL connection has been closed unexpectedly"), "Look into the server's"),
        (RuntimeError("'cryptography' package is required for caching_sha2_password auth methods"), "Run pip install"),
        (Exception(1040, "Too many connections"), "Let fewer processes connect"),
        (Exception(1969, "Query execution was interrupted (max_statement_time exceeded)"), "Ask for less"),
        (
            Exception(2003, "Can't connect to MySQL server ([Errno 111] Connection refused)"),
            "Start the database",
        ),
        (Exception(2003, "Can't connect to MySQL server on 'h' (timed out)"), "Correct the host and the port"),
        (Exception(2006, "MySQL server has gone away"), "Look into the server's error log"),
        (Exception(1290, "The MariaDB server is running with the --read-only option"), "The server takes no writes"),
    ],
    ids=str,
)
def test_each_kind_of_error_has_its_own(cause: Exception, beginning: str) -> None:
    assert remedy(cause, PSYCOPG).startswith(beginning)


@pytest.mark.databases("postgresql")
def test_the_rights_that_are_enough(store: Store, tmp_path: Path) -> None:
    """A recorder without the right to create tables needs all that the remedy names, and no more."""
    role, password = f"remedy_{os.getpid()}", secrets.token_hex(8)
    tables = ", ".join(re.findall(r"async_task\w*", GRANT.partition(" (in")[0]))
    [read_only] = re.findall(r"SELECT on (async_task\w*)", GRANT)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}")
        connection.exec_driver_sql(f"GRANT SELECT ON {read_only} TO {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
    url = make_url(store.settings.url).set(username=role, password=password).render_as_string(hide_password=False)
    try:
        findings = list(examine(None, lambda: Settings(url=url, journal_dir=tmp_path / "journal")))
        assert {one.check: one.level for one in findings}["rights"] is Level.OK, findings
    finally:
        with store.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_what_is_not_known_has_none() -> None:
    assert remedy(OverflowError("Python int too large"), PSYCOPG) == ""


def test_an_sqlite_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "text.db").write_text("no database" * 100, encoding="utf-8")
    for name, todo in {
        "directory.db": f"{tmp_path}/directory.db is a directory: name a file in asynctask_url.",
        "none/rows.db": f"Create the directory {tmp_path}/none, or correct the path in asynctask_url.",
        "text.db": "Name an SQLite file in asynctask_url, or move this one away.",
    }.items():
        writer = Writer(Settings(url=f"sqlite:///{tmp_path / name}"))
        with pytest.raises(StoreError) as caught:
            writer.batch(lambda connection: connection.execute(text("CREATE TABLE x (y INTEGER)")))
        assert caught.value.remedy == todo
        writer.close()


@pytest.mark.databases(*services.SERVERS)
@pytest.mark.parametrize(
    ("changes", "beginning"),
    [
        ({"database": "asynctask_nowhere"}, "Create the database, or correct its name"),
        ({"username": "asynctask_nobody", "password": "secret"}, "Correct the user and the password"),
        ({"port": 9}, "Start the database, or correct the host and the port"),
        ({"host": "nowhere.invalid"}, "Correct the host in asynctask_url, or repair name resolution"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_what_the_servers_say_is_known(store: Store, changes: dict[str, Any], beginning: str) -> None:
    url = make_url(store.settings.url).set(**changes).render_as_string(hide_password=False)
    with pytest.raises(StoreError) as caught:
        Reader(url).check_schema()
    assert caught.value.remedy.startswith(beginning), caught.value
    assert "secret" not in str(caught.value)


@pytest.mark.databases(*services.SERVERS)
def test_a_statement_that_takes_too_long(store: Store) -> None:
    sleep = {"postgresql": "SELECT pg_sleep(5)", "mysql": "SELECT SLEEP(5)"}
    reader = Reader(store.settings.url, seconds=0.1)
    with pytest.raises(StoreError) as caught, reader.connection() as connection:
        connection.execute(text(sleep[store.engine.dialect.name]))
    assert caught.value.remedy.startswith("Ask for less"), caught.value
    reader.close()
