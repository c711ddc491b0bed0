"""Every shape an execution can take: send it, do to it what the shape is about, and say what its rows must be.

A shape is a function of the `World`; it returns when its rows are right. All of them run at the same time against
one worker, as they would in life.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import EncodeError

from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.expect import Row, expect, fresh_id
from tests.workers.harness import ANY, World

SHAPES: dict[str, Callable[[World], None]] = {}
PREFORK_ONLY: set[str] = set()

ENDS_SOLO = {"result_backend_down"}
"""In a solo worker that is Celery's own end: it stops with an unrecoverable error (5.7)."""


def shape(function: Callable[[World], None]) -> Callable[[World], None]:
    SHAPES[function.__name__] = function
    return function


def prefork_only(function: Callable[[World], None]) -> Callable[[World], None]:
    """Other pools have no children to kill and ignore time limits and termination."""
    PREFORK_ONLY.add(function.__name__)
    return function


# -- one task ------------------------------------------------------------------


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
def foreign_producer(world: World) -> None:
    """A process that knows neither the task nor the plugin."""
    sent = _plain_app(world).send_task("tests.workers.app.add", (8,), {"y": 1})
    expect(world, Row("add", id=sent.id, args=(8,), kwargs={"y": 1}, result=9, foreign=True))
    assert world.attempts(sent.id)[0].published_at is None


@shape
def send_task(world: World) -> None:
    sent = world.app.send_task("tests.workers.app.add", (9, 9))
    expect(world, Row("add", id=sent.id, args=(9, 9), result=18))


@shape
def protocol_1(world: World) -> None:
    plain = _plain_app(world, task_protocol=1)
    sent = plain.send_task("tests.workers.app.add", (1, 2))
    wait_for(lambda: (row := world.row(sent.id)) and row.status == "SUCCESS", 30, "a protocol 1 message to run")
    row = world.row(sent.id)
    assert row is not None
    assert (row.name, row.task_args, row.result) == ("tests.workers.app.add", [1, 2], 3)
    assert (row.root_task_id, row.parent_task_id) == (None, None)


# -- runs that end otherwise -----------------------------------------------------


@shape
def retry_then_success(world: World) -> None:
    sent = world.tasks.retry_until.delay(2)
    expect(
        world,
        Row(
            "retry_until",
            id=sent.id,
            args=(2,),
            result="after 2",
            retries=2,
            outcomes=["retried", "retried", "succeeded"],
        ),
    )
    assert [one.error_type for one in world.attempts(sent.id)] == ["KeyError", "KeyError", None]


@shape
def retry_countdown(world: World) -> None:
    seconds = patience(2)
    sent = world.tasks.retry_until.delay(1, countdown=seconds)
    waiting = world.wait(sent.id, "RETRY")
    assert (waiting.error_type, waiting.completed_at) in (("KeyError", None), (None, None))
    expect(
        world,
        Row(
            "retry_until",
            id=sent.id,
            args=(1,),
            kwargs={"countdown": seconds},
            result="after 1",
            retries=1,
            outcomes=["retried", "succeeded"],
        ),
    )


@shape
def retry_slow_unwind(world: World) -> None:
    """The first run ends a second after the second one has succeeded."""
    sent = world.tasks.retry_slow_unwind.delay()
    expect(
        world,
        Row("retry_slow_unwind", id=sent.id, result="second", retries=1, outcomes=["retried", "succeeded"]),
    )


@shape
def retries_exhausted(world: World) -> None:
    given = world.tasks.retry_exhausted.delay(True)
    bare = world.tasks.retry_exhausted.delay(False)
    for sent, argument, error, message in (
        (given, True, "RuntimeError", "given"),
        (bare, False, "MaxRetriesExceededError", "Can't retry"),
    ):
        expect(
            world,
            Row(
                "retry_exhausted",
                "FAILURE",
                sent.id,
                (argument,),
                retries=1,
                error=error,
                message=message,
                outcomes=["retried", "failed"],
            ),
        )


@shape
def autoretry_exhausted(world: World) -> None:
    sent = world.tasks.autoretry.delay()
    expect(
        world,
        Row(
            "autoretry",
            "FAILURE",
            sent.id,
            retries=2,
            error="KeyError",
            message="auto",
            outcomes=["retried", "retried", "failed"],
        ),
    )


@shape
def ignored(world: World) -> None:
    sent = world.tasks.ignore.delay()
    expect(world, Row("ignore", "IGNORED", sent.id, outcomes=["ignored"]))


@shape
def rejected(world: World) -> None:
    sent = world.tasks.reject.delay()
    expect(world, Row("reject", "REJECTED", sent.id, error="Reject", message="not mine", outcomes=["rejected"]))


@shape
def rejected_and_requeued(world: World) -> None:
    sent = world.tasks.reject_once.delay()
    expect(world, Row("reject_once", id=sent.id, result="taken", outcomes=["requeued", "succeeded"]))
    assert [one.redelivered for one in world.attempts(sent.id)] == [False, True]


@shape
def replaced_by_task(world: World) -> None:
    sent = world.tasks.replace.delay("task")
    slow = world.tasks.replace.delay("task", slow=True)
    expect(world, Row("replace", id=sent.id, args=("task",), result=2, outcomes=["replaced", "succeeded"]))
    expect(
        world,
        Row(
            "replace",
            id=slow.id,
            args=("task",),
            kwargs={"slow": True},
            result=2,
            outcomes=["replaced", "succeeded"],
        ),
    )
    assert [one.name.rpartition(".")[2] for one in world.attempts(sent.id)] == ["replace", "add"]


@shape
def replaced_by_chain(world: World) -> None:
    sent = world.tasks.replace.delay("chain")
    expect(
        world,
        Row("replace", id=sent.id, args=("chain",), result=7, outcomes=["replaced", "succeeded"]),
        Row("add", args=(2, 2), result=4, root=sent.id, parent=sent.id),
    )


@shape
def replaced_by_group(world: World) -> None:
    sent = world.tasks.replace.delay("group")
    expect(
        world,
        Row("replace", id=sent.id, args=("group",), result=[8, 10], outcomes=["replaced", "succeeded"]),
        Row("add", args=(4, 4), result=8, root=sent.id, parent=sent.id),
        Row("add", args=(5, 5), result=10, root=sent.id, parent=sent.id),
    )
    assert world.attempts(sent.id)[1].name == "celery.accumulate"


@shape
def soft_time_limit(world: World) -> None:
    raised = world.tasks.over_soft_limit.delay(False)
    caught = world.tasks.over_soft_limit.delay(True)
    expect(
        world,
        Row(
            "over_soft_limit",
            "FAILURE",
            raised.id,
            (False,),
            error="SoftTimeLimitExceeded",
            outcomes=["failed"],
        ),
    )
    expect(world, Row("over_soft_limit", id=caught.id, args=(True,), result="caught"))


prefork_only(soft_time_limit)


@prefork_only
@shape
def hard_time_limit(world: World) -> None:
    for name in ("over_hard_limit", "over_hard_limit_late"):
        sent = getattr(world.tasks, name).delay()
        expect(
            world,
            Row(name, "FAILURE", sent.id, error="TimeLimitExceeded", message="1", outcomes=["failed"]),
        )


@prefork_only
@shape
def child_killed(world: World) -> None:
    for name in ("die", "die_late"):
        sent = getattr(world.tasks, name).delay()
        expect(
            world,
            Row(name, "FAILURE", sent.id, error="WorkerLostError", message="SIGKILL", outcomes=["failed"]),
        )


@prefork_only
@shape
def child_killed_after_its_result_was_stored(world: World) -> None:
    """Celery 5.7 calls these succeeded, ten seconds later, and sends no signal."""
    sent = {name: getattr(world.tasks, name).delay().id for name in ("die_with_result", "die_with_result_late")}
    for name, task_id in sent.items():
        expect(world, Row(name, id=task_id, result="stored", outcomes=["succeeded"]))
        row = world.row(task_id)
        assert row is not None
        assert row.completed_at is not None
        assert row.started_at is not None
        assert row.completed_at - row.started_at < dt.timedelta(seconds=5), "when it was stored, not when it was seen"


@prefork_only
@shape
def child_killed_and_requeued(world: World) -> None:
    sent = world.tasks.die_late_reject.delay()
    expect(world, Row("die_late_reject", id=sent.id, result="survived", outcomes=[None, "succeeded"]))


@prefork_only
@shape
def child_killed_and_retried(world: World) -> None:
    sent = world.tasks.die_and_retry.delay()
    expect(
        world,
        Row("die_and_retry", id=sent.id, result="survived", retries=1, outcomes=["retried", "succeeded"]),
    )
    assert world.attempts(sent.id)[0].error_type == "WorkerLostError"


@prefork_only
@shape
def sys_exit(world: World) -> None:
    sent = world.tasks.leave.delay()
    expect(
        world,
        Row("leave", "FAILURE", sent.id, error="WorkerLostError", message="exitcode 3", outcomes=["failed"]),
    )


@shape
def unserializable_result(world: World) -> None:
    stored = world.tasks.unserializable.delay()
    not_stored = world.tasks.unserializable_ignored.delay()
    expect(
        world,
        Row("unserializable", "FAILURE", stored.id, error="EncodeError", outcomes=["failed"]),
    )
    expect(world, Row("unserializable_ignored", id=not_stored.id, result=ANY))
    row = world.row(not_stored.id)
    assert row is not None
    assert row.result == {"$asynctask": "object", "type": "object"}


@shape
def result_backend_down(world: World) -> None:
    fine = world.tasks.backend_down.delay(True)
    bad = world.tasks.backend_down.delay(False)
    for sent, argument in ((fine, True), (bad, False)):
        expect(
            world,
            Row(
                "backend_down",
                "FAILURE",
                sent.id,
                (argument,),
                error=ANY,
                message="",
                outcomes=["failed"],
            ),
        )
        row = world.row(sent.id)
        assert row is not None
        assert row.error_type in ("OperationalError", "BackendStoreError"), row.error_type


# -- workflows --------------------------------------------------------------------


@shape
def chain_of_three(world: World) -> None:
    sent = chain(world.tasks.add.s(1, 1), world.tasks.add.s(10), world.tasks.add.s(100)).apply_async()
    first, second = sent.parent.parent.id, sent.parent.id
    expect(
        world,
        Row("add", id=first, args=(1, 1), result=2),
        Row("add", id=second, args=(2, 10), result=12, root=first, parent=first),
        Row("add", id=sent.id, args=(12, 100), result=112, root=first, parent=second),
    )


@shape
def chain_fails(world: World) -> None:
    tasks = world.tasks
    sent = chain(tasks.add.s(1, 1), tasks.fail.s(), tasks.add.s(5), tasks.add.s(6)).apply_async()
    third = sent.parent.id
    second = sent.parent.parent.id
    first = sent.parent.parent.parent.id
    message = f"Not sent: upstream task tests.workers.app.fail [{second}]"
    unsent: dict[str, Any] = {"error": "ValueError", "message": message, "outcomes": (), "root": first}
    expect(
        world,
        Row("add", id=first, args=(1, 1), result=2),
        Row(
            "fail",
            "FAILURE",
            second,
            (2,),
            root=first,
            parent=first,
            error="ValueError",
            message="boom",
            outcomes=["failed"],
        ),
        Row("add", "FAILURE", third, (5,), parent=second, **unsent),
        Row("add", "FAILURE", sent.id, (6,), parent=third, **unsent),
    )


@shape
def chain_is_planned(world: World) -> None:
    """Before the first step runs, the later ones are there to see."""
    tasks = world.tasks
    workflow = chain(
        tasks.add.s(1, 1).set(countdown=patience(2)), group(tasks.add.s(2), tasks.add.s(3)), tasks.total.s()
    )
    sent = workflow.apply_async()
    planned = world.wait(sent.id, "PENDING")
    assert planned.started_at is None
    members = sent.parent.results
    first = sent.parent.parent.id
    expect(
        world,
        Row("add", id=first, args=(1, 1), result=2),
        Row("add", id=members[0].id, args=(2, 2), result=4, root=first, parent=first),
        Row("add", id=members[1].id, args=(2, 3), result=5, root=first, parent=first),
        Row("total", id=sent.id, args=([4, 5],), result=9, root=first, parent=ANY),
    )
    final = world.row(sent.id)
    assert final is not None
    assert final.parent_task_id in ({member.id for member in members} if world.has_native_chords else {None})
    assert final.created_at == planned.created_at


@shape
def group_of_two(world: World) -> None:
    sent = group(world.tasks.add.s(1, 2), world.tasks.add.s(3, 4)).apply_async()
    for member, args, result in zip(sent.results, ((1, 2), (3, 4)), (3, 7), strict=True):
        expect(world, Row("add", id=member.id, args=args, result=result))


@shape
def starmap_and_chunks(world: World) -> None:
    add = world.tasks.add
    pairs = [[1, 1], [2, 2], [3, 3], [4, 4]]
    mapped = add.starmap(pairs).apply_async()
    row = world.wait(mapped.id, "SUCCESS")
    assert (row.name, row.result, row.task_kwargs["it"]) == ("celery.starmap", [2, 4, 6, 8], pairs)
    chunked = add.chunks([tuple(pair) for pair in pairs], 2).apply_async()
    for part, result in zip(chunked.results, ([2, 4], [6, 8]), strict=True):
        row = world.wait(part.id, "SUCCESS")
        assert (row.name, row.result, row.root_task_id) == ("celery.starmap", result, part.id)


@shape
def chord_of_two(world: World) -> None:
    header = [world.tasks.add.s(1, 1), world.tasks.add.s(2, 2)]
    sent = chord(header)(world.tasks.total.s())
    members = [one.id for one in sent.parent.results]
    expect(
        world,
        Row("add", id=members[0], args=(1, 1), result=2),
        Row("add", id=members[1], args=(2, 2), result=4),
        Row("total", id=sent.id, args=([2, 4],), result=6, root=ANY, parent=ANY),
    )
    body = world.row(sent.id)
    assert body is not None
    if world.has_native_chords:
        assert body.parent_task_id == body.root_task_id in members
    else:  # sent by celery.chord_unlock, which is not recorded
        assert (body.parent_task_id, body.root_task_id) == (None, sent.id)


@shape
def chord_with_chain_as_body(world: World) -> None:
    tasks = world.tasks
    first, second = fresh_id(), fresh_id()
    header = [tasks.add.s(1, 1).set(task_id=first), tasks.add.s(2, 2).set(task_id=second)]
    sent = chord(header)(tasks.total.s() | tasks.add.s(10))
    row = world.wait(sent.id, "SUCCESS")
    body = row.parent_task_id
    assert body is not None
    expect(
        world,
        Row("add", id=first, args=(1, 1), result=2),
        Row("add", id=second, args=(2, 2), result=4),
        Row("total", id=body, args=([2, 4],), result=6, root=ANY, parent=ANY),
        Row("add", id=sent.id, args=(6, 10), result=16, root=ANY, parent=body),
    )


@shape
def chord_body_fails(world: World) -> None:
    sent = chord([world.tasks.add.s(1, 1), world.tasks.add.s(2, 2)])(world.tasks.fail.s())
    members = [one.id for one in sent.parent.results]
    expect(
        world,
        Row("add", id=members[0], args=(1, 1), result=2),
        Row("add", id=members[1], args=(2, 2), result=4),
        Row(
            "fail",
            "FAILURE",
            sent.id,
            ([2, 4],),
            error="ValueError",
            message="boom",
            outcomes=["failed"],
            root=ANY,
            parent=ANY,
        ),
    )


@shape
def chord_header_fails(world: World) -> None:
    tasks = world.tasks
    good, bad = fresh_id(), fresh_id()
    header = [tasks.add.s(1, 1).set(task_id=good), tasks.fail.s(2).set(task_id=bad)]
    sent = chord(header)(tasks.total.s() | tasks.add.s(1))
    body = wait_for(lambda: (row := world.row(sent.id)) and row.parent_task_id, 30, "the end of the chain")
    message = f"Not sent: upstream task tests.workers.app.fail [{bad}]"
    unsent: dict[str, Any] = {"error": "ValueError", "message": message, "outcomes": ()}
    expect(
        world,
        Row("add", id=good, args=(1, 1), result=2),
        Row("fail", "FAILURE", bad, (2,), error="ValueError", message="boom", outcomes=["failed"]),
        Row("total", "FAILURE", body, root=bad, parent=bad, **unsent),
        Row("add", "FAILURE", sent.id, (1,), root=ANY, parent=body, **unsent),
    )


@shape
def chord_in_chain(world: World) -> None:
    tasks = world.tasks
    sent = chain(
        tasks.add.s(1, 1), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s(), tasks.add.s(1000)
    ).apply_async()
    body = sent.parent
    members = body.parent.results
    first = body.parent.parent.id
    expect(
        world,
        Row("add", id=first, args=(1, 1), result=2),
        Row("add", id=members[0].id, args=(2, 1), result=3, root=first, parent=first),
        Row("add", id=members[1].id, args=(2, 2), result=4, root=first, parent=first),
        Row("total", id=body.id, args=([3, 4],), result=7, root=first, parent=ANY),
        Row("add", id=sent.id, args=(7, 1000), result=1007, root=first, parent=body.id),
    )


@shape
def chord_in_chain_fails_before(world: World) -> None:
    """The whole rest of the workflow is there, and says why it never ran."""
    tasks = world.tasks
    sent = chain(tasks.fail.s(1), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s()).apply_async()
    members = sent.parent.results
    first = sent.parent.parent.id
    unsent: dict[str, Any] = {
        "error": "ValueError",
        "message": f"Not sent: upstream task tests.workers.app.fail [{first}]",
        "outcomes": (),
        "root": first,
    }
    expect(
        world,
        Row("fail", "FAILURE", first, (1,), error="ValueError", message="boom", outcomes=["failed"]),
        Row("add", "FAILURE", members[0].id, (1,), parent=first, **unsent),
        Row("add", "FAILURE", members[1].id, (2,), parent=first, **unsent),
        Row("total", "FAILURE", sent.id, (), parent=None, **unsent),
    )


@shape
def nested_chord(world: World) -> None:
    tasks = world.tasks
    sent = chord([chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s()), tasks.add.s(3, 3)])(tasks.total.s())
    row = world.wait(sent.id, "SUCCESS", seconds=60)
    assert row.result == 12
    related = world.workflow([one.id for one in sent.parent.results] + [sent.id])
    assert len(related) >= 3
    assert all(one.status == "SUCCESS" for one in related), related


@shape
def link_and_link_error(world: World) -> None:
    tasks = world.tasks
    fixed = tasks.link_fixed.s()
    fixed.set(task_id=fresh_id())
    good = tasks.add.apply_async((1, 1), link=fixed, link_error=tasks.errback.s())
    bad_link = tasks.link_fixed.s()
    bad_link.set(task_id=fresh_id())
    bad = tasks.fail.apply_async((), link=bad_link, link_error=tasks.errback.s())
    inline = tasks.fail.apply_async((), link_error=tasks.errback_inline.s())
    failed: dict[str, Any] = {"error": "ValueError", "message": "boom", "outcomes": ["failed"]}
    expect(
        world,
        Row("add", id=good.id, args=(1, 1), result=2),
        Row("link_fixed", id=fixed.id, args=(2,), result=2, root=good.id, parent=good.id),
    )
    expect(
        world,
        Row("fail", "FAILURE", bad.id, **failed),
        Row("errback", args=(bad.id,), result=bad.id, root=bad.id, parent=bad.id),
        Row(
            "link_fixed",
            "FAILURE",
            bad_link.id,
            error="ValueError",
            message=f"[{bad.id}]",
            outcomes=(),
            root=bad.id,
            parent=bad.id,
        ),
    )
    expect(world, Row("fail", "FAILURE", inline.id, **failed))


@shape
def tasks_start_tasks(world: World) -> None:
    sent = world.tasks.spawn.delay(2)
    expect(world, *_spawned(world, sent.id))


def _spawned(world: World, root: str) -> list[Row]:
    child = wait_for(
        lambda: [one.celery_task_id for one in world.workflow([root]) if one.task_args == [1]], 30, "the child"
    )[0]
    return [
        Row("spawn", id=root, args=(2,), result="depth 2"),
        Row("spawn", id=child, args=(1,), result="depth 1", root=root, parent=root),
        Row("spawn", args=(0,), result="depth 0", root=root, parent=child),
    ]


@shape
def eager_in_producer(world: World) -> None:
    tasks = world.tasks
    good = tasks.add.apply((1, 2))
    bad = tasks.fail.apply((1,))
    again = tasks.retry_until.apply((1,))
    expect(world, Row("add", id=good.id, args=(1, 2), result=3))
    expect(world, Row("fail", "FAILURE", bad.id, (1,), error="ValueError", message="boom", outcomes=["failed"]))
    expect(
        world,
        Row(
            "retry_until",
            id=again.id,
            args=(1,),
            result="after 1",
            retries=1,
            outcomes=["retried", "succeeded"],
            parent=ANY,
        ),
    )


@shape
def eager_in_worker(world: World) -> None:
    good = world.tasks.run_eagerly.delay("success")
    bad = world.tasks.run_eagerly.delay("failure")
    expect(
        world,
        Row("run_eagerly", id=good.id, args=("success",), result="SUCCESS"),
        Row("add", args=(1,), result=1, root=good.id, parent=good.id),
    )
    expect(
        world,
        Row("run_eagerly", id=bad.id, args=("failure",), result="FAILURE"),
        Row(
            "fail",
            "FAILURE",
            args=(1,),
            root=bad.id,
            parent=bad.id,
            error="ValueError",
            message="boom",
            outcomes=["failed"],
        ),
    )


# -- revoked, expired ----------------------------------------------------------------


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
    _publish_raw(world, json.dumps([[4, 1], {}, {}]).encode(), headers)
    gone: dict[str, Any] = {"error": "TaskRevokedError", "message": "expired", "outcomes": ()}
    expect(world, Row("add", "REVOKED", waiting.id, (3, 1), **gone))
    expect(world, Row("add", "REVOKED", late, (4, 1), foreign=True, **gone))


# -- messages that are none -------------------------------------------------------------


@shape
def unknown_task(world: World) -> None:
    sent = world.app.send_task("no.such.task", (1,), {"x": 2})
    expect(
        world,
        Row(
            "no.such.task",
            "FAILURE",
            sent.id,
            (1,),
            {"x": 2},
            error="NotRegistered",
            message="no.such.task",
            outcomes=(),
        ),
    )


@shape
def undecodable_body(world: World) -> None:
    task_id = fresh_id()
    _publish_raw(world, b"{not json", {"id": task_id, "task": "tests.workers.app.add"})
    row = world.wait(task_id, "REJECTED")
    assert row.error_type in ("DecodeError", "JSONDecodeError")
    assert (row.started_at, row.task_args) == (None, None)


@shape
def content_type_not_accepted(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add"}
    _publish_raw(world, b"- yaml", headers, content_type="application/x-yaml")
    row = world.wait(task_id, "REJECTED")
    assert row.error_type == "ContentDisallowed"


@shape
def invalid_eta(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add", "eta": "not a time", "root_id": task_id}
    _publish_raw(world, json.dumps([[1], {}, {}]).encode(), headers)
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
    """A message without a task header names no execution: nothing to record, and nothing breaks."""
    _publish_raw(world, json.dumps({"hello": "world"}).encode(), {"x": 1})
    success(world)


@shape
def arguments_not_a_mapping(world: World) -> None:
    task_id = fresh_id()
    headers = {"id": task_id, "task": "tests.workers.app.add", "root_id": task_id}
    _publish_raw(world, json.dumps([[1], [2], {}]).encode(), headers)
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


@shape
def publish_fails(world: World) -> None:
    """Nothing was sent, so there is no execution; nor is there a step of the workflow it would have begun."""
    task_id, later = fresh_id(), fresh_id()
    step = world.tasks.add.s(1)
    step.set(task_id=later)
    with pytest.raises(EncodeError):
        world.tasks.add.apply_async((object(),), task_id=task_id, chain=[step])
    success(world)  # what was recorded after it is stored
    assert (world.row(task_id), world.row(later)) == (None, None)


@shape
def not_recorded(world: World) -> None:
    """A task that opts out, and Celery's own chord_unlock and backend_cleanup."""
    sent = [world.tasks.unrecorded.delay(), world.app.send_task("celery.backend_cleanup")]
    for one in sent:
        wait_for(one.ready, 30, "an unrecorded task to run") if one is sent[0] else None
    success(world)
    assert [world.row(one.id) for one in sent] == [None, None]


def _plain_app(world: World, **conf: Any) -> Celery:
    """A producer that knows the broker and nothing else."""
    plain = Celery(f"plain-{uuid.uuid4().hex[:6]}", set_as_current=False, broker=world.plan.broker)
    plain.conf.update(task_default_queue=world.plan.queue, task_queues=world.app.conf.task_queues, **conf)
    world.others.append(plain)
    return plain


def _publish_raw(world: World, body: bytes, headers: dict[str, Any], content_type: str = "application/json") -> None:
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
