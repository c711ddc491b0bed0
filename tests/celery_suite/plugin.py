"""A pytest plugin that records every Celery app of a test run; made for Celery's own test suite.

In a directory that holds ``t`` and ``pyproject.toml`` of Celery's source distribution, with this one on PYTHONPATH::

    python -m pytest -p celery.contrib.pytest -p plugin --asynctask=install --asynctask-dir=DIRECTORY t/unit

``--asynctask=install`` calls `celery_asynctask.install` on each app right after it is made; ``task_cls`` gives each
app that has no task class of its own `RecordedTask`, the way the README does; ``off`` is the plain run to compare
with. DIRECTORY gets the journal, the database and `Summary` as ``summary.json``.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

import celery.app.base
import pytest

import celery_asynctask
from celery_asynctask import errors
from celery_asynctask.capture import instrumentation
from celery_asynctask.capture.instrumentation import Instrumentation

TASK_CLS = "celery_asynctask:RecordedTask"


class Summary(TypedDict):
    """The results of a run, for those who started it."""

    passed: list[str]
    failed: list[str]
    """Tests that failed, or whose fixtures failed."""
    apps: int
    """Celery apps for which recording was switched on."""
    events: dict[str, int]
    """Recorded events, by kind."""
    runs: int
    """Runs that began, most of which have one event, that of their end."""
    raised: dict[str, dict[str, int]]
    """Exceptions of our hooks that `errors.guard` kept from Celery, with their number, by test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("celery-asynctask")
    group.addoption("--asynctask", choices=("off", "install", "task_cls"), default="off")
    group.addoption("--asynctask-dir", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    directory = config.getoption("--asynctask-dir").absolute()
    summary = Summary(passed=[], failed=[], apps=0, events={}, runs=0, raised={})
    config.pluginmanager.register(_Outcome(directory, summary))
    if (way := config.getoption("--asynctask")) != "off":
        config.pluginmanager.register(_Switch(way, directory, summary))


class _Outcome:
    """Collects the outcomes of the tests."""

    def __init__(self, directory: Path, summary: Summary) -> None:
        self.file = directory / "summary.json"
        self.summary = summary
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.add(report.nodeid)  # a test with subtests is reported several times

    def pytest_sessionfinish(self) -> None:
        self.summary["passed"] = sorted(self.passed - self.failed)
        self.summary["failed"] = sorted(self.failed)
        self.file.write_text(json.dumps(self.summary, indent=1), encoding="utf-8")


class _Switch:
    """Recording, switched on for every app that is created from now on."""

    def __init__(self, way: str, directory: Path, summary: Summary) -> None:
        self.way = way
        self.summary = summary
        self.test = ""
        self.failures: Counter[str] = Counter()
        self.imported: list[Any] = []
        """Apps that were created while tests were collected."""
        self.apps: weakref.WeakSet[Any] = weakref.WeakSet()
        """All apps that were created: a task shared by all apps may bind to one of an earlier test."""
        self.options = {
            "asynctask_url": f"sqlite:///{directory / 'store.db'}",
            "asynctask_journal_dir": str(directory / "journal"),
        }
        instrumentation.EXIT_SECONDS = (
            60.0  # so that `uninstall` after a test leaves no thread behind, even on a busy machine
        )
        self._switch_on_all_apps()
        self._count_events()

    def _switch_on_all_apps(self) -> None:
        original = celery.app.base.Celery.__init__

        @functools.wraps(original)
        def made(app: Any, *args: Any, **kwargs: Any) -> None:
            if self.way == "task_cls" and not celery.app.base.app_has_custom(app, "task_cls"):
                kwargs["task_cls"] = kwargs.get("task_cls") or TASK_CLS
            original(app, *args, **self.options, **kwargs)
            if self.way == "install":
                celery_asynctask.install(app)
            self.apps.add(app)
            if not self.test:
                self.imported.append(app)
            self.summary["apps"] += 1

        celery.app.base.Celery.__init__ = made

    def _count_events(self) -> None:
        write, begin = Instrumentation.write, Instrumentation.begin
        events = Counter[str]()
        self.summary["events"] = events

        @functools.wraps(write)
        def counted(of_app: Instrumentation, data: bytes, slot: int | None = None) -> None:
            write(of_app, data, slot)
            events[json.loads(data)["kind"]] += 1

        @functools.wraps(begin)
        def begun(of_app: Instrumentation, start: bytes) -> int | None:
            self.summary["runs"] += 1
            return begin(of_app, start)

        Instrumentation.write = counted  # type: ignore[method-assign, assignment]
        Instrumentation.begin = begun  # type: ignore[method-assign, assignment]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.test = item.nodeid
        self.failures = errors.failures.copy()
        for app in self.imported:
            celery_asynctask.install(app)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        """Uninstall before Celery's fixtures look for threads that a test left behind: the recorder is ours.

        Some of Celery's tests empty the signals' lists of receivers. Without any installed app, the next `install`
        connects ours again.
        """
        for app in list(self.apps):
            celery_asynctask.uninstall(app)
        if raised := errors.failures - self.failures:
            self.summary["raised"][self.test] = raised
