"""`top` and `stats` on narrow terminals: each row is one line, and the most important parts are never cut."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.cli import stats, top
from celery_asynctask.cli.output import shortened
from celery_asynctask.core.status import SHOWN, AsyncTaskStatus
from celery_asynctask.core.text import width
from celery_asynctask.queries.statistics.counts import LostCounts
from celery_asynctask.queries.statistics.measures import Percentiles
from celery_asynctask.queries.statistics.names import Name, Statistics
from celery_asynctask.queries.statistics.overview import Overview, RecordingHealth
from celery_asynctask.store.models import AsyncTask
from tests.unit.cli.test_output import AT, minutes, on_rich

WIDTHS = (60, 80, 100, 120)
NAMES = ("billing.invoices.send_reminder_to_customer", "reports.collect_from_all_warehouses", "mail.send")


def task(number: int, status: AsyncTaskStatus, name: str) -> AsyncTask:
    return AsyncTask(
        celery_task_id=f"5f0c2a1{number}-1111-4222-8333-444455556666",
        status=status,
        name=name,
        created_at=AT - minutes(90),
        started_at=AT - minutes(80),
        completed_at=None if status is AsyncTaskStatus.STARTED else AT - minutes(70),
        retries=number,
        error_type=None if status is AsyncTaskStatus.STARTED else "ConnectionResetError",
        error_message="the server closed the connection in the middle of an answer",
    )


def tasks(status: AsyncTaskStatus) -> list[AsyncTask]:
    return [task(number, status, name) for number, name in enumerate(NAMES, 1)]


def now(**counts: int) -> top.Now:
    found = Overview(
        at=AT,
        running=dict.fromkeys(NAMES, 1234),
        slowest=tasks(AsyncTaskStatus.STARTED),
        failures=tasks(AsyncTaskStatus.REJECTED),
        lost=[],
        counts=dict.fromkeys(SHOWN, 12345),
        since=AT - dt.timedelta(hours=1),
        recording=RecordingHealth(12, 3, 4, AT, 1_234_567, 12, 34, {"disk full": 5, "too large": 6}),
    )
    return top.Now(found, LostCounts(2, 53, bounded=False), tasks(AsyncTaskStatus.LOST))


def drawn(columns: int, draw: Any, value: Any, *more: Any) -> list[str]:
    output = on_rich(columns)
    draw(output, value, *more)
    lines: list[str] = output.rich.file.getvalue().splitlines()
    assert [line for line in lines if width(line) > columns] == []
    return lines


def shows(cell: str, name: str) -> bool:
    """Whether it is the name, or the name without its middle."""
    begin, gap, end = cell.partition("…")
    return cell == name or (
        bool(gap) and len(cell) >= 10 and name.startswith(begin) and name.endswith(end) and end != ""
    )


@pytest.mark.parametrize("columns", WIDTHS)
def test_top(columns: int) -> None:
    lines = drawn(columns, top.draw, now(), "postgresql+psycopg://asynctask@database.example/shop")
    text = " ".join(" ".join(lines).split())
    assert all(f" {status.value} 12,345" in text for status in SHOWN), "no count is cut, LOST neither"
    assert "lost 2 in the last 24 hours, 53 in total running 3,702" in text
    assert "(disk full 5, too large 6)" in text
    rows = [line for line in lines if "5f0c2a1" in line]
    assert len(rows) == 3 * len(NAMES), "each task in one line, with the beginning of its id"
    for row, name in zip(rows, NAMES * 3, strict=True):
        assert any(shows(cell, name) for cell in row.split()), row
    for row in rows[len(NAMES) :]:
        assert "REJECTED" in row or "LOST" in row
        assert "ConnectionR" in row
    assert all(" 1 h 20 m " in f" {row} " for row in rows[: len(NAMES)])


@pytest.mark.parametrize("columns", WIDTHS)
def test_stats(columns: int) -> None:
    times = Percentiles(0.028, 12.5, 754)
    names = [Name(name, 12_345, 1234, 567, times, times) for name in NAMES]
    head, rule, *rows = drawn(columns, stats.draw, Statistics(names, AT - minutes(60), AT, None))
    assert set(rule) == {"─"}
    assert head.split()[:3] == ["name", "tasks", "failed"]
    assert "wait p95" in head
    assert "run p95" in head
    assert ("wait p50" in head, "rate" in head) == (columns >= 100, columns >= 80)
    for row, name in zip(rows, NAMES, strict=True):
        cell, tasks, failed = row.split()[:3]
        assert shows(cell, name)
        assert (tasks, failed) == ("12,345", "1,234")


def test_the_total_of_lost_tasks_may_be_bounded() -> None:
    few = now()._replace(lost=LostCounts(0, 10_000, bounded=True), lost_lately=[])
    lines = drawn(100, top.draw, few, "x")
    assert "lost       0 in the last 24 hours, 10,000 or more in total" in lines
    assert lines[lines.index("Lost in the last 24 hours") + 1] == "none", "an old loss is counted, and not listed"


def test_a_name_loses_its_middle_and_a_sentence_its_end() -> None:
    assert shortened("billing.invoice.send_reminder", 20) == "billing.in…_reminder"
    assert shortened("could not connect to the server", 20) == "could not connect t…"
    assert shortened("mail.send", 9) == "mail.send"
    assert shortened("日本語日本語日本語", 8) == "日本…語"


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])), st.integers(1, 50))
def test_no_text_is_wider_than_its_room(text: str, room: int) -> None:
    assert width(shortened(text, room)) <= room


def test_top_says_of_how_many_nobody_knows_what_they_did_last() -> None:
    view = now().overview
    assert "nobody" not in dict(top._recording(view))["recorder"]
    view = view._replace(recording=view.recording._replace(unheard=1234))
    assert dict(top._recording(view))["recorder"].endswith("; of 1,234, nobody knows what they did last: see `verify`")
