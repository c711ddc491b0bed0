"""Messages of producers without this package, and messages that cannot become a task."""

from __future__ import annotations

import json
import uuid
from typing import Any

from celery import Celery

from tests.waiting import wait_for
from tests.workers.expect import Row, expect, fresh_id
from tests.workers.harness import World
from tests.workers.shapes.registry import shape
from tests.workers.shapes.single import success


@shape
def foreign_producer(world: World) -> None:
    """A process that knows neither the task nor the package."""
    sent = _plain_app(world).send_task("tests.workers.app.add", (8,), {"y": 1})
    expect(world, Row("add", id=sent.id, args=(8,), kwargs={"y": 1}, result=9, foreign=True))
    assert world.attempts(sent.id)[0].published_at is None


@shape
def protocol_1(world: World) -> None:
    plain = _plain_app(world, task_protocol=1)
    sent = plain.send_task("tests.workers.app.add", (1, 2))
    wait_for(lambda: (row := world.row(sent.id)) and row.status == "SUCCESS", 30, "a protocol 1 message to run")
    row = world.row(sent.id)
    assert row is not None
    assert (row.name, row.task_args, row.result) == ("tests.workers.app.add", [1, 2], 3)
    assert (row.root_task_id, row.parent_task_id) == (None, None)


@shape
def unknown_task(world: World) -> None:
    sent = world.app.send_task("no.such.task", (1,), {"x": 2})
    expect(
        world,
        Row(
            "no.such.task",
            "FAILURE",
            sent.id,
            blind=True,
            error="NotRegistered",
            message="no.such.task",
            outcomes=(),
        ),
    )


@shape
def undecodable_body(world: World) -> None:
    task_id = fresh_id()
    publish_raw(world, b"{not json", {"id": task_id, "task": "tests.workers.app.add"})
    row = world.wait(task_id, "REJECTED")
    assert row.error_type in ("DecodeError", "JSONDecodeError")
    assert (row.started_at, row.task_args) == (None, None)


@shape
def content_type_not_accepted(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add"}
    publish_raw(world, b"- yaml", headers, content_type="application/x-yaml")
    row = world.wait(task_id, "REJECTED")
    assert row.error_type == "ContentDisallowed"


@shape
def invalid_eta(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add", "eta": "not a time", "root_id": task_id}
    publish_raw(world, json.dumps([[1], {}, {}]).encode(), headers)
    expect(
        world,
        Row(
            "add",
            "REJECTED",
            task_id,
            (1,),
            error="InvalidTaskError",
            message="not a time",
            outcomes=(),
            foreign=True,
        ),
    )


@shape
def no_task_at_all(world: World) -> None:
    """A message without a task header names no execution: nothing is recorded, and nothing breaks."""
    publish_raw(world, json.dumps({"hello": "world"}).encode(), {"x": 1})
    success(world)


@shape
def arguments_not_a_mapping(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add", "root_id": task_id}
    publish_raw(world, json.dumps([[1], [2], {}]).encode(), headers)
    expect(
        world,
        Row(
            "add",
            "FAILURE",
            task_id,
            (1,),
            [2],
            error="InvalidTaskError",
            message="not a mapping",
            outcomes=(),
            foreign=True,
        ),
    )


@shape
def wrong_arguments(world: World) -> None:
    sent = world.app.send_task("tests.workers.app.add", (1, 2, 3))
    expect(
        world,
        Row("add", "FAILURE", sent.id, (1, 2, 3), error="TypeError", message="positional", outcomes=["failed"]),
    )


def _plain_app(world: World, **conf: Any) -> Celery:
    """A producer that knows only the broker."""
    plain = Celery(f"plain-{uuid.uuid4().hex[:6]}", set_as_current=False, broker=world.plan.broker)
    plain.conf.update(task_default_queue=world.plan.queue, task_queues=world.app.conf.task_queues, **conf)
    world.others.append(plain)
    return plain


def publish_raw(world: World, body: bytes, headers: dict[str, Any], content_type: str = "application/json") -> None:
    with world.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            body,
            routing_key=world.plan.queue,
            exchange="",
            headers=headers,
            content_type=content_type,
            content_encoding="utf-8",
            declare=list(world.app.conf.task_queues),
        )
