"""``stats``, ``errors`` and ``top``: their output, and the live view on a terminal."""

from __future__ import annotations

import datetime as dt
import json
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import make_url

from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.benchmarks import rows
from tests.integration.commands import Project
from tests.integration.oracle import add
from tests.integration.oracle import row as pending
from tests.integration.screen import ENTERED, LEFT, Screen
from tests.integration.terminal import on_terminal
from tests.pace import patience
from tests.waiting import wait_for

TASKS = 400


@pytest.fixture
def project(database: str, tmp_path: Path) -> Project:
    rows.fill(database, TASKS)
    return Project(tmp_path, asynctask_url=database)


def test_their_output(project: Project) -> None:
    stats = project.run("stats", "since:20d", "--json")
    assert stats.code == 0, stats.err
    assert sum(one["tasks"] for one in stats.values) == TASKS
    assert stats.values[0]["wait"].keys() == {"p50", "p95", "p99"}
    errors = project.run("errors", "--sort", "last", "-n", "2", "--utc")
    assert errors.code == 0, errors.err
    causes = [line for line in errors.lines if line[0].isdigit()]
    assert len(causes) == 2
    assert "── example  " in errors.out
    assert "more causes" in errors.err
    top = project.run("top")
    assert top.code == 0, top.err
    assert "\x1b" not in top.out
    assert all(
        title in top.lines for title in ("Running for the longest time", "Newest failures", "Lost in the last 24 hours")
    )
    failures = top.lines[top.lines.index("Newest failures") + 2 :]
    ended = [line[:23] for line in failures[: failures.index("")]]
    assert len(ended) > 1
    assert ended == sorted(ended, reverse=True), "as the column says that is shown"
    assert "✔ SUCCESS " in top.out
    assert " alive, 0 silent" in top.out


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """Only on SQLite."""
    url = f"sqlite:///{tmp_path / 'small.db'}"
    rows.fill(url, TASKS)
    return Project(tmp_path, asynctask_url=url)


def test_more_of_their_output(small: Project) -> None:
    table = small.run("stats", "since:20d", "name:billing.*")
    assert table.lines[0].split()[:5] == ["name", "tasks", "failed", "rate", "retries"]
    assert all(line.startswith("billing.") for line in table.lines[1:])
    assert "Tasks created from " in table.err
    nothing = small.run("stats", "name:no.such")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No tasks match." in nothing.err
    causes = small.run("errors", "--json").values
    assert [one["tasks"] for one in causes] == sorted((one["tasks"] for one in causes), reverse=True)
    assert small.run("errors", "--sort", "first", "--json").values[0]["first"] == max(one["first"] for one in causes)
    assert "No failures match." in small.run("errors", "name:no.such").err
    (now,) = small.run("top", "--json").values
    assert now.keys() >= {
        "counts",
        "running",
        "slowest",
        "failures",
        "lost",
        "lost_last_day",
        "lost_total",
        "recording",
    }


LIKE_DJANGO = """
from celery import Celery
app = Celery("proj")
app.config_from_object("conf")
"""
CONF = """
import os, time
broker_url = "memory://"
asynctask_url = {url!r}
asynctask_retention = {{"created:2026-01-01": "1s"}}
os.environ["TZ"] = {zone!r}
time.tzset()
"""


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "Pacific/Honolulu"])
def test_an_app_that_sets_its_zone_when_it_is_configured(tmp_path: Path, zone: str) -> None:
    """As Django does; a command may already have read the clock, and a search means a day of that zone."""
    now = dt.datetime.now(dt.timezone.utc)
    there = dt.datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    ago = {"new": there, "old": there - dt.timedelta(microseconds=1)}
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    store.prepare()
    add(store, [pending("now", created_at=now)])
    over = {"status": "SUCCESS", "name": "shop.ship"}
    add(store, [pending(task_id, created_at=at, completed_at=at, **over) for task_id, at in ago.items()])
    store.close()
    (tmp_path / "conf.py").write_text(CONF.format(url=store.settings.url, zone=zone), encoding="utf-8")
    project = Project(tmp_path, LIKE_DJANGO)
    [one] = project.run("stats", "name:shop.charge", "--json").values
    assert (one["tasks"], one["per_minute"]) == (1, pytest.approx(1 / (24 * 60), rel=0.01))
    until = dt.datetime.fromisoformat(one["until"].replace("Z", "+00:00"))
    assert abs(until - now) < dt.timedelta(seconds=patience(60))
    day = ("created:2026-01-01", "name:shop.ship")
    assert [one["celery_task_id"] for one in project.run("list", *day, "--json").values] == ["new"]
    assert [json.loads(one)["celery_task_id"] for one in project.run("export", *day).lines[1:-1]] == ["new"]
    for words in ((*day, "--older-than", "1s"), ()):
        assert project.run("purge", *words, "--dry-run", "--json").values[0]["due"] == 1, words
    shown = project.run("list", *day).out
    assert there.strftime("%Y-%m-%d %H:%M") in shown


def test_how_they_fail(small: Project) -> None:
    for command in ("stats", "errors"):
        wrong = small.run(command, "no:such")
        assert (wrong.code, wrong.out) == (2, "")
        assert wrong.err.startswith("Error: The search has no key 'no'.")
    for command in ("stats", "top"):
        away = small.run(command, group=("--url", "postgresql+psycopg://postgres@127.0.0.1:9/x"))
        assert (away.code, away.out) == (3, "")
        assert "cannot be read" in away.err
        assert len(away.err.splitlines()) == 1


# -- on a terminal


class Gate:
    """A connection to a server that can be closed and opened again."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        assert self._url.port is not None
        self._server = (self._url.host, self._url.port)
        self._sockets: list[socket.socket] = []
        self._port = 0
        self._flows = threading.Event()
        self._flows.set()
        self.held_up = threading.Event()
        """Somebody has sent something while it was frozen."""
        self.open()

    @property
    def url(self) -> str:
        """The URL of the same database, through here."""
        return self._url.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    def open(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self._port))
        self._port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._door], daemon=True).start()

    def close(self) -> None:
        self._flows.set()
        for one in (self._door, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def freeze(self) -> None:
        """Let nothing through from here on, without a reply."""
        self._flows.clear()

    def _accept(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ours, _ = door.accept()
                theirs = socket.create_connection(self._server)
                self._sockets += [ours, theirs]
                for one, other in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass, args=[one, other], daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if not self._flows.is_set():
                    self.held_up.set()
                    self._flows.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80])
def test_stats_on_a_narrow_terminal(small: Project, columns: int) -> None:
    code, sent = on_terminal(small.path, "stats", "since:20d", columns=columns, NO_COLOR="1")
    names = [one["name"] for one in small.run("stats", "since:20d", "--json").values]
    head, _, *lines = sent.splitlines()[: len(names) + 2]
    assert code == 0
    assert head.split()[:3] == ["name", "tasks", "failed"]
    assert max(map(len, [head, *lines])) <= columns
    assert all(line.startswith(name[:8]) for line, name in zip(lines, names, strict=True))


@pytest.mark.slow
def test_the_live_view_on_a_small_screen(small: Project) -> None:
    """Each list has a task, and no count is cut."""
    with Screen(small.path, "top", rows=26, columns=80) as screen:
        for text in (
            "last hour",
            "in the last 24 hours",
            "recorder",
            "Running for",
            "Newest failures",
            "Lost in the last",
        ):
            screen.wait_for(text)
        screen.type("q")
        assert screen.ended() == 0


@pytest.mark.slow
@pytest.mark.every_database
def test_the_live_view(database: str, tmp_path: Path) -> None:
    """On servers, through an outage, and until a server accepts connections without an answer."""
    rows.fill(database, TASKS)
    gate = None if database.startswith("sqlite") else Gate(database)
    project = Project(tmp_path, asynctask_url=gate.url if gate else database)
    with Screen(project.path, "top", "--interval", "0.2") as screen:
        screen.wait_for("✖ FAILURE")
        if gate is not None:
            gate.close()
            screen.wait_for("problem")
            screen.wait_for("cannot be read")
            screen.wait_for("tries")
            screen.wait_for("✖ FAILURE")  # the last known state is still shown
            gate.open()
            screen.wait_for("updates")
            gate.freeze()
            wait_for(gate.held_up.is_set, 10, "a question")
        assert not screen.echoes()
        screen.type("q")
        assert screen.ended() == 0
        assert screen.shown.count(ENTERED) == screen.shown.count(LEFT) == 1
        assert screen.echoes()
        assert "Traceback (most recent" not in screen.shown.rpartition(LEFT)[2]
    if gate is not None:
        gate.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code"), [("\x03", 0), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)]
)
def test_ways_to_end_the_live_view(small: Project, end: str | int, code: int) -> None:
    with Screen(small.path, "top", rows=24, columns=80) as screen:
        screen.wait_for("database")
        if isinstance(end, str):
            screen.type(end)
        else:
            screen.process.send_signal(end)
        assert screen.ended() == code
        assert screen.shown.count(LEFT) == 1
        assert screen.echoes()
