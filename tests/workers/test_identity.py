"""Which execution a row is of, for whom, and who may say what was requested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from celery import Celery, chain, signature
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, context, install, uninstall
from celery_asynctask.core.keys import is_of_earlier_execution
from tests import services
from tests.waiting import wait_for
from tests.workers.harness import World
from tests.workers.test_shapes import plan_for

pytestmark = pytest.mark.broker

SECRET = "hunter2-positional"
REDACTED = {"$asynctask": "redacted"}
NAME = "tests.workers.app."


@pytest.fixture(params=["redis", "rabbitmq"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for(request.param, store, tmp_path))
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def blind(world: World) -> Iterator[Celery]:
    """A producer, such as a web process, that defines none of the tasks."""
    world.unshare_tasks()
    app = Celery("blind", set_as_current=False, broker=world.plan.broker, backend=world.plan.backend)
    app.conf.update({key: world.app.conf[key] for key in KEYS})
    install(app)
    world.others.append(app)
    yield app
    uninstall(app)


KEYS = (
    "asynctask_url",
    "asynctask_journal_dir",
    "asynctask_flush_interval",
    "broker_transport_options",
    "task_default_queue",
    "task_default_exchange",
    "task_default_routing_key",
)


def rows_of(world: World, task_id: str) -> Sequence[AsyncTask]:
    with Session(world.engine, expire_on_commit=False) as session:
        return session.scalars(
            select(AsyncTask).where(AsyncTask.celery_task_id == task_id).order_by(AsyncTask.customer_key)
        ).all()


def everything(world: World) -> str:
    """All rows and attempts, as text."""
    with world.engine.connect() as connection:
        tables = ("async_task", "async_task_attempt")
        return "\n".join(str(row) for table in tables for row in connection.exec_driver_sql(f"SELECT * FROM {table}"))


def journals(world: World) -> bytes:
    return b"".join(path.read_bytes() for path in (world.plan.directory / "journal").iterdir() if path.is_file())


# -- who knows the task --------------------------------------------------------------


def test_a_producer_that_does_not_know_the_task_tells_no_arguments(world: World, blind: Celery) -> None:
    """The worker does, as soon as it has it."""
    with context(customer=42):
        sent = blind.send_task(f"{NAME}login", ("bob", SECRET))
        private = blind.send_task(f"{NAME}secretive", (SECRET,), {"key": "classified"})
        unrecorded = blind.send_task(f"{NAME}unrecorded")
    assert SECRET.encode() not in journals(world)
    with world.worker("-c1"):
        for one, args in ((sent, ["bob", REDACTED]), (private, None)):
            row = world.wait(one.id, "SUCCESS")
            assert (row.task_args, row.customer) == (args, 42)
        world.wait(unrecorded.id, "UNRECORDED")
    assert SECRET not in everything(world)
    assert "classified" not in everything(world).replace("'classified'", "") or world.row(private.id).result is None  # type: ignore[union-attr]


def test_nor_for_the_steps_of_a_workflow(world: World, blind: Celery) -> None:
    """Those that are not sent get theirs from the worker, too, and those that are not to be recorded disappear."""
    steps = [
        blind.signature(f"{NAME}fail"),
        blind.signature(f"{NAME}login", args=("bob", SECRET), immutable=True),
        blind.signature(f"{NAME}unrecorded", immutable=True),
    ]
    last = chain(*steps).apply_async()
    middle = last.parent
    wait_for(lambda: journals(world), 10, "the events of the producer")
    assert SECRET.encode() not in journals(world)
    with world.worker("-c1"):
        row = world.wait(middle.id, "FAILURE")
        assert row.task_args == ["bob", REDACTED]
        world.wait(last.id, "UNRECORDED")
    assert SECRET not in everything(world)


def test_arguments_that_the_caller_hides(world: World) -> None:
    """By the representations that Celery shows in their place."""
    both = world.tasks.login.apply_async((SECRET, "x"), argsrepr="(<hidden>)", kwargsrepr="{}")
    one = world.tasks.login.apply_async(("bob",), {"password": SECRET}, kwargsrepr="{<hidden>}")
    step = world.tasks.login.si(SECRET, "y").set(argsrepr="(<hidden>)")
    chained = chain(world.tasks.add.si(1, 1), step).apply_async()
    with world.worker("-c1"):
        row = world.wait(both.id, "SUCCESS")
        assert (row.task_args, row.task_kwargs) == (None, None)
        row = world.wait(one.id, "SUCCESS")
        assert (row.task_args, row.task_kwargs) == (["bob"], None)
        assert world.wait(chained.id, "SUCCESS").task_args is None
    assert SECRET not in everything(world)


def test_arguments_that_a_caller_without_the_plugin_hides(world: World, blind: Celery) -> None:
    uninstall(blind)
    sent = blind.send_task(f"{NAME}add", (1,), {"y": 7_654_321}, kwargsrepr="{'y': '<hidden>'}")
    plain = blind.send_task(f"{NAME}add", (1,), {"y": 2})
    with world.worker("-c1"):
        row = world.wait(sent.id, "SUCCESS")
        assert (row.task_args, row.task_kwargs) == ([1], None)
        assert world.wait(plain.id, "SUCCESS").task_kwargs == {"y": 2}


# -- which execution -----------------------------------------------------------------


def test_an_id_that_is_used_again_is_of_its_newest_execution(world: World) -> None:
    with world.worker("-c1"):
        days = [("mon", True), ("fri", False), ("sat", True)]
        for day, works in days:
            world.tasks.sync.apply_async((day, works), task_id="sync-acme")
            status = "SUCCESS" if works else "FAILURE"
            wait_for(
                lambda day=day, status=status: (  # type: ignore[misc]
                    (row := world.row("sync-acme")) is not None
                    and (row.status, row.task_args and row.task_args[0]) == (status, day)
                ),
                30,
                f"the row of {day}",
            )
    row = world.row("sync-acme")
    assert row is not None
    assert (row.result, row.error_type, row.retries) == ("sat", None, 0)
    attempts = world.attempts("sync-acme")
    assert [one.outcome for one in attempts] == ["succeeded", "retried", "failed", "succeeded"]
    earlier = [is_of_earlier_execution(one.run_key, row.order_key) for one in attempts]
    assert earlier == [True, True, True, False]
    assert attempts[2].ended_at is not None
    assert row.created_at >= attempts[2].ended_at
    assert row.started_at == attempts[3].started_at


def test_the_same_id_for_two_customers_is_two_rows(world: World) -> None:
    with world.worker("-c1"):
        for customer, day in ((7, "mon"), ("acme", "fri"), (None, "sat")):
            with context(customer=customer):
                world.tasks.sync.apply_async((day, True), task_id="nightly").get(timeout=60)
        rows = wait_for(
            lambda: (rows := rows_of(world, "nightly")) and all(row.result for row in rows) and len(rows) == 3 and rows,
            30,
            "three rows",
        )
        world.forget_results()
    assert [(row.customer_key, row.customer, row.result) for row in rows] == [
        ("", None, "sat"),
        ("7", 7, "mon"),
        ("acme", None, "fri"),
    ]
    assert len(world.attempts("nightly")) == 3


@pytest.mark.parametrize("eagerly", [True, False])
def test_headers_that_are_sent_along_are_the_sender_s(world: World, eagerly: bool) -> None:
    with world.worker("-c1"), context(customer=42):
        sent = world.tasks.forward.apply_async((eagerly,), countdown=1)
        parent = world.wait(sent.id, "SUCCESS")
        child = world.wait(parent.result, "SUCCESS")
        assert child.customer == 42
        assert parent.started_at is not None
        assert child.created_at >= parent.started_at
        [attempt] = world.attempts(parent.result)
        assert (attempt.published_at is None) == eagerly
        assert attempt.received_at is None or attempt.received_at >= parent.started_at


def test_headers_that_come_along_without_the_plugin(world: World, blind: Celery) -> None:
    """As where a service without it answers a task with another task."""
    uninstall(blind)
    theirs = {"created": 1, "sent": 2, "customer": 7, "for": 1, "run": "0" * 20, "delivered": True}
    mapping = blind.send_task(f"{NAME}add", (1, 1), headers={"asynctask": theirs})
    text = blind.send_task(f"{NAME}add", (1, 1), headers={"asynctask": json.dumps({"v": 2, **theirs})})
    with world.worker("-c1"):
        for one in (mapping, text):
            row = world.wait(one.id, "SUCCESS")
            assert row.customer is None
            assert row.created_at.year > 2000
            [attempt] = world.attempts(one.id)
            assert attempt.published_at is None
            assert "0" * 20 not in attempt.run_key[21:]


def test_the_header_as_one_text(world: World, blind: Celery) -> None:
    """Through a retry and a chain, which the worker sends in its own form."""
    blind.conf.asynctask_header_version = 2
    work = chain(
        signature(f"{NAME}retry_until", args=(1,), app=blind),
        signature(f"{NAME}add", args=(1, 1), app=blind, immutable=True),
    )
    with context(customer="acme", created_by_name="Ada", content={"order": 1}):
        last = work.apply_async()
    with world.worker("-c1"):
        for one in (last.parent, last):
            row = world.wait(one.id, "SUCCESS")
            assert (row.customer_key, row.created_by_name, row.content) == ("acme", "Ada", {"order": 1})
    assert len(world.attempts(last.parent.id)) == 2
    assert world.row(last.id).created_at == world.row(last.parent.id).created_at  # type: ignore[union-attr]


# -- messages that a worker holds ------------------------------------------------------


def test_what_a_worker_has_not_started_waits_again_when_it_stops(world: World) -> None:
    with world.worker("-c1"):
        running = world.tasks.nap.delay(3)
        waiting, later = world.tasks.nap.delay(0), world.tasks.nap.apply_async((0,), countdown=600)
        world.wait(running.id, "STARTED")
        for one in (waiting, later):
            assert world.wait(one.id, "RECEIVED").holder is not None
    assert world.row(running.id).status == "SUCCESS"  # type: ignore[union-attr]
    for one in (waiting, later):
        row = world.row(one.id)
        assert row is not None
        assert row.status in ("PENDING", "SUCCESS") if one is waiting else row.status == "PENDING"
