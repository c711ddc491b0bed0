"""The recorder's connection: bounded in what it waits for, given back, and opened again after the server closed it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from celery_asynctask.errors import StoreError
from celery_asynctask.operations.session import Writer
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store, is_busy
from celery_asynctask.store import connection as connections
from celery_asynctask.store import store as stores
from celery_asynctask.store.connection import LOCK_SECONDS, connect_bound, is_crowded
from celery_asynctask.store.tables import async_task, async_task_identity
from tests import services
from tests.histories import HISTORIES, lines
from tests.integration.rows import stored

SERVERS = pytest.mark.databases(*services.SERVERS)
EVENTS = lines(HISTORIES["success"]())


def own_id(connection: Connection) -> int:
    function = "pg_backend_pid()" if connection.dialect.name == "postgresql" else "CONNECTION_ID()"
    number: int = connection.exec_driver_sql(f"SELECT {function}").scalar_one()
    return number


def idle(store: Store) -> int:
    """Connections that a store holds while it does nothing."""
    count: int = store.engine.pool.checkedin()  # type: ignore[attr-defined]
    return count


@contextmanager
def settings_with(store: Store, **arguments: Any) -> Iterator[Store]:
    settings = Settings(url=store.settings.url, engine_options={"connect_args": arguments})
    with closing(Store(settings)) as made:
        yield made


# -- bounds --------------------------------------------------------------------------


@pytest.mark.databases("postgresql")
def test_a_transaction_of_postgresql_is_bounded_and_the_session_is_not(store: Store) -> None:
    """Behind PgBouncer, others use the session after us."""
    names = ("lock_timeout", "idle_in_transaction_session_timeout")

    def shown(connection: Connection) -> list[str]:
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]

    with store._transaction() as (connection, _):
        assert shown(connection) == [f"{LOCK_SECONDS}s"] * 2
    with store.engine.connect() as connection:
        assert shown(connection) == ["0"] * 2


@pytest.mark.databases("postgresql")
def test_bounds_of_the_user_s_stay_on_postgresql(store: Store) -> None:
    with (
        settings_with(store, options="-c lock_timeout=2min", prepare_threshold=3, connect_timeout=9) as made,
        made._transaction() as (connection, _),
    ):
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "2min"
        driver: Any = connection.connection.driver_connection
        assert driver.prepare_threshold == 3
        assert driver.info.get_parameters()["connect_timeout"] == "9"
    url = f"{store.settings.url}?connect_timeout=8&tcp_user_timeout=7000"
    with closing(Store(Settings(url=url))) as made, made.engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == ("8", "7000")


def prepared(engine: Engine) -> list[str]:
    """The statements that the server has prepared for the connection of an engine."""
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars())


@pytest.mark.databases("postgresql")
def test_what_is_written_is_prepared_in_a_server_of_our_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind PgBouncer, the next statement may meet another process of the server, which has not prepared it."""
    with closing(Store(store.settings)) as direct:
        direct.write([])
        direct.write(EVENTS)
        assert any("INSERT INTO async_task " in statement for statement in prepared(direct.engine))
    with closing(Writer(store.settings)) as writer:
        for _ in range(10):
            writer.batch(lambda connection: connection.execute(select(async_task_identity)).all())
        assert prepared(writer.engine) == []
    with settings_with(store, prepare_threshold=None) as unprepared:
        for _ in range(10):
            unprepared.write(EVENTS)
        assert prepared(unprepared.engine) == []
    monkeypatch.setattr("psycopg.ConnectionInfo.backend_pid", 1)
    with closing(Store(store.settings)) as pooled:
        for _ in range(10):
            pooled.write(EVENTS)
        assert prepared(pooled.engine) == []


@pytest.mark.databases("postgresql")
def test_a_host_that_is_gone_is_noticed(store: Store) -> None:
    with store.engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert parameters.items() >= {"tcp_user_timeout": "30000", "keepalives_idle": "10"}.items()


@pytest.mark.databases("mysql")
def test_a_connection_to_mysql_is_bounded(store: Store) -> None:
    def shown(connection: Connection) -> list[int]:
        names = ("innodb_lock_wait_timeout", "lock_wait_timeout", "idle_transaction_timeout", "wait_timeout")
        return [connection.exec_driver_sql(f"SELECT @@{name}").scalar_one() for name in names]

    with store.engine.connect() as connection:
        assert shown(connection) == [LOCK_SECONDS, LOCK_SECONDS, LOCK_SECONDS, 3 * LOCK_SECONDS]
    mine = "SET SESSION innodb_lock_wait_timeout = 40, lock_wait_timeout = 5"
    with settings_with(store, init_command=mine) as made, made.engine.connect() as connection:
        assert shown(connection) == [40, 5, LOCK_SECONDS, 3 * LOCK_SECONDS]
    with closing(Writer(store.settings)) as writer, writer.connection() as connection:
        assert shown(connection)[1] > LOCK_SECONDS, "a migration waits for those who read"


@pytest.mark.databases("mysql")
def test_a_variable_that_a_server_refuses_is_not_passed_over(store: Store) -> None:
    """Only one that it does not know."""
    with settings_with(store, init_command="SET SESSION idle_transaction_timeout = 3") as made:
        made.write(EVENTS)
    with pytest.MonkeyPatch.context() as patch, settings_with(store) as made:
        patch.setitem(connections._MYSQL_BOUNDS, "datadir", 1)
        with pytest.raises(OperationalError, match="read only"):
            made.write(EVENTS)


@pytest.mark.parametrize(
    ("url", "bounds"),
    [
        ("postgresql+psycopg://h/d", {"connect_timeout": 5}),
        ("postgresql+psycopg://h/d?connect_timeout=1", {}),
        ("postgresql+psycopg://?service=mine", {}),
        ("mysql+pymysql://h/d", {"connect_timeout": 5, "read_timeout": 35}),
        ("mariadb+mysqldb://h/d?read_timeout=1", {"connect_timeout": 5}),
        ("mysql+mysqlconnector://h/d", {}),
        ("sqlite:///x", {}),
    ],
)
def test_bounds_on_connecting(url: str, bounds: dict[str, int]) -> None:
    assert connect_bound(url, 30) == bounds


def test_the_environment_s_bound_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "60")
    assert connect_bound("postgresql+psycopg://h/d", 30) == {}


# -- a lock --------------------------------------------------------------------------

IMPATIENT: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 0.1},
    "postgresql": {"options": "-c lock_timeout=100ms"},
    "mysql": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"},
}


@pytest.mark.every_database
def test_a_lock_says_nothing_about_what_was_to_be_written(store: Store) -> None:
    store.write(EVENTS)
    with closing(Store(store.settings)) as other, other.engine.connect() as connection:
        connection.execute(async_task.update().values(name="locked"))
        arguments = IMPATIENT[store.engine.dialect.name]
        with settings_with(store, **arguments) as made, pytest.raises(DBAPIError) as caught:
            made.write(EVENTS)
        connection.rollback()
    assert is_busy(caught.value)


@pytest.mark.every_database
def test_a_value_that_is_refused_is_no_lock(store: Store) -> None:
    refused = [one.replace(b'"name":"', b'"name":null,"was":"') for one in EVENTS]
    with pytest.raises(IntegrityError) as caught:
        store.write(refused)
    assert not is_busy(caught.value)
    assert not is_busy(StoreError("it is another"))


class Cause(Exception):
    sqlstate: str | None = None


@pytest.mark.parametrize(
    ("state", "arguments", "busy"),
    [
        ("40P01", (), True),
        ("40001", (), True),
        ("55P03", (), True),
        ("55006", (), False),
        ("57014", (), False),
        (None, (1205, "Lock wait timeout exceeded"), True),
        (None, (1213, "Deadlock found"), True),
        (None, (1020, "Record has changed since last read"), True),
        (None, (1062, "Duplicate entry"), False),
        (None, ("database is locked",), True),
        (None, (), False),
    ],
)
def test_errors_of_a_lock(state: str | None, arguments: tuple[Any, ...], busy: bool) -> None:
    cause = Cause(*arguments)
    cause.sqlstate = state
    assert is_busy(OperationalError("UPDATE", {}, cause)) is busy


# -- closed by the server ------------------------------------------------------------


@SERVERS
def test_a_connection_that_the_server_has_closed_is_opened_again(store: Store) -> None:
    store.write([])
    with store.engine.connect() as connection:
        number = own_id(connection)
    administrator = create_engine(store.settings.url, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        kill = "SELECT pg_terminate_backend({})" if store.engine.dialect.name == "postgresql" else "KILL {}"
        connection.execute(text(kill.format(number)))
    administrator.dispose()
    store.write(EVENTS)
    assert len(stored(store)) == 1


@SERVERS
def test_one_that_it_may_soon_close_is_not_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a statement is not tried again: the creation of tables, the question for the character set."""
    assert store.engine.pool._recycle == 2 * LOCK_SECONDS
    monkeypatch.setitem(connections._RECYCLED, "pool_recycle", 0)
    with closing(Store(store.settings)) as made:
        ids = set()
        for _ in range(3):
            with made.engine.connect() as connection:
                ids.add(own_id(connection))
    assert len(ids) == 3


@SERVERS
def test_one_that_breaks_again_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[None] = []

    def broken(*_: object) -> None:
        tries.append(None)
        raise OperationalError("SELECT", {}, Exception("gone"), connection_invalidated=True)

    monkeypatch.setattr("celery_asynctask.store.ledger.begin", broken)
    with pytest.raises(OperationalError, match="gone"):
        store.write([])
    assert len(tries) == 2


# -- fewer connections than recorders ------------------------------------------------


@SERVERS
def test_a_connection_is_kept_for_a_while_and_given_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(store.settings)) as made:
        made.write(EVENTS)
        made.let_go()
        assert idle(made) == 1
        monkeypatch.setattr(stores, "HOLD_SECONDS", 0.0)
        made.write(EVENTS)
        assert idle(made) == 0
        made.write(EVENTS)


@contextmanager
def limited(store: Store) -> Iterator[str]:
    """URL of the same database for a user who may have one connection."""
    name = f"limited_{uuid.uuid4().hex[:12]}"
    url = make_url(store.settings.url)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "postgresql":
        create = [f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1"]
        create += [f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {name}" for kind in ("TABLES", "SEQUENCES")]
        drop = [f"DROP OWNED BY {name}", f"DROP ROLE {name}"]
    else:
        create = [
            f"CREATE USER {name} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1",
            f"GRANT ALL ON {url.database}.* TO {name}",
        ]
        drop = [f"DROP USER {name}"]
    with engine.connect() as connection:
        for statement in create:
            connection.exec_driver_sql(statement)
        try:
            yield url.set(username=name, password="x").render_as_string(hide_password=False)
        finally:
            for statement in drop:
                connection.exec_driver_sql(statement)
    engine.dispose()


@SERVERS
def test_a_recorder_that_is_refused_a_connection_comes_back_soon_and_keeps_none(store: Store) -> None:
    with (
        limited(store) as url,
        closing(Store(Settings(url=url))) as first,
        closing(Store(Settings(url=url))) as second,
    ):
        first.write([])
        assert second.retry_seconds() is None
        with pytest.raises(DBAPIError) as caught:
            second.write(EVENTS)
        assert is_crowded(caught.value)
        waits = {second.retry_seconds() for _ in range(20)}
        assert len(waits) == 20
        assert all(wait is not None and 1 <= wait <= 3 for wait in waits)
        first.close()
        second.write(EVENTS)
        assert idle(second) == 1, "there may be more to store"
        second.let_go()
        assert idle(second) == 0
        first.write([])


@pytest.mark.parametrize(
    ("text", "crowded"),
    [
        ("connection failed: FATAL:  sorry, too many clients already", True),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", True),
        ("FATAL:  no more connections allowed (max_client_conn)", True),
        ("Connection refused", False),
    ],
)
def test_what_servers_say_that_have_no_connection_left(text: str, crowded: bool) -> None:
    """Before it is connected, libpq has no code."""
    assert is_crowded(OperationalError("", {}, Exception(text))) is crowded
