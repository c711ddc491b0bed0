"""Runs whole workers and looks whether what they ran is recorded: ``python -m tests.compatibility RUN...``.

A RUN is broker/database/pool, such as ``redis/sqlite/prefork``. ``nox -s matrix`` gives it many sets of releases, and
docs/compatibility.md says what came of that. Prints a line of a Markdown table; the exit code says whether every run
was right. ``--servers`` prints the versions of the servers, and of the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

BROKERS = ("redis", "rabbitmq")
DATABASES = ("sqlite", "postgresql", "mysql")
POOLS = ("prefork", "threads", "gevent", "eventlet", "solo")
SHAPES = (
    *("success", "failure", "retry_then_success", "autoretry_exhausted", "ignored"),
    *("chain_of_three", "chain_fails", "group_of_two", "chord_of_two", "tasks_start_tasks"),
)
"""Shapes of `tests.workers.shapes`: success, failure, retries and workflows."""
OF_PREFORK = ("child_killed", "hard_time_limit")


def run(broker: str, database: str, pool: str) -> None:
    """Run one worker with one pool; raises if a row is not right."""
    from tests import services
    from tests.workers.harness import Plan, World
    from tests.workers.shapes import SHAPES as ALL

    with tempfile.TemporaryDirectory() as name, services.new_database(database, Path(name)) as store:
        url = services.redis_url(10) if broker == "redis" else services.amqp_url()
        world = World(Plan(url, services.redis_url(11), store, Path(name)))
        try:
            size = () if pool == "solo" else ("-c4",)
            with world.worker("-P", pool, *size):
                for shape in SHAPES + (OF_PREFORK if pool == "prefork" else ()):
                    try:
                        world.run(ALL[shape])
                    except Exception as exc:
                        raise AssertionError(f"{shape}: {exc}\n{world.log.read_text(encoding='utf-8')}") from exc
        finally:
            world.close()


def releases(runs: list[str]) -> str:
    """The releases in use, besides Celery's and SQLAlchemy's."""
    used = "/".join(runs)
    names = {"redis": "redis", "rabbitmq": "amqp", "postgresql": "psycopg", "mysql": "pymysql"}
    names |= {one: one for one in ("gevent", "eventlet")}
    return ", ".join(f"{name} {version(name)}" for word, name in names.items() if word in used)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{BROKERS} / {DATABASES} / {POOLS}")
    parser.add_argument("--servers", action="store_true", help="print the versions of the servers, and of the machine")
    given = parser.parse_args()
    os.environ["PYTHONUTF8"] = "1"
    if given.servers:
        from tests.benchmarks import machine

        print(machine.describe())
    failed = []
    for one in given.runs:
        try:
            run(*one.split("/"))
        except Exception:  # noqa: BLE001 - the others are run all the same
            traceback.print_exc()
            failed.append(one)
    if given.runs:
        told = ", ".join(f"**{one} fails**" if one in failed else one for one in given.runs)
        places = (platform.python_version(), version("celery"), version("sqlalchemy"), told, releases(given.runs))
        print(f"| {' | '.join(places)} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
