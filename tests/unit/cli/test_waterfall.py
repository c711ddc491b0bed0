"""Bars in time: the bar for each part of a task's life, never wider than the terminal."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.cli.output import MAX_INDENT, Node, Output
from celery_asynctask.cli.waterfall import LEGEND, Row, bar, draw
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.present.waterfall import Scale
from celery_asynctask.queries.workflow.members import MemberAttempt
from celery_asynctask.queries.workflow.timeline import Part, Time, parts
from tests.unit.queries.test_tree import PLANNED, START, UNSENT, at, member

NOW = START + dt.timedelta(seconds=20)
SHOW = Output(utc=True).show


def run(**values: Any) -> MemberAttempt:
    """An attempt with times in seconds after the start."""
    times = {"published_at", "received_at", "eta", "started_at", "ended_at"}
    given_values = {name: at(value) if name in times else value for name, value in values.items()}
    fields: dict[str, Any] = {
        **dict.fromkeys(MemberAttempt._fields),
        "celery_task_id": "a",
        "customer_key": "",
        "run_key": "",
        "retries": 0,
        **given_values,
    }
    return MemberAttempt(**fields)


def drawn(*runs: MemberAttempt, **about: Any) -> str:
    """The bar of a task on a scale of one column per second, 20 in all."""
    found = list(parts(member("a", **about), runs, NOW))
    return bar(found, Scale(START, dt.timedelta(seconds=20)), 20).rstrip()


def test_queued_and_running() -> None:
    assert drawn(run(published_at=1, started_at=4, ended_at=8, outcome="succeeded")) == " ░░░████"
    assert drawn(run(received_at=2, started_at=4, ended_at=8, outcome="failed")) == "  ░░▓▓▓▓"


def test_waiting_for_its_eta() -> None:
    assert drawn(run(published_at=0, eta=5, started_at=7, ended_at=9, outcome="succeeded")) == "·····░░██"


def test_every_run_and_the_waits_between_them() -> None:
    runs = (
        run(published_at=0, started_at=1, ended_at=3, outcome="retried"),
        run(published_at=3, eta=6, started_at=8, ended_at=10, outcome="retried", retries=1),
        run(published_at=9, started_at=12, ended_at=14, outcome="succeeded", retries=2),
    )
    assert drawn(*runs) == "░▓▓···░░▓▓░░██"


def test_runs_without_an_end() -> None:
    first, second = (
        run(published_at=0, started_at=1),
        run(published_at=0, started_at=5, ended_at=7, outcome="succeeded"),
    )
    assert drawn(first, second) == "░????██", "nobody saw the end of the first"
    again = run(published_at=0, started_at=7, ended_at=8, outcome="succeeded")
    ended = run(published_at=0, started_at=1, ended_at=4, outcome="requeued")
    queued = [part for part in parts(member("a"), [ended, again], NOW) if part.time is Time.QUEUED]
    waits = [(at(0), at(1), Time.QUEUED), (at(4), at(7), Time.QUEUED)]
    assert queued == waits, "a message that is delivered again waits again"
    assert drawn(first, status="STARTED", completed=None) == "░███████████████████", "it runs till now"
    assert drawn(first, status="LOST", completed=6) == "░?????"
    lost = run(published_at=0, started_at=1, ended_at=5, outcome="lost")
    assert drawn(lost, status="LOST", completed=5) == "░????"


def test_waiting_for_the_next_run() -> None:
    first = run(published_at=0, started_at=1, ended_at=3, outcome="retried")
    assert drawn(first, status="RETRY", completed=None) == "░▓▓·················"


def test_without_a_run() -> None:
    assert drawn(status="PENDING", started=None, completed=None, created=3) == "   ░░░░░░░░░░░░░░░░░"
    assert drawn(status="PENDING", started=None, completed=None, key=PLANNED) == ""
    assert drawn(status="FAILURE", started=None, completed=6, key=UNSENT) == "      !"
    assert drawn(status="REVOKED", started=None, completed=6, created=2) == "  ░░░░!"


def test_short_texts_still_have_a_column() -> None:
    assert drawn(run(published_at=4.1, started_at=4.2, ended_at=4.3, outcome="succeeded")) == "    █"


MOMENTS = st.none() | st.integers(-5, 30)
RUNS = st.builds(
    run,
    published_at=MOMENTS,
    received_at=MOMENTS,
    eta=MOMENTS,
    started_at=MOMENTS,
    ended_at=MOMENTS,
    outcome=st.none() | st.sampled_from(["succeeded", "failed", "retried", "lost", "replaced", "?"]),
)
ROWS = st.builds(
    Row,
    st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=80),
    st.builds(
        member,
        st.just("a"),
        status=st.sampled_from(sorted(AsyncTaskStatus.__members__)),
        created=st.integers(-5, 30),
        started=MOMENTS,
        completed=MOMENTS,
    ),
    st.lists(RUNS, max_size=4),
    st.sampled_from(["", "340 ms", "never sent"]),
)


@given(st.lists(ROWS, max_size=5), st.integers(40, 200))
def test_no_line_is_wider_than_the_terminal(rows: list[Row], width: int) -> None:
    lines = list(draw(rows, width, NOW, SHOW))
    assert max(map(len, lines), default=0) <= width
    assert len(lines) >= len(rows) + 3 or not rows
    for one in rows:
        assert all(part.end >= part.start for part in parts(one.member, one.attempts, NOW))


def test_the_axis_and_the_legend() -> None:
    row = Row("a", member("a"), [run(published_at=0, started_at=1, ended_at=20, outcome="succeeded")], "19.0 s")
    axis, line, empty, *legend = draw([row], 75, NOW, SHOW)
    assert axis.split() == ["|0", "|5.0", "s", "|10.0", "s", "|15.0", "s", "20.0", "s|"]
    assert line == f"a  ░░░{'█' * 61}  19.0 s"
    assert empty == ""
    assert "  ".join(legend) == LEGEND


def test_one_moment_is_a_scale_of_its_own() -> None:
    assert bar([Part(START, START, Time.END)], Scale(START, dt.timedelta(microseconds=1)), 5) == "!    "


def test_a_tree_is_never_deeper_than_the_terminal_is_wide(capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(["deepest"])
    for depth in reversed(range(10_000)):
        node = Node([f"node {depth}", None, AsyncTaskStatus.FAILURE], [Node(["beside"]), node])
    Output().tree(node)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "node 0  ✖ FAILURE"
    assert lines[1:4] == ["├── beside", "└── node 1  ✖ FAILURE", "    ├── beside"]
    assert len(lines) == 20_001
    assert lines[-1] == " " * 4 * MAX_INDENT + "└─(10000)─ deepest"
    assert max(map(len, lines)) < 4 * MAX_INDENT + 40
