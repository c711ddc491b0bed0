"""Records with everything that can occur in them, and their bundles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table, create_engine, select

from celery_asynctask.core.event import Kind
from celery_asynctask.operations import bundle
from celery_asynctask.operations.bundle import Counts, Import
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader, parse
from celery_asynctask.queries.export import Exported, found_by
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import SCHEMA_VERSION
from tests.histories import HISTORIES, Delivery, about, failure, lines
from tests.integration.purge import NOW
from tests.integration.store.test_values import JSON_VALUES

ODD = "é 😀 \" ' \\ % :x\n\r\t\u2028\x1b[31m,;=1+1"


def store_everything(store: Store) -> None:
    """Every history, every kind of value, and the extremes of every column."""
    for name, history in HISTORIES.items():
        if name != "unrecorded":  # which nobody sees
            store.write(lines(about(history(), f"history-{name}")))
    run = Delivery(2, name=ODD, customer=2**63 - 1)
    for number, value in enumerate(JSON_VALUES):
        whose = {"created_by": -(2**63) + 1, "created_by_name": ODD, "content": {"": value}}
        events = [
            run.started(3, args=[value], kwargs={"k": value}, worker=ODD, queue=ODD, **whose),
            run.ended(Kind.SUCCEEDED, 4, result=value),
        ]
        store.write(lines(about(events, f"value-{number}")))
    store.write(lines(about([run.started(3), run.ended(Kind.FAILED, 4, **failure(ODD, error_type=ODD))], f"😀{ODD}")))


def rows(url: str, *without: str) -> list[dict[str, Any]]:
    """All columns of all tasks and attempts."""
    engine = create_engine(url)
    found = []
    with engine.connect() as connection:
        for model, key in ((AsyncTask, "celery_task_id"), (AsyncTaskAttempt, "run_key")):
            table = model.__table__
            assert isinstance(table, Table)
            ordered = select(table).order_by(table.c.celery_task_id, table.c.customer_key, table.c[key])
            for row in connection.execute(ordered).mappings():
                found.append({name: value for name, value in row.items() if name not in without})
    engine.dispose()
    return sorted(found, key=lambda row: (row["celery_task_id"], row["customer_key"], row.get("run_key", "")))


def exported(pages: Iterator[list[Exported]]) -> list[Exported]:
    return [task for page in pages for task in page]


def bundle_of(reader: Reader, search: str = "") -> list[bytes]:
    tasks = exported(found_by(reader, parse(search, NOW)))
    events = [bundle.line(task, attempts) for task, attempts in tasks]
    return [
        one.encode("ascii") + b"\n"
        for one in (bundle.head(NOW, SCHEMA_VERSION, search), *events, bundle.tail(len(events)))
    ]


def import_into(url: str, events: list[bytes], *, merge: bool = False) -> Counts:
    writer = Writer(Settings(url=url))
    work = Import(writer, merge=merge)
    work.prepare()
    assert sum(work.store(bundle.read(events))) == len(events) - 2
    writer.close()
    return work.counts
