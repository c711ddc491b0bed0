"""Chains, groups, chords, links, and tasks that start others."""

from __future__ import annotations

from typing import Any

from celery import chain, chord, group

from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.expect import Row, expect, fresh_id
from tests.workers.harness import ANY, World
from tests.workers.shapes.registry import shape


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
    """Before the first step runs, the later steps have rows."""
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
def chord_over_chains(world: World) -> None:
    """The chord is joined by the last task of each chain; its unlocking was sent before any of them."""
    tasks = world.tasks
    header = [chain(tasks.add.s(1, 1), tasks.add.s(2)), chain(tasks.add.s(3, 3), tasks.add.s(4))]
    sent = chord(header)(tasks.total.s())
    lasts = [one.id for one in sent.parent.results]
    firsts = [one.parent.id for one in sent.parent.results]
    expect(
        world,
        Row("add", id=firsts[0], args=(1, 1), result=2),
        Row("add", id=firsts[1], args=(3, 3), result=6),
        Row("add", id=lasts[0], args=(2, 2), result=4, root=firsts[0], parent=firsts[0]),
        Row("add", id=lasts[1], args=(6, 4), result=10, root=firsts[1], parent=firsts[1]),
        Row("total", id=sent.id, args=([4, 10],), result=14, root=ANY, parent=ANY),
    )


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
    """The whole rest of the workflow has rows, which say why it never ran."""
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
