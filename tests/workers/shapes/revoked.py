"""Tasks that are revoked, and tasks that expire."""

from __future__ import annotations

import json
from typing import Any

from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.expect import Row, expect, fresh_id
from tests.workers.harness import World
from tests.workers.shapes.messages import publish_raw
from tests.workers.shapes.registry import prefork_only, shape


@shape
def revoked_before_start(world: World) -> None:
    task_id = fresh_id()

    def all_know() -> bool:
        answers = world.app.control.revoke(task_id, reply=True, timeout=patience(1), limit=world.workers)
        return len(answers or ()) == world.workers

    wait_for(all_know, 20, "the workers to know of the revocation")
    world.tasks.add.apply_async((1, 1), task_id=task_id)
    expect(
        world,
        Row("add", "REVOKED", task_id, (1, 1), error="TaskRevokedError", message="revoked", outcomes=()),
    )


@shape
def revoked_while_waiting(world: World) -> None:
    sent = world.tasks.add.apply_async((2, 1), countdown=patience(6))
    world.wait(sent.id, "RECEIVED")
    world.app.control.revoke(sent.id)
    expect(
        world,
        Row("add", "REVOKED", sent.id, (2, 1), error="TaskRevokedError", message="revoked", outcomes=()),
    )


@prefork_only
@shape
def terminated(world: World) -> None:
    for name in ("SIGTERM", "SIGKILL"):
        sent = world.tasks.nap.delay(60)
        world.wait(sent.id, "STARTED")
        world.app.control.revoke(sent.id, terminate=True, signal=name)
        expect(
            world,
            Row(
                "nap",
                "REVOKED",
                sent.id,
                (60,),
                error="TaskRevokedError",
                message=f"terminated by {name}",
                outcomes=["terminated"],
            ),
        )


@shape
def expired(world: World) -> None:
    waiting = world.tasks.add.apply_async((3, 1), countdown=13, expires=12)
    late = fresh_id()
    headers = {"id": late, "task": "tests.workers.app.add", "root_id": late, "expires": "2001-01-01T00:00:00+00:00"}
    publish_raw(world, json.dumps([[4, 1], {}, {}]).encode(), headers)
    gone: dict[str, Any] = {"error": "TaskRevokedError", "message": "expired", "outcomes": ()}
    expect(world, Row("add", "REVOKED", waiting.id, (3, 1), **gone))
    expect(world, Row("add", "REVOKED", late, (4, 1), foreign=True, **gone))
