"""The time that an operator waits: the queries of the commands on a full PostgreSQL with the tasks of `shop`.

The queries take turns, in several rounds; the first round, which warms the caches, does not count. The time is that of
the whole call, including reading rows and creating objects.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask
from celery_asynctask.queries import Reader, page, parse
from celery_asynctask.queries.failures.groups import failures
from celery_asynctask.queries.statistics.names import statistics, with_time
from celery_asynctask.queries.statistics.overview import overview
from celery_asynctask.queries.task import attempts, find
from celery_asynctask.queries.workflow.members import attempts_of, workflow
from tests import services
from tests.asking import ask
from tests.benchmarks import rows
from tests.benchmarks.figure import Figure, Options, bootstrap, scaled, skipping
from tests.benchmarks.shop import WORKFLOW

ROUNDS = 10
QUICK_ROWS = 100_000
AT_MOST = 500
"""Milliseconds."""
AT_MOST_TOP = 100
"""Milliseconds for a query that is repeated every two seconds."""
SHOWN = 30
"""Tasks of a page."""

Query = Callable[[], object]


def measure(options: Options) -> Iterator[Figure]:
    yield from skipping(_figures(min(options.rows, QUICK_ROWS) if options.quick else options.rows), "queries")


def _figures(count: int) -> Iterator[Figure]:
    with services.fresh_database(services.postgresql_url()) as url:
        began = time.perf_counter()
        rows.fill(url, count)
        filled = time.perf_counter() - began
        yield Figure("queries: filling PostgreSQL", "s", bootstrap([[filled]]), note=f"{count:,} tasks")
        reader = Reader(url)
        asked = _queries(reader, url)
        taken: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(ROUNDS + 1):
            for name, query in asked.items():
                began = time.perf_counter()
                query()
                if number:
                    taken[name].append(time.perf_counter() - began)
        reader.close()
    for name, seconds in taken.items():
        at_most = AT_MOST_TOP if name == "top" else AT_MOST
        worst = f"at most {max(seconds) * 1000:.0f} ms"
        yield Figure(f"queries: {name}", "ms", scaled(bootstrap([seconds]), 1000), at_most=at_most, note=worst)


def _queries(reader: Reader, url: str) -> dict[str, Query]:
    now = dt.datetime.now(dt.timezone.utc)
    found: dict[str, Query] = {
        f"list {text}".rstrip(): partial(ask, page, reader, parse(text, now), limit=SHOWN)
        for text in _searches(url, now)
    }
    found["show"] = partial(_show, reader, WORKFLOW)
    found["show, by the beginning of an id"] = partial(_show, reader, WORKFLOW[:12])
    found["tree of 1,000 members"] = partial(_tree, reader)
    for text in ("", "since:20d", "name:billing.*", "kwargs.account_id:17 since:20d"):
        found[f"stats {text}".rstrip()] = partial(ask, statistics, reader, with_time(parse(text, now), now), now)
    for text in ("", "since:1d", "name:billing.*"):
        found[f"errors {text}".rstrip()] = partial(ask, failures, reader, parse(text, now))
    found["top"] = partial(ask, overview, reader, now)
    return found


def _searches(url: str, now: dt.datetime) -> list[str]:
    """A search by each key alone, for existing values; globs and rare values look the furthest."""
    engine = create_engine(url)
    with Session(engine) as session:
        some = select(AsyncTask).where(
            AsyncTask.trace_id.is_not(None), AsyncTask.parent_task_id.is_not(None), AsyncTask.started_at.is_not(None)
        )
        task = session.scalars(some.order_by(AsyncTask.id).limit(1)).one()
        text = [
            "",
            f"id:{task.celery_task_id}",
            f"id:{task.celery_task_id[:8]}",
            f"root:{task.root_task_id}",
            f"parent:{task.parent_task_id}",
            f"trace:{task.trace_id}",
            f"span:{task.span_id}",
        ]
    engine.dispose()
    day = now - dt.timedelta(days=5)
    return [
        *text,
        "name:billing.charge",
        "name:report.build",
        "name:no.such",
        "name:billing.*",
        "name:*.nothing",
        "status:FAILURE",
        "status:FAILURE,LOST,REJECTED",
        "-status:SUCCESS",
        "status:LOST",
        "customer:1",
        "customer:>499",
        "created_by:7",
        'created_by_name:"Ada Lovelace"',
        "error:KeyError",
        "error:*Refused",
        "message:refused",
        "message:nowhere",
        "retries:>2",
        "worker:celery@web1.shop.example",
        "queue:slow",
        "periodic:every-hour-mail.send",
        f"created:<{day:%Y-%m-%d}",
        f"started:>{day:%Y-%m-%d}",
        f"completed:>{day:%Y-%m-%d}",
        "since:2d",
        "until:5d",
        "wait:>10s",
        "run:>2m",
        "args.0:17",
        "kwargs.account_id:17",
        "kwargs.item.sku:sku-17",
        "result.rows:17",
        "content.periodic_task_name:nightly-import",
    ]


def _show(reader: Reader, text: str) -> None:
    with reader.session() as session:
        attempts(reader, session, find(reader, session, text))


def _tree(reader: Reader) -> None:
    with reader.session() as session:
        members = workflow(reader, session, find(reader, session, WORKFLOW)).members
        attempts_of(session, members)
    assert len(members) == 1000, "the workflow is not whole"
