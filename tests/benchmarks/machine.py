"""The machine and the versions that the figures were measured on."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable
from pathlib import Path

import celery
import sqlalchemy
from kombu import Connection

import celery_asynctask
from tests import services


def describe() -> str:
    """One paragraph with the date, the machine and the versions of what was measured."""
    parts = [
        f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, {_memory()} GB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"Celery {celery.__version__}",
        f"SQLAlchemy {sqlalchemy.__version__}",
        f"celery-asynctask {celery_asynctask.__version__}",
        f"SQLite {_ask('sqlite://', 'SELECT sqlite_version()')}",
    ]
    for name, version in (
        ("PostgreSQL", lambda: _ask(services.postgresql_url(), "SHOW server_version")),
        ("MySQL", lambda: _ask(services.mysql_url(), "SELECT version()")),
        ("Redis", _redis),
        ("RabbitMQ", _rabbitmq),
    ):
        parts.append(f"{name} {_or_none(version)}")
    return ", ".join(parts) + "."


def _or_none(version: Callable[[], str]) -> str:
    try:
        return version()
    except services.Unavailable:
        return "none"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def _ask(url: str, statement: str) -> str:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return str(connection.scalar(sqlalchemy.text(statement))).split()[0]
    finally:
        engine.dispose()


def _redis() -> str:
    with Connection(services.redis_url()) as connection:
        return str(connection.default_channel.client.info("server")["redis_version"])


def _rabbitmq() -> str:
    with Connection(services.amqp_url()) as connection:
        connection.connect()
        return str(connection.connection.server_properties["version"])
