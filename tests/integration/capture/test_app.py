"""A recorded app remains the user's: it pickles, and its own AMQP class is used."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.app.amqp import AMQP
from kombu.utils.objects import cached_property
from sqlalchemy import create_engine, func, select

from celery_asynctask import install, uninstall
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource
from tests.pace import patience


class OwnAMQP(AMQP):
    """Counts sent messages, in place of Celery's own cached property."""

    sent = 0

    @cached_property
    def send_task_message(self) -> Any:
        send = self._create_task_sender()

        def counting(*args: Any, **kwargs: Any) -> Any:
            OwnAMQP.sent += 1
            return send(*args, **kwargs)

        return counting


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("mine", broker="memory://", amqp=OwnAMQP, set_as_current=False)
    app.conf.update(asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}", asynctask_journal_dir=tmp_path / "journal")
    install(app)
    yield app
    uninstall(app)


def test_its_own_amqp_class_sends(app: Celery) -> None:
    before = OwnAMQP.sent
    app.send_task("anything")
    assert OwnAMQP.sent == before + 1


def test_it_pickles_also_after_it_has_recorded(app: Celery) -> None:
    app.send_task("anything")
    copy = pickle.loads(pickle.dumps(app))
    assert (copy.main, copy.amqp_cls, instrumentation_of(copy)) == ("mine", OwnAMQP, None)
    copy.close()


def test_what_stood_in_for_the_sender_is_put_back(app: Celery) -> None:
    uninstall(app)
    app.amqp.__dict__["send_task_message"] = theirs = object()
    install(app)
    assert app.amqp.__dict__["send_task_message"] is not theirs
    uninstall(app)
    assert app.amqp.__dict__["send_task_message"] is theirs


def test_the_loader_is_left_as_it_was(app: Celery) -> None:
    assert "on_task_init" in app.loader.__dict__
    uninstall(app)
    assert "on_task_init" not in app.loader.__dict__


def test_a_mock_that_recording_stands_in_for_has_its_assertions(app: Celery) -> None:
    uninstall(app)
    app.amqp.__dict__["send_task_message"] = Mock()
    install(app)
    app.send_task("anything")
    app.amqp.send_task_message.assert_called_once()
    with pytest.raises(AttributeError):
        _ = app.amqp.send_task_message._of_our_own


def test_a_message_with_nonsense_in_its_lineage_is_recorded(app: Celery, tmp_path: Path) -> None:
    """It must not hold up what comes after it."""
    import sqlite3

    app.send_task("odd", root_id=["x"], parent_id={"y": 1})
    app.send_task("even")
    uninstall(app)
    connection = sqlite3.connect(tmp_path / "rows.db")
    try:
        rows = connection.execute("SELECT name, parent_task_id FROM async_task ORDER BY name").fetchall()
    finally:
        connection.close()
    assert rows == [("even", None), ("odd", None)]


def test_threads_that_send_the_first_tasks_at_once(tmp_path: Path) -> None:
    """Like the threads of a web server, each of which installs: everything is recorded once."""
    threads, interval = 6, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(20):
            app = Celery("web", broker="memory://", set_as_current=False)
            app.conf.update(asynctask_url=f"sqlite:///{tmp_path / str(number)}.db", asynctask_flush_interval=60)
            app.conf.asynctask_journal_dir = tmp_path / str(number)
            barrier = threading.Barrier(threads)

            def send(app: Celery = app, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(patience(30))
                install(app)
                app.send_task("sent")

            senders = [threading.Thread(target=send) for _ in range(threads)]
            for one in senders:
                one.start()
            for one in senders:
                one.join()
            uninstall(app)  # stores it
            engine = create_engine(app.conf.asynctask_url)
            with engine.connect() as connection:
                assert len(connection.execute(select(AsyncTask.id)).all()) == threads, number
                assert connection.scalars(select(func.sum(AsyncTaskSource.stored))).all() == [threads], number
            engine.dispose()
            app.close()
    finally:
        sys.setswitchinterval(interval)


def test_what_is_chosen_while_the_whole_app_is_installed_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that looks at a task meanwhile has read the recorded value before."""
    app = Celery("wider", broker="memory://", set_as_current=False)
    app.conf.update(asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}", asynctask_journal_dir=tmp_path / "journal")

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    plain.apply()  # so that it is known
    install(app, whole_app=False)
    instrumentation = instrumentation_of(app)
    assert instrumentation is not None
    records = instrumentation._records

    def meanwhile(name: str, task: Any) -> bool:
        recorded = records(name, task)
        install(app)
        return recorded

    try:
        with monkeypatch.context() as patched:
            patched.setattr(instrumentation, "_records", meanwhile)
            assert not instrumentation.records("plain")
        assert instrumentation.records("plain")
    finally:
        uninstall(app)
