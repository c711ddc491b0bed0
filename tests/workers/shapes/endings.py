"""Attempts that do not end normally: retried, ignored, rejected, replaced, out of time, killed, or with a result that
cannot be stored."""

from __future__ import annotations

import datetime as dt
from typing import Any

from celery import chain

from tests.pace import patience
from tests.workers.expect import Row, expect
from tests.workers.harness import ANY, World
from tests.workers.shapes.registry import ENDS_SOLO, prefork_only, shape


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
    """The first attempt ends a second after the second one has succeeded."""
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


GONE = {"$asynctask": "redacted"}
SECRET = "correct horse battery staple"


@shape
def secret_that_is_quoted(world: World) -> None:
    """It is redacted as an argument, and said without its name."""
    leak, add = world.tasks.leak, world.tasks.add
    ways: dict[str, dict[str, Any]] = {
        "reject": {"status": "REJECTED", "error": "Reject", "message": "not ***", "outcomes": ["rejected"]},
        "retry": {"status": "FAILURE", "error": "KeyError", "message": "'***'", "outcomes": ["retried", "failed"]},
        "result": {"result": [{**GONE, "text": "***"}, {"said": {**GONE, "text": "***"}}]},
        "unserializable": {"status": "FAILURE", "error": "EncodeError", "message": "***", "outcomes": ["failed"]},
    }
    sent = {way: leak.delay(SECRET, way).id for way in ways}
    for way, expected in ways.items():
        expect(world, Row("leak", id=sent[way], args=(GONE, way), retries=int(way == "retry"), **expected))
    last = chain(leak.s(SECRET, "insert"), add.si(1, 1)).apply_async()
    first = last.parent.id
    error: dict[str, Any] = {"error": "IntegrityError", "message": "Key (word)=(***) already exists"}
    expect(
        world,
        Row("leak", "FAILURE", first, args=(GONE, "insert"), outcomes=["failed"], **error),
        Row("add", "FAILURE", last.id, args=(1, 1), root=first, parent=first, outcomes=(), **error),
    )
    for task_id in (*sent.values(), first, last.id):
        for said in (world.row(task_id), *world.attempts(task_id)):
            assert SECRET not in str(said.__dict__)


@prefork_only
@shape
def child_killed_after_its_result_with_a_secret_was_stored(world: World) -> None:
    """The worker's main process records this end."""
    sent = world.tasks.die_with_secret.delay(SECRET)
    expect(world, Row("die_with_secret", id=sent.id, args=(GONE,), result={**GONE, "text": "it is ***"}))


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
def no_exception(world: World) -> None:
    for name, error, message in (("CancelledError", "CancelledError", ""), ("Own", "Own", "mine")):
        sent = world.tasks.end_with.delay(name)
        expect(
            world,
            Row("end_with", "FAILURE", sent.id, (name,), error=error, message=message, outcomes=["failed"]),
        )


ENDS_SOLO.add("no_exception")


@shape
def retry_without_a_message(world: World) -> None:
    sent = world.tasks.raise_retry.delay()
    message = "The retry was not sent: later"
    expect(world, Row("raise_retry", "FAILURE", sent.id, error="Retry", message=message, outcomes=["failed"]))


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
