"""A user without a home directory: tasks are recorded from memory, and one line of the log says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery

from celery_asynctask import install, uninstall
from celery_asynctask.operations.doctor import Level, examine
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.rows import stored


@pytest.fixture
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like an arbitrary user id in a container, which has none."""

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("_no_home")
def test_tasks_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("homeless", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}")
    install(app)

    @app.task(name="shop.charge", shared=False)  # type: ignore[untyped-decorator]
    def charge() -> None: ...

    with caplog.at_level(logging.WARNING, "celery_asynctask"):
        for _ in range(3):
            charge.delay()
        uninstall(app)
    [line] = [one for one in caplog.records if one.name.startswith("celery_asynctask")]
    assert "This user has no home directory for the journal: set HOME, or asynctask_journal_dir" in line.getMessage()
    assert line.exc_info is None
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    assert {partial.task["status"] for partial in stored(store).values()} == {"SUCCESS"}
    assert len(stored(store)) == 3
    store.close()
    app.close()


@pytest.mark.usefixtures("_no_home")
def test_doctor_says_so(tmp_path: Path) -> None:
    app = Celery("homeless", broker="memory://", task_cls="celery_asynctask:RecordedTask", set_as_current=False)
    findings = list(examine(app, lambda: Settings(url=f"sqlite:///{tmp_path / 'rows.db'}")))
    [finding] = [one for one in findings if one.check == "journal"]
    assert finding.level is Level.PROBLEM
    assert "no home directory" in finding.text
    assert "asynctask_journal_dir" in finding.remedy
    assert not [one for one in findings if "Please report" in one.remedy]
    uninstall(app)
    app.close()
