"""The servers that tests use: where they are, whether they answer, and databases of a test's own.

Environment variables override their addresses: ASYNCTASK_TEST_POSTGRESQL_URL, ASYNCTASK_TEST_MYSQL_URL,
ASYNCTASK_TEST_REDIS_URL, ASYNCTASK_TEST_AMQP_URL. Whoever runs a tier that needs a server must have it: a test fails if
its server does not answer, and names the server. A server that has answered once is not checked again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from kombu import Connection, Queue
from sqlalchemy import URL, create_engine, make_url, text

from tests.pace import patience

SERVERS = ("postgresql", "mysql")
"""Databases that are servers."""
DATABASES = ("sqlite", *SERVERS)
"""Databases that `new_database` can create."""
CONNECT_SECONDS = 5

TIERS = {
    "database": "needs PostgreSQL or MariaDB",
    "broker": "runs whole workers on Redis and RabbitMQ, and most of them record into PostgreSQL",
    "browser": "drives the console in Chromium",
    "faults": "kills processes and servers, fills disks",
    "slow": "takes seconds, most of them for processes of its own, or needs tools beside Python",
}
"""The marks of tests that are not in the default tier, each with the reason. A test has at most one of them."""


class Unavailable(Exception):
    """A server or program that a test needs is not available."""


class Current:
    """The test that runs at present."""

    tier: str | None = None
    """Its mark; "" for the default tier. None outside tests, where everything is allowed."""


def postgresql_url() -> str:
    """A PostgreSQL database from which others may be created."""
    default = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
    return _database("PostgreSQL", "ASYNCTASK_TEST_POSTGRESQL_URL", default)


def mysql_url() -> str:
    """A MySQL or MariaDB database from which others may be created."""
    return _database("MySQL", "ASYNCTASK_TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1:3306/mysql")


def _redis() -> URL:
    return make_url(os.environ.get("ASYNCTASK_TEST_REDIS_URL", "redis://127.0.0.1:6379/0"))


def redis_port() -> int:
    return _redis().port or 6379


def redis_url(database: int = 0) -> str:
    """A Redis broker or result backend."""
    url = _redis().set(database=str(database)).render_as_string(hide_password=False)
    _need("Redis", url, _ask_broker)
    return url


def amqp_url() -> str:
    """A RabbitMQ broker."""
    url = os.environ.get("ASYNCTASK_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
    _need("RabbitMQ", url, _ask_broker)
    return url


def apart(broker: str, queue: str) -> dict[str, Any]:
    """Settings of an app that shares nothing with others on the broker, of this test run or another.

    On Redis, the workers of a database give back any message that is unacknowledged for longer than their own
    visibility timeout, and on every broker, remote control reaches all workers of an exchange.
    """
    keys = ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    options = {key: f"{queue}.{key}" for key in keys} if broker.startswith("redis") else {}
    return {
        "task_queues": [Queue(queue)],
        "task_default_queue": queue,
        "control_exchange": queue,
        "event_exchange": f"{queue}.events",
        "broker_transport_options": options,
    }


def forget(connection: Connection, queue: str) -> None:
    """Delete everything that an app that is `apart` has in its broker."""
    channel: Any = connection.default_channel
    channel.queue_delete(queue)
    exchanges = (f"{queue}.pidbox", f"reply.{queue}.pidbox", f"{queue}.events")
    if connection.transport.driver_type == "amqp":
        for exchange in (queue, *exchanges):
            channel.exchange_delete(exchange)
    else:
        names = (queue, *exchanges)
        channel.client.delete(*(f"_kombu.binding{kind}.{name}" for kind in ("", "_permanent") for name in names))


@contextmanager
def new_database(kind: str, directory: Path) -> Iterator[str]:
    """URL of an empty database of a kind in `DATABASES`: a file in ``directory``, or a database on the server, which is
    dropped at the end."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / uuid.uuid4().hex[:12]}.db"
        return
    with fresh_database(postgresql_url() if kind == "postgresql" else mysql_url()) as url:
        yield url


@contextmanager
def fresh_database(server: str, options: str = "") -> Iterator[str]:
    """URL of a new database on the server, created with these options and dropped at the end."""
    name = f"asynctask_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {options}"))
        if admin.dialect.name == "postgresql":  # no test is about a power failure
            connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        force = " WITH (FORCE)" if admin.dialect.name == "postgresql" else ""
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}{force}"))
        admin.dispose()


def _database(what: str, variable: str, default: str) -> str:
    url = os.environ.get(variable, default)
    _need(what, url, _ask_database)
    return url


def _need(what: str, url: str, ask: Callable[[str], None]) -> None:
    error = None
    try:
        ask(url)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the reason
        error = (str(exc) or type(exc).__name__).splitlines()[0]
    need(error is None, f"no {what} at {make_url(url).render_as_string(hide_password=True)}: {error}")


def need(there: object, reason: str) -> None:
    """Fail with this reason if ``there`` is false, or if the test is in the default tier, which needs no server."""
    if Current.tier == "":
        raise Unavailable(f"a test of the default tier needs no server: mark it as one of {', '.join(TIERS)}")
    if not there:
        raise Unavailable(reason)


@cache
def _ask_database(url: str) -> None:
    engine = create_engine(url, connect_args={"connect_timeout": round(patience(CONNECT_SECONDS))})
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()


@cache
def _ask_broker(url: str) -> None:
    seconds = patience(CONNECT_SECONDS)
    with Connection(url, connect_timeout=seconds) as connection:
        connection.ensure_connection(max_retries=1, timeout=seconds)
