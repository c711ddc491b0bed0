"""A user without a home directory: tasks are recorded all the same, and where there is no place for the journal at all,
from memory, which one line of the log says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery

from celery_asynctask import install, uninstall
from celery_asynctask.journal import place, spare
from celery_asynctask.journal.survey import Survey
from celery_asynctask.operations.doctor import Finding, Level, examine
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


@pytest.fixture
def _nowhere(_no_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    for module in (place, spare):
        monkeypatch.setattr(module, "SHARED_MEMORY", str(tmp_path / "nowhere"))


def record_three(tmp_path: Path) -> None:
    app = Celery("homeless", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}")
    install(app)

    @app.task(name="shop.charge", shared=False)  # type: ignore[untyped-decorator]
    def charge() -> None: ...

    for _ in range(3):
        charge.delay()
    uninstall(app)
    app.close()


def are_stored(tmp_path: Path) -> None:
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    assert {partial.task["status"] for partial in stored(store).values()} == {"SUCCESS"}
    assert len(stored(store)) == 3
    store.close()


@pytest.mark.usefixtures("_nowhere")
def test_tasks_are_recorded_from_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "celery_asynctask"):
        record_three(tmp_path)
    [line] = [one for one in caplog.records if one.name.startswith("celery_asynctask")]
    assert "There is no place for the journal: this user has no home directory" in line.getMessage()
    assert "Set HOME, or asynctask_journal_dir to a directory of this user." in line.getMessage()
    assert line.exc_info is None
    are_stored(tmp_path)


@pytest.mark.usefixtures("_no_home")
def test_tasks_are_recorded_by_way_of_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a killed process leaves there is found by the next one of this user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with caplog.at_level(logging.WARNING, "celery_asynctask"):
        record_three(tmp_path)
    assert [one for one in caplog.records if one.name.startswith("celery_asynctask")] == []
    [directory] = tmp_path.glob("celery-asynctask-*")
    assert Survey(directory).segments() == []
    are_stored(tmp_path)
    [finding] = [one for one in findings_in(tmp_path) if one.check == "journal" and one.level is Level.NOTE]
    assert f"The journal is in {directory}, because this user has no home directory." in finding.text
    assert "asynctask_journal_dir" in finding.remedy


@pytest.mark.usefixtures("_nowhere")
def test_doctor_says_so(tmp_path: Path) -> None:
    findings = findings_in(tmp_path)
    [finding] = [one for one in findings if one.check == "journal"]
    assert finding.level is Level.PROBLEM
    assert "no home directory" in finding.text
    assert "asynctask_journal_dir" in finding.remedy
    assert not [one for one in findings if "Please report" in one.remedy]


def findings_in(tmp_path: Path) -> list[Finding]:
    app = Celery("homeless", broker="memory://", task_cls="celery_asynctask:RecordedTask", set_as_current=False)
    findings = list(examine(app, lambda: Settings(url=f"sqlite:///{tmp_path / 'rows.db'}")))
    uninstall(app)
    app.close()
    return findings
