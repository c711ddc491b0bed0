"""`celery asynctask rerun`: a recorded task runs again with equal arguments, linked, and never twice by accident."""

from __future__ import annotations

import base64
import os
import pickle
import pty
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.core.event import Event, encode
from celery_asynctask.queries import Reader
from celery_asynctask.queries import reruns as module
from celery_asynctask.queries.reruns import Reruns, reruns, routing_keys
from celery_asynctask.queries.task import find
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask
from tests import services
from tests.histories import HISTORIES, Delivery, about, ms, published, variant
from tests.integration.commands import SECONDS, Project
from tests.pace import patience
from tests.unit.operations.test_rerun import VALUES
from tests.waiting import wait_for
from tests.workers import harness

WORKER = """
import base64, pickle
from celery import Celery
app = Celery("proj", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})

@app.task
def note(*args, **kwargs):
    with open("notes", "ab") as file:
        file.write(base64.b64encode(pickle.dumps((args, kwargs))) + b"\\n")
"""
WITHOUT = ("--without-gossip", "--without-mingle", "--without-heartbeat")
PRODUCER = """
import pickle
from celery_asynctask import context
from proj import note
with open("values", "rb") as file:
    args, kwargs = pickle.load(file)
with context(customer=42, created_by=7, created_by_name="Ada", content=dict(order=17)):
    print(note.delay(*args, **kwargs).id)
"""
PICKY = """
from celery import Celery
from celery_asynctask import RecordedTask

class Picky(RecordedTask):
    abstract = True
    def apply_async(self, args=None, kwargs=None, **options):
        if args == ["unlucky"]:
            raise RuntimeError("not this one")
        return super().apply_async(args, kwargs, **options)

app = Celery("proj", broker="memory://", task_cls=Picky)
app.conf.update({settings!r})

@app.task(name="shop.charge")
def charge(*args, currency=None):
    pass
"""


def row(store: Store, task_id: str) -> AsyncTask | None:
    with Session(store.engine, expire_on_commit=False) as session:
        return session.scalar(select(AsyncTask).where(AsyncTask.celery_task_id == task_id))


def rerun_rows(store: Store) -> list[AsyncTask]:
    """The new tasks, in the order in which they were sent."""
    with Session(store.engine, expire_on_commit=False) as session:
        found = session.scalars(select(AsyncTask).order_by(AsyncTask.created_at, AsyncTask.id)).all()
    return [one for one in found if "rerun_of" in (one.content or {})]


def add(store: Store, *events: Event) -> None:
    store.write([encode(event) for event in events])


def over(task_id: str, at: int = 0, **more: Any) -> list[Event]:
    """A task that has succeeded, with other arguments."""
    told = about(HISTORIES["success"](), task_id)
    return [variant(one, **(more if one.get("asked") else {}), created=ms(at)) for one in told]


# -- a worker


@pytest.fixture
def working(store: Store, tmp_path: Path) -> Iterator[Project]:
    """A project with a running worker."""
    broker, queue = services.redis_url(7), f"rerun-{uuid.uuid4().hex[:12]}"
    project = Project(
        tmp_path,
        WORKER,
        broker_url=broker,
        task_default_queue=queue,
        asynctask_url=store.settings.url,
        asynctask_journal_dir=str(tmp_path / "journal"),
        asynctask_flush_interval=0.05,
    )
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", "worker", "-P", "solo", "-l", "INFO", *WITHOUT],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: harness.ready(process, log), harness.START_SECONDS, f"the worker; its log is {log}")
        yield project
    finally:
        harness.stop(process)
        with Redis.from_url(broker) as redis:
            redis.delete(queue, f"_kombu.binding.{queue}")


@pytest.mark.broker
def test_it_runs_again(store: Store, working: Project) -> None:
    given = (tuple(VALUES), {"at": VALUES[0], "nested": {"id": VALUES[4]}})
    (working.path / "values").write_bytes(pickle.dumps(given))
    producer = [sys.executable, "-c", PRODUCER]
    old = subprocess.run(producer, cwd=working.path, check=True, capture_output=True, encoding="utf-8").stdout.strip()

    def done(task_id: str) -> Any:
        found = row(store, task_id)
        return found if found is not None and found.status == "SUCCESS" else None

    original = wait_for(lambda: done(old), SECONDS, "the original")
    ended = working.run("rerun", old, "--by", "Grace", "--yes", "--json")
    assert ended.code == 0, ended.err
    [told] = ended.values
    assert (told["celery_task_id"], told["refusals"], told["remarks"]) == (old, [], [])
    assert told["queue"].startswith("rerun-")
    new = wait_for(lambda: done(told["sent"]), SECONDS, "the rerun")
    assert new.content == {"order": 17, "rerun_of": old, "rerun_by": "Grace"}
    assert (new.customer, new.created_by, new.created_by_name) == (42, 7, "Ada")
    assert (new.name, new.task_args, new.task_kwargs) == (original.name, original.task_args, original.task_kwargs)
    assert (new.root_task_id, new.parent_task_id) == (new.celery_task_id, None)
    notes = [pickle.loads(base64.b64decode(line)) for line in (working.path / "notes").read_bytes().splitlines()]
    assert notes == [given, given]
    assert [type(one) for one in notes[1][0]] == [type(one) for one in VALUES]
    shown = working.run("show", new.celery_task_id).out
    assert f'"rerun_of": "{old}"' in shown
    assert '"rerun_by": "Grace"' in shown

    ended = working.run("rerun", old, "--yes")
    assert ended.code == 1
    assert f"it was already rerun once, last as {new.celery_task_id}" in ended.out
    ended = working.run("rerun", old, "--again")
    assert (ended.code, ended.err) == (2, "Error: Not sent: no terminal to confirm on. Use --yes to rerun 1 task.\n")
    ended = working.run("rerun", old, "--again", "--json")
    assert (ended.code, ended.err) == (2, "Error: Not sent: --json does not ask. Use --yes to rerun 1 task.\n")
    assert ended.values[0]["customer"] == 42, "the preview is there all the same"
    assert len(rerun_rows(store)) == 1


# -- many tasks, and tasks that cannot be rerun


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project on SQLite with a broker in its own process."""
    return Project(
        tmp_path, PICKY, asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}", asynctask_journal_dir=str(tmp_path / "j")
    )


@pytest.fixture
def rows(project: Project) -> Iterator[Store]:
    from celery_asynctask.settings import Settings

    made = Store(Settings(url=f"sqlite:///{project.path / 'rows.db'}"))
    made.prepare()
    yield made
    made.close()


def test_many(project: Project, rows: Store) -> None:
    """Oldest first; tasks that cannot be sent stop no others."""
    redacted = {"password": {"$asynctask": "redacted"}}
    add(
        rows,
        *over("a1", 1, args=["first"]),
        *over("a2", 2, args=["unlucky"]),
        *over("a3", 3, kwargs=redacted),
        *about(HISTORIES["found_and_running"](), "a4"),
        *over("a5", 5, args=["last\x1b[2J"]),
        *over("b1", 0, name="shop.other"),
    )
    ended = project.run("rerun", "--search", "name:shop.charge", "--yes", "--by", "Grace")
    assert ended.code == 1
    assert "\x1b" not in ended.out
    assert "a3 cannot be rerun: its kwargs are incomplete: password is redacted." in ended.lines
    assert any(line.startswith("a4 cannot be rerun: it is still STARTED") for line in ended.lines)
    assert "a2 could not be rerun: RuntimeError: not this one" in ended.lines
    sent = rerun_rows(rows)
    assert [one.content["rerun_of"] for one in sent] == ["a1", "a5"]
    assert [f"{one.content['rerun_of']} was rerun as {one.celery_task_id}" for one in sent] == ended.lines[-3::2]
    again = project.run("rerun", "--search", "name:shop.charge content.rerun_of:none", "--yes", "--json", "-n", "2")
    assert again.code == 1
    assert "these are the newest 2" in again.err
    assert [one["celery_task_id"] for one in again.values] == ["a3", "a5"]
    assert "already rerun once" in again.values[1]["refusals"][0]
    assert len(rerun_rows(rows)) == 2


def ask(project: Project, answer: str) -> tuple[int, str]:
    """The command as a person at a terminal types it: exit code and standard error."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "rerun", "a1", "a1"],
        cwd=project.path,
        stdin=there,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "SUDO_USER": "hopper"},
    )
    os.close(there)
    os.write(here, f"{answer}\n".encode())
    _, err = process.communicate(timeout=patience(SECONDS))
    os.close(here)
    return process.returncode, err


def test_it_asks(project: Project, rows: Store) -> None:
    add(rows, *over("a1"))
    code, err = ask(project, "n")
    assert (code, "Rerun 1 task?" in err, "Not sent." in err) == (1, True, True)
    assert rerun_rows(rows) == []
    code, err = ask(project, "y")
    assert code == 0, err
    [sent] = rerun_rows(rows)
    assert sent.content == {"rerun_of": "a1", "rerun_by": "hopper"}


def test_how_it_fails(project: Project, rows: Store) -> None:
    add(rows, *over("a1"))
    for arguments, code, told in (
        (("rerun",), 2, "Give either task ids or --search."),
        (("rerun", "a1", "--search", "shop"), 2, "Give either task ids or --search."),
        (("rerun", "a1", "zz", "--yes"), 1, "No task has the id zz"),
        (("rerun", "--search", "nokey:1", "--yes"), 2, "no key 'nokey'"),
        (("rerun", "--search", "shop", "--limit", "1001"), 2, "1001 is not in the range"),
    ):
        ended = project.run(*arguments)
        assert (ended.code, told in ended.err) == (code, True), ended
    assert rerun_rows(rows) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"broker_url": "redis://:secret@127.0.0.1:9/0"}, "The broker redis://:**@127.0.0.1:9/0 cannot be reached"),
        ({"broker_url": "amqp://127.0.0.1:9//?token=secret"}, "The broker cannot be reached: "),
        ({"asynctask_enabled": False}, "asynctask_enabled is False here"),
        ({"task_always_eager": True}, "task_always_eager is set"),
    ],
    ids=["broker", "no_broker", "off", "eager"],
)
def test_where_nothing_can_be_sent(project: Project, rows: Store, settings: Any, told: str) -> None:
    add(rows, *over("a1"))
    wrong = Project(
        project.path,
        PICKY,
        asynctask_url=rows.settings.url,
        asynctask_journal_dir=str(project.path / "j"),
        **settings,
    )
    ended = wrong.run("rerun", "a1", "--yes")
    assert (ended.code, told in ended.err) == (1, True), ended
    assert "secret" not in ended.err
    assert rerun_rows(rows) == []


SENDER = """
from celery import Celery
app = Celery("proj", broker="memory://")
app.conf.update({settings!r})
"""


def test_an_app_that_only_sends_and_does_not_record(project: Project, rows: Store) -> None:
    """The link is still set. A refused rerun makes it exit with 1, and stops no others."""
    add(rows, *over("a1"), *over("a2", kwargs={"password": {"$asynctask": "redacted"}}))
    sender = Project(
        project.path, SENDER, asynctask_url=rows.settings.url, asynctask_journal_dir=str(project.path / "j")
    )
    ended = sender.run("rerun", "a2", "a1", "--yes", "--queue", "slow", "--by", "Grace")
    assert ended.code == 1, ended.err
    assert "name and arguments are not checked; its last attempt had the routing key celery." in ended.out
    [sent] = rerun_rows(rows)
    assert (sent.name, sent.content) == ("shop.charge", {"rerun_of": "a1", "rerun_by": "Grace"})


# -- queries


def look(store: Store, *task_ids: str) -> Reruns:
    reader = Reader(store.settings.url)
    try:
        with reader.session() as session:
            return reruns(reader, session, [find(reader, session, task_id) for task_id in task_ids])
    finally:
        reader.close()


def of(original: Any, task_id: str, at: int, **more: Any) -> Event:
    content = {"rerun_of": original, "rerun_by": "x"}
    return variant(published(at, at, content=content, root=task_id, parent=None), id=task_id, **more)


@pytest.mark.every_database
def test_earlier_reruns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that a rerun starts have its content, too, but are no reruns."""
    add(
        store,
        *over("a1"),
        *over("a2"),
        *over("a3"),
        *over("total", name="shop.total"),
        of("a1", "n1", 10),
        of("a1", "n2", 20),
        of("a2", "n3", 30),
        of("a1", "child", 11, root="n1", parent="n1"),
        of("a1", "chord-body", 12, name="shop.total"),
        of("elsewhere", "n4", 13),
        of(["a1"], "odd", 14),
        of(None, "none", 15),
    )
    found = look(store, "a1", "a2", "a3", "total")
    assert {identity: [one.celery_task_id for one in these] for identity, these in found.by_task.items()} == {
        ("a1", ""): ["n2", "n1"],
        ("a2", ""): ["n3"],
    }
    assert found.looked_back_to is None
    assert look(store) == Reruns({}, None)
    monkeypatch.setattr(module, "MAX_SCANNED", 2)
    bounded = look(store, "a1")
    assert [one.celery_task_id for one in bounded.by_task["a1", ""]] == ["n2"]
    assert bounded.looked_back_to == bounded.by_task["a1", ""][0].created_at


@pytest.mark.every_database
def test_which_way_tasks_came(store: Store) -> None:
    """The routing key of the latest known attempt."""
    first, second = Delivery(2), Delivery(10, retries=1)
    told = about([first.started(3, queue="old"), second.started(11, queue="new")], "a1")
    add(store, *told, *over("a2"), published())
    reader = Reader(store.settings.url)
    with reader.session() as session:
        tasks = [find(reader, session, task_id) for task_id in ("a1", "a2")]
        assert routing_keys(session, tasks) == {("a1", ""): "new", ("a2", ""): "celery"}
    reader.close()
