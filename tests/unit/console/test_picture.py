"""Places and texts of the bars of a workflow, and that all bars stay in view."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.console.picture import ACROSS, HEIGHTS, Drawing, drawing, offset, ticks
from celery_asynctask.present.waterfall import MEANINGS, ZOOMS, Scale, scale
from celery_asynctask.queries.workflow.timeline import Part, Time, parts
from tests.unit.cli.test_waterfall import run
from tests.unit.queries.test_tree import PLANNED, START, UNSENT, member

NOW = START + dt.timedelta(seconds=20)
WHOLE = Scale(START, dt.timedelta(seconds=20))
SECOND = dt.timedelta(seconds=1)


def drawn(*runs: Any, where: Scale = WHOLE, limit: int = 100, **about: Any) -> Drawing:
    """A task on a scale of 50 units a second."""
    one = member("a", **about)
    return drawing(one, runs, list(parts(one, runs, NOW)), where, limit)


def bars(*runs: Any, **more: Any) -> list[tuple[str, float, float]]:
    return [(one.kind, one.x, one.width) for one in drawn(*runs, **more).bars]


RETRIED = (
    run(published_at=0, started_at=1, ended_at=3, outcome="retried", error_type="TimeoutError"),
    run(published_at=3, eta=6, started_at=8, ended_at=10, outcome="succeeded", retries=1, worker="celery@two"),
)


def test_a_bar_for_every_attempt_and_what_it_waited_for() -> None:
    row = drawn(*RETRIED)
    assert [(one.kind, one.x, one.width) for one in row.bars] == [
        ("queued", 0, 50),
        ("queued", 300, 100),
        ("waiting", 150, 150),
        ("ran", 400, 100),
        ("failed", 50, 100),
    ], "what did not succeed is drawn last: nothing hides it"
    assert row.text == "from 0 on: queued 1.0 s, failed after 2.0 s, delayed 3.0 s, queued 2.0 s, ran 2.0 s"
    assert [one.text for one in row.bars if one.kind in ("ran", "failed")] == [
        "attempt 2 succeeded: 2.0 s, 2026-01-31T12:00:08.000000Z to 2026-01-31T12:00:10.000000Z, celery@two",
        "attempt 1 retried by TimeoutError: 2.0 s, 2026-01-31T12:00:01.000000Z to 2026-01-31T12:00:03.000000Z",
    ]


def test_an_attempt_of_which_no_time_is_known_keeps_its_number() -> None:
    row = drawn(run(published_at=0), run(published_at=2, started_at=4, ended_at=6, outcome="succeeded"))
    assert [one.text[:9] for one in row.bars if one.kind == "ran"] == ["attempt 2"]


def test_a_bar_grows_while_it_runs() -> None:
    running = run(published_at=0, started_at=15)
    assert bars(running, status="STARTED", completed=None)[-1] == ("ran", 750, 250)
    assert "attempt 1 running: 5.0 s" in drawn(running, status="STARTED", completed=None).bars[-1].text


def test_attempts_whose_end_nobody_saw() -> None:
    row = drawn(run(published_at=0, started_at=5), status="LOST", completed=9)
    assert [one.kind for one in row.bars] == ["queued", "unknown"]
    assert "attempt 1 outcome unknown: 4.0 s" in row.bars[-1].text
    assert row.text.endswith("outcome unknown after 4.0 s")


def test_a_moment_can_be_seen_even_at_the_edge() -> None:
    row = drawn(status="REVOKED", started=None, completed=20)
    assert [(one.kind, one.x, one.width) for one in row.bars] == [("queued", 0, 1000), ("end", 998, 2)]
    assert row.text == "from 0 on: queued 20.0 s, never started"


def test_a_step_that_was_not_sent_is_empty() -> None:
    assert drawn(status="PENDING", started=None, completed=None, key=PLANNED) == Drawing((), "not sent yet", 0, 984)
    assert drawn(status="FAILURE", started=None, completed=9, key=UNSENT) == Drawing((), "never sent", 0, 450)


def test_the_box_of_a_step_is_where_it_was_given_up() -> None:
    """Not a box over all time; a step that is still to come is at the end."""
    unsent: dict[str, Any] = {"status": "FAILURE", "started": None, "completed": 9, "key": UNSENT}
    assert drawn(**unsent, where=WHOLE._replace(zoom=2, at=0.25)).step_at == 400
    assert drawn(**unsent, where=WHOLE._replace(zoom=2, at=0.5)).step_at is None
    planned: dict[str, Any] = {"status": "PENDING", "started": None, "completed": None, "key": PLANNED}
    assert drawn(**planned, where=WHOLE._replace(zoom=2, at=0)).step_at is None


def test_a_row_extends_from_its_first_bar_to_its_last() -> None:
    assert drawn(*RETRIED).extent == (0, 500)
    assert drawn(run(published_at=5, started_at=6, ended_at=8, outcome="succeeded")).extent == (250, 150)
    assert drawn(run(published_at=0, started_at=1, ended_at=3), where=WHOLE._replace(zoom=2, at=0.5)).extent is None


def test_of_many_attempts_the_last_ones_are_drawn() -> None:
    runs = [run(published_at=0 if n == 0 else None, started_at=n, ended_at=n + 1, outcome="retried") for n in range(18)]
    row = drawn(*runs, limit=4)
    assert len([one for one in row.bars if one.kind == "failed"]) + row.left_out == 18
    assert row.left_out > 0
    assert row.bars[-1].text.startswith("attempt 18 ")
    assert row.text.endswith("and 6 more")


def test_what_is_not_seen_is_not_drawn() -> None:
    right = Scale(START, dt.timedelta(seconds=20), 2, 0.5)
    assert bars(run(published_at=0, started_at=1, ended_at=3, outcome="succeeded"), where=right) == []
    assert bars(run(published_at=0, started_at=5, ended_at=15, outcome="succeeded"), where=right) == [("ran", 0, 500)]


def test_the_scale_spans_all_that_happened() -> None:
    members = [member("a", completed=9), member("b", created=-5, started=None, completed=None, key=PLANNED)]
    assert scale(members, [], NOW) == Scale(START - 5 * SECOND, 14 * SECOND)
    under_way = member("c", status="STARTED", completed=None)
    assert scale([*members, under_way], [], NOW) == Scale(START - 5 * SECOND, 25 * SECOND)
    late = [Part(START, START + 40 * SECOND, Time.RAN)]
    assert scale(members, [late], NOW).length == 45 * SECOND


def test_a_workflow_of_one_moment_has_a_scale() -> None:
    only = member("a", status="PENDING", started=None, completed=None, key=PLANNED)
    single = scale([only], [], NOW)
    assert single.length > dt.timedelta()
    assert [one.text for one in ticks(single)] == ["0", "+1 ms"]
    assert scale([], [], NOW).length > dt.timedelta()


def test_zoom_keeps_the_middle_and_ends_at_the_edges() -> None:
    nearer = WHOLE.moved(2)
    assert nearer == WHOLE._replace(zoom=2, at=0.25)
    assert nearer.moved(2, -0.5) == WHOLE._replace(zoom=2, at=0)
    assert nearer.moved(2, 0.5) == WHOLE._replace(zoom=2, at=0.5)
    assert nearer.moved(1) == WHOLE
    assert WHOLE.moved(1) is None
    assert WHOLE.moved(1, 0.5) is None
    assert WHOLE.moved(0) is None
    assert WHOLE.moved(2048) is None


def test_zoom_to_a_time() -> None:
    nearer = WHOLE.over(START + 9 * SECOND, START + 10 * SECOND)
    assert nearer.zoom == 16
    assert 0 <= nearer.share(START + 9 * SECOND) < nearer.share(START + 10 * SECOND) <= 1
    assert WHOLE.over(START, NOW) == WHOLE
    assert WHOLE.over(START, START).zoom == ZOOMS[-1]


@pytest.mark.parametrize(
    ("since", "step", "says"),
    [
        (0, 1, "0"),
        (0.25, 0.05, "+250 ms"),
        (12.5, 0.5, "+12.5 s"),
        (12, 2, "+12 s"),
        (65, 5, "+0:01:05"),
        (3725.25, 0.05, "+1:02:05.25"),
        (3725.123, 0.001, "+1:02:05.123"),
        (93_600, 3600, "+1 d 2:00:00"),
        (-2, 1, "before +2 s"),
    ],
)
def test_times_on_the_axis(since: float, step: float, says: str) -> None:
    assert offset(since, step) == says


@given(
    seconds=st.floats(1e-3, 1e9),
    zoom=st.sampled_from(ZOOMS),
    at=st.floats(0, 1),
    start=st.floats(-1e9, 1e9),
    length=st.floats(0, 1e9),
)
def test_nothing_is_drawn_outside(seconds: float, zoom: int, at: float, start: float, length: float) -> None:
    where = Scale(START, dt.timedelta(seconds=seconds), zoom, min(at, 1 - 1 / zoom))
    marks = ticks(where)
    assert len(marks) <= 6
    assert all(0 <= one.x <= ACROSS for one in marks)
    assert len({one.text for one in marks}) == len(marks)
    ran = run(published_at=start, started_at=start, ended_at=start + length, outcome="succeeded")
    for one in drawn(ran, where=where, created=start).bars:
        assert one.x >= 0
        assert one.x + one.width <= ACROSS + 0.11
        assert one.width >= 2
    moved = where.moved(zoom, 0.5)
    assert moved is None or 0 <= moved.at <= 1 - 1 / zoom + 1e-9  # it is rounded for a URL


def test_kinds_differ_in_more_than_their_color() -> None:
    assert MEANINGS.keys() == HEIGHTS.keys() == set(Time)
    assert len(set(HEIGHTS.values())) == len(HEIGHTS) - 1, "END is as high as FAILED, and a moment only"
