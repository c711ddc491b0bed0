"""Commands in this process leave nothing behind."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from celery.app.log import Logging
from kombu.transport import memory

from celery_asynctask.capture import install
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.commands import Ended, Project
from tests.integration.purge import record

UNTIDY = """
import gc, logging, os, signal, sys
from celery import Celery, shared_task
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})

@shared_task
def shared():
    pass

@app.task(name="shop.charge")
def charge(number, text, currency):
    pass

os.environ["LEFT"] = "1"
os.chdir("/")
sys.path.append("/left")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
logging.basicConfig(level="ERROR")
gc.freeze()
"""


def state() -> dict[str, Any]:
    """Everything that a command in this process could change."""
    root = logging.getLogger()
    return {
        "apps": [app for app in _state._apps if app.main == "proj"],
        "collector": gc.freeze,
        "current app": (_state._tls.current_app, _state.default_app),
        "directory": Path.cwd(),
        "environment": dict(os.environ),
        "installed": set(install._installed),
        "logging": (list(root.handlers), root.level, list(logging.getLogger("celery.task").handlers), Logging._setup),
        "messages": set(memory.Channel.queues),
        "modules": {name for name in sys.modules if name.startswith("proj")},
        "path": list(sys.path),
        "receivers": [len(one.receivers) for one in install._RECEIVERS],
        "shared tasks": set(_state._on_app_finalizers),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "the streams' files": (sys.__stdout__, sys.__stderr__),
        "threads": set(threading.enumerate()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "zone": (time.tzname, time.timezone),
    }


@pytest.fixture
def recorded(tmp_path: Path) -> Store:
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    store.prepare()
    record(store, "success", "a")
    store.close()
    return store


@pytest.mark.parametrize("words", [("rerun", "a", "--yes", "--json"), ("recorder", "--once")], ids=" ".join)
def test_nothing_is_left(recorded: Store, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Commands of a project that changes as much as it can, and commands that record and log."""
    current = Celery("current", broker="memory://")
    project = Project(
        tmp_path, UNTIDY, asynctask_url=recorded.settings.url, asynctask_journal_dir=str(tmp_path / "journal")
    )
    before, frozen = state(), gc.get_freeze_count()
    ended = project.run(*words, TZ="Asia/Kathmandu")
    gc.collect()
    assert ended.code == 0, ended
    assert state() == before
    assert gc.get_freeze_count() <= frozen
    current.close()


def test_a_project_is_read_anew(tmp_path: Path) -> None:
    """Also one of the same size, written in the same second."""
    for name in ("one", "two", "six"):
        ended = Project(tmp_path, asynctask_url=f"sqlite:///{name}.db").run("list")
        assert (ended.code, f"{name}.db" in ended.err) == (3, True), ended


def test_its_exceptions_fail_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    before = state()
    monkeypatch.setattr("celery_asynctask.cli.upgrade.statements", fails)
    with pytest.raises(ZeroDivisionError):
        Project(tmp_path, asynctask_url="sqlite:///x.db").run("schema")
    assert state() == before


def test_what_is_logged_is_on_standard_error(recorded: Store, tmp_path: Path) -> None:
    source = "import logging\nlogging.getLogger('shop').warning('logged')\nlogging.getLogger('shop').info('not')\n"
    project = Project(tmp_path, source + "from celery import Celery\napp = Celery('proj')\n")
    found = project.run("schema", group=("--url", "sqlite://"))
    assert (found.code, found.err) == (0, "logged\n")
    assert project.run_process("schema", group=("--url", "sqlite://")) == Ended(0, found.out, "logged\n")
