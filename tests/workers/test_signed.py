"""Signed headers, in real workers: what names a customer without a key makes no row of that customer."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, signature
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, context
from celery_asynctask.capture.signing import sign
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import unsigned
from tests import services
from tests.pace import patience
from tests.workers.harness import World
from tests.workers.test_identity import KEYS as PLACES
from tests.workers.test_identity import NAME
from tests.workers.test_shapes import plan_for

pytestmark = pytest.mark.broker

OLD, NEW = "an-old-key-of-which-few-know-why", "a-new-key-that-only-workers-know-"
CLAIM = {"customer": 666, "created_by": 6, "created_by_name": "Mallory"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SHAPES_KEYS", f"{NEW} {OLD}")
    with services.fresh_database(services.postgresql_url()) as store:
        world = World(plan_for("redis", store, tmp_path))
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def stranger(world: World) -> Iterator[Celery]:
    """An application without recording and without a key."""
    world.unshare_tasks()
    with Celery("stranger", set_as_current=False, broker=world.plan.broker, backend=world.plan.backend) as app:
        app.conf.update({key: world.app.conf[key] for key in PLACES if not key.startswith("asynctask")})
        yield app


def publish(stranger: Celery, name: str, header: Any, **embed: Any) -> str:
    """Send a message of any form; ``embed`` is what Celery puts steps into."""
    task_id = str(uuid.uuid4())
    headers = {"lang": "py", "task": f"{NAME}{name}", "id": task_id, "root_id": task_id, "asynctask": header}
    with stranger.producer_pool.acquire(block=True) as producer:
        producer.publish(
            [[1], {}, embed],
            headers=headers,
            correlation_id=task_id,
            serializer="json",
            exchange="",
            routing_key=stranger.conf.task_default_queue,
        )
    return task_id


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_only_who_has_a_key_speaks_for_a_customer(world: World, stranger: Celery, pool: str) -> None:
    step: dict[str, Any] = {"task": f"{NAME}add", "args": [], "kwargs": {}, "subtask_type": None}
    step["options"] = {"task_id": str(uuid.uuid4()), "headers": {"asynctask": CLAIM}}
    captured = sign(CLAIM, str(uuid.uuid4()), NEW.encode())
    forged = [
        publish(stranger, "spawn", CLAIM),
        publish(stranger, "spawn", json.dumps({"v": 2, **CLAIM})),
        publish(stranger, "spawn", captured),
        publish(stranger, "spawn", sign(CLAIM, "x", b"no key of theirs, or one of before")),
        publish(stranger, "spawn", {}, asynctask={**CLAIM, "here": ["signed"]}),
        publish(stranger, "spawn", CLAIM, asynctask=CLAIM, is_eager=True),
        publish(stranger, "retry_until", CLAIM, headers={"asynctask": CLAIM}),
        publish(stranger, "add", CLAIM, chain=[step]),
        publish(stranger, "no_such_task", CLAIM, chain=[step]),
    ]
    with_old_key = str(uuid.uuid4())
    stranger.send_task(
        f"{NAME}add", (1,), task_id=with_old_key,
        headers={"asynctask": sign({"customer": 7}, with_old_key, OLD.encode())},
    )  # fmt: skip
    with context(customer=7, created_by_name="Ada"):
        steps = chain(world.tasks.retry_until.s(1), signature(f"{NAME}add", args=(1, 1), app=world.app, immutable=True))
        last = steps.apply_async()
        body = chord([world.tasks.add.s(1, 1), world.tasks.add.s(2, 2)])(world.tasks.total.s())
        spawned = world.tasks.spawn.delay(1)
    with world.worker("-P", pool, "-c2"):
        assert last.get(timeout=patience(20)) == 2
        assert body.get(timeout=patience(20)) == 6
        own = [last.parent.id, last.id, body.id, spawned.id, with_old_key]
        assert [world.wait(one, "SUCCESS").customer for one in own] == [7] * 5
        for one in forged[:-1]:
            row = world.wait(one, "SUCCESS")
            assert (row.customer_key, row.created_by_key, row.created_by_name) == ("", None, None)
        world.wait(forged[-1], "FAILURE")
        world.wait_until_idle()
        world.forget_results()
    with Session(world.engine) as session:
        rows = session.execute(select(AsyncTask.customer, AsyncTask.created_by, AsyncTask.created_by_name)).all()
    of_seven = [row for row in rows if row.customer == 7]
    assert len(of_seven) == len(own) + 3, "the header of the chord, and what was spawned"
    assert len(rows) == len(own) + 3 + len(forged) + 6 + 1, "each of those that spawn has sent another"
    assert {tuple(row) for row in rows} == {(7, None, "Ada"), (7, None, None), (None, None, None)}
    reader = Reader(world.plan.store)
    with reader.session() as session:
        counted = unsigned(session, dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=1))
    reader.close()
    assert sum(counted.values()) >= 7
    assert world.log.read_text().count("is not signed with a key") >= 1


def test_neither_do_the_steps_of_its_steps(world: World, stranger: Celery) -> None:
    ids: list[str] = []

    def step(name: str, *args: Any, claims: bool = False, **options: Any) -> dict[str, Any]:
        task_id = str(uuid.uuid4())
        options |= {"task_id": task_id} | ({"headers": {"asynctask": CLAIM}} if claims else {})
        ids.extend([task_id] if claims else [])
        made: dict[str, Any] = {
            "task": f"{NAME}{name}",
            "args": args,
            "kwargs": {},
            "subtask_type": None,
            "immutable": True,
        }
        return {**made, "options": options}

    def claimed(**options: Any) -> dict[str, Any]:
        return step("add", 1, claims=True, **options)

    body = claimed()
    joined = {"header": [step("add", 1), step("add", 2)], "body": body}
    options = {"task_id": body["options"]["task_id"]}
    of_chord = {"task": "celery.chord", "args": [], "kwargs": joined, "options": options, "subtask_type": "chord"}
    failing = step("fail", link_error=[step("errback", "x", claims=True)])
    publish(stranger, "add", CLAIM, chain=[claimed(), step("add", 1)])
    publish(stranger, "add", {}, callbacks=[step("add", 1, link=[claimed()])])
    publish(stranger, "add", {}, chain=[of_chord])
    publish(stranger, "add", {}, callbacks=[failing])
    publish(stranger, "retry_until", {}, chain=[claimed(), step("add", 1)])
    publish(stranger, "fail", CLAIM, errbacks=[step("errback", "x", claims=True, link=[claimed()])])
    publish(stranger, "over_hard_limit", CLAIM, errbacks=[step("errback", "x", claims=True, link=[claimed()])])
    ours = str(uuid.uuid4())
    last = claimed()
    ids.remove(last["options"]["task_id"])
    with context(customer=7):
        chain(
            world.tasks.add.s(1, 1).set(task_id=ours), signature(step("add", 1)), signature(last), app=world.app
        ).apply_async()
    with world.worker("-P", "prefork", "-c2"):
        for one in ids:
            row = world.wait(one, "SUCCESS")
            assert (row.customer_key, row.created_by_key, row.created_by_name) == ("", None, None)
        assert world.wait(ours, "SUCCESS").customer == 7
        assert world.wait(last["options"]["task_id"], "SUCCESS").customer == 666, "it is a step of ours that says so"
        world.wait_until_idle()
        world.forget_results()
    with Session(world.engine) as session:
        of_mallory = session.scalars(select(AsyncTask.celery_task_id).where(AsyncTask.customer == 666)).all()
    assert of_mallory == [last["options"]["task_id"]]


def test_no_field_of_a_message_passes_for_what_we_keep_of_its_run(world: World, stranger: Celery) -> None:
    kept = ("start", "undo", "steps", "secrets", "encoder", "content", "sent_again")
    with stranger.producer_pool.acquire(block=True) as producer:
        sent = []
        for name in ("add", "fail", "retry_until"):
            for value in ("x", [1], {"a": 1}):
                sent.append((str(uuid.uuid4()), "FAILURE" if name == "fail" else "SUCCESS"))
                about = {"lang": "py", "task": f"{NAME}{name}", "id": sent[-1][0], "root_id": sent[-1][0]}
                producer.publish(
                    [[1], {}, {}],
                    headers={**about, **{f"asynctask_{one}": value for one in kept}},
                    correlation_id=sent[-1][0],
                    serializer="json",
                    exchange="",
                    routing_key=stranger.conf.task_default_queue,
                )
    with world.worker("-P", "prefork", "-c2"):
        for one, status in sent:
            world.wait(one, status)
        world.wait_until_idle()
        world.forget_results()
    assert "could not record" not in world.log.read_text()
