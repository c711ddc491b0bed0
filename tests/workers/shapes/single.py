"""One task that runs once and ends well or badly."""

from __future__ import annotations

import datetime as dt

from tests.workers.expect import Row, expect, fresh_id
from tests.workers.harness import ANY, World
from tests.workers.shapes.registry import shape


@shape
def success(world: World) -> None:
    sent = world.tasks.add.delay(1, y=2)
    expect(world, Row("add", id=sent.id, args=(1,), kwargs={"y": 2}, result=3))


@shape
def failure(world: World) -> None:
    sent = world.tasks.fail.delay(1)
    expect(
        world,
        Row("fail", "FAILURE", sent.id, (1,), error="ValueError", message="boom", outcomes=["failed"]),
    )
    assert "in fail" in (world.attempts(sent.id)[0].traceback or "")


@shape
def unpicklable_exception(world: World) -> None:
    sent = world.tasks.fail_unpicklable.delay()
    expect(
        world,
        Row(
            "fail_unpicklable",
            "FAILURE",
            sent.id,
            error="Unpicklable",
            message="not to be pickled",
            outcomes=["failed"],
        ),
    )


@shape
def ignore_result(world: World) -> None:
    by_task = world.tasks.silent.delay(7)
    by_call = world.tasks.fail.apply_async((), ignore_result=True)
    expect(world, Row("silent", id=by_task.id, args=(7,), result=7))
    expect(world, Row("fail", "FAILURE", by_call.id, error="ValueError", message="boom", outcomes=["failed"]))


@shape
def custom_id(world: World) -> None:
    task_id = fresh_id()
    world.tasks.add.apply_async((1, 1), task_id=task_id)
    expect(world, Row("add", id=task_id, args=(1, 1), result=2))


@shape
def countdown(world: World) -> None:
    sent = world.tasks.add.apply_async((2, 2), countdown=2)
    expect(world, Row("add", id=sent.id, args=(2, 2), result=4))
    attempt = world.attempts(sent.id)[0]
    assert attempt.eta is not None
    assert attempt.received_at is not None
    assert attempt.started_at is not None
    assert attempt.started_at >= attempt.eta - dt.timedelta(milliseconds=50)  # gevent's timers may be a little early


@shape
def shadow(world: World) -> None:
    sent = world.tasks.add.apply_async((3, 3), shadow="shown-as")
    expect(world, Row("add", id=sent.id, args=(3, 3), result=6))


@shape
def stamped(world: World) -> None:
    signature = world.tasks.add.s(4, 4)
    signature.stamp(order=["o-1"])
    sent = signature.apply_async()
    expect(world, Row("add", id=sent.id, args=(4, 4), result=8))


@shape
def priority(world: World) -> None:
    sent = world.tasks.add.apply_async((5, 5), priority=3)
    expect(world, Row("add", id=sent.id, args=(5, 5), result=10))


@shape
def other_base_class(world: World) -> None:
    sent = world.tasks.other_base.delay(6)
    expect(world, Row("other_base", id=sent.id, args=(6,), result=6))


@shape
def left_out_payload(world: World) -> None:
    sent = world.tasks.secretive.delay("p", key="q")
    mapped = world.tasks.secretive.map(["p"]).apply_async()
    expect(world, Row("secretive", id=sent.id, args=None, kwargs=ANY, result=None))
    row = world.row(sent.id)
    assert row is not None
    assert row.task_kwargs is None
    mapped_row = world.wait(mapped.id, "FAILURE")  # its keyword is missing
    assert "it" not in mapped_row.task_kwargs


@shape
def send_task(world: World) -> None:
    sent = world.app.send_task("tests.workers.app.add", (9, 9))
    expect(world, Row("add", id=sent.id, args=(9, 9), result=18))


@shape
def called_directly(world: World) -> None:
    """Functions of tasks, by a task: what they do is the task's."""
    sent = world.tasks.called_directly.delay()
    progress = {"progress": {"done": 2, "total": 2, "message": None}}
    parts = [Row("add", args=(part, 0), result=part, root=sent.id, parent=sent.id) for part in (1, 2)]
    expect(world, Row("called_directly", id=sent.id, result=3, noted=progress), *parts)
