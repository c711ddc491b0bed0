"""The output of commands: plain, aligned, and never anything that a terminal obeys."""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from celery_asynctask.cli.output import Id, Node, Output
from celery_asynctask.cli.show import FOLDED_COLUMNS, FOLDED_LINES, folded
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.text import clean, json_line, one_line, span, width
from celery_asynctask.queries.workflow.timeline import courses
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

AT = dt.datetime(2026, 1, 31, 14, 5, 3, 123999, tzinfo=dt.timezone.utc)
UUID = "5f0c2a11-1111-4222-8333-444455556666"
HOSTILE = "a\x1b[31mb\x07\x9b2J\u202ec\r\x7f"


def minutes(number: float) -> dt.timedelta:
    return dt.timedelta(minutes=number)


@given(st.text())
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    for shown in (clean(text), one_line(text)):
        assert not [char for char in shown if (ord(char) < 32 and char not in "\t\n") or 127 <= ord(char) < 160]
        assert "\u202e" not in shown
    assert len(one_line(text).splitlines()) <= 1
    line = json_line({"text": text})
    assert line.isprintable()
    assert json.loads(line) == json.loads(json_line({"text": text}, ascii_only=True)) == {"text": text}


@pytest.mark.parametrize("year", [1, 9999])
def test_a_time_that_the_zone_does_not_know(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row may have one: what a message says of its ETA is recorded."""
    for zone in ("XXX+12", "XXX-12"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        at = dt.datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, 12, tzinfo=dt.timezone.utc)
        for hour in (0, 23):
            assert f"{year}-" in Output().moment(at.replace(hour=hour))
    monkeypatch.undo()
    time.tzset()


def test_clean() -> None:
    assert clean(HOSTILE) == "a\ufffd[31mb\ufffd\ufffd2J\ufffdc\ufffd\ufffd"
    assert clean("größe 日本 😀\u00a0x") == "größe 日本 😀\u00a0x"
    assert one_line("a\tb\nstatus  SUCCESS") == "a b ↵ status  SUCCESS"


def test_width() -> None:
    assert [width(text) for text in ("abc", "é", "e\u0301", "日本", "😀")] == [3, 1, 1, 4, 2]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""), (0, "0 ms"), (0.34, "340 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"), (245, "4 m 05 s"), (3599.6, "1 h 00 m"), (86_400 * 2 + 3 * 3600, "2 d 03 h"),
        (-1.5, "-1.5 s"),
    ],
)  # fmt: skip
def test_spans(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


def test_json_of_rows() -> None:
    value = {"at": AT, "wait": dt.timedelta(seconds=1.5), "big": 10**30, "é": [1, None]}
    assert json_line(value) == (
        '{"at": "2026-01-31T14:05:03.123999Z", "wait": 1.5, "big": 1000000000000000000000000000000, "é": [1, null]}'
    )
    assert "\\u00e9" in json_line(value, ascii_only=True)


def test_cells() -> None:
    output = Output(utc=True)
    assert output.show(AT) == "2026-01-31 14:05:03.123"
    shown = [
        output.show(value) for value in (None, True, 1234567, minutes(2), AsyncTaskStatus.LOST, HOSTILE, Id("x\ny"))
    ]
    assert shown == ["", "yes", "1,234,567", "2 m 00 s", "LOST", clean(HOSTILE), "x ↵ y"]


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    Output(utc=True).table(
        ("id", "name", "n>", "empty"),
        [(Id(UUID), "日本", 1, None), (Id("b"), "x\n\x1b[1m", 1000, None)],
        spare=("name",),
    )
    assert printed(capsys) == [
        "id                                    name          n  empty",
        f"{UUID}  日本          1",
        "b                                     x ↵ \ufffd[1m  1,000",
    ]


def test_plain_fields_and_trees(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(utc=True)
    output.fields([("name", "x"), ("error", "one\ntwo\x1b"), ("none", None), ("status", AsyncTaskStatus.LOST)])
    assert printed(capsys) == ["name    x", "error   one", "        two\ufffd", "status  LOST"]
    output.fields([])
    output.tree(Node(("a\n", AsyncTaskStatus.LOST), [Node(("b",))]))
    assert printed(capsys) == ["a ↵   ? LOST", "└── b"]
    output.line("x\x1by")
    output.title("t\x1b")
    output.hint("h\x1b")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("x\ufffdy\n\nt\ufffd\n", "h\ufffd\n")


def on_rich(columns: int, *, color: bool = False) -> Any:
    output = Output(utc=True, color=color)
    output.__dict__["rich"] = Console(
        file=io.StringIO(),
        width=columns,
        color_system="truecolor" if color else None,
        force_terminal=True,
        highlight=False,
    )
    return output


ROWS = [
    (
        Id(UUID),
        AsyncTaskStatus.FAILURE,
        "billing.invoice.send_reminder",
        AT,
        minutes(1),
        None,
        "Ada",
        "ConnectionResetError",
    ),
    (Id("import-2026-01-31"), AsyncTaskStatus.RECEIVED, "x", AT, None, None, None, None),
]
COLUMNS = ("id", "status", "name", "created", "wait>", "customer>", "by", "error")


def rich_table(columns: int) -> list[str]:
    output = on_rich(columns)
    output.table(COLUMNS, ROWS, spare=("by", "wait"))
    lines: list[str] = output.rich.file.getvalue().splitlines()
    assert all(width(line) <= columns for line in lines)
    return lines


def test_a_table_on_a_terminal() -> None:
    lines = rich_table(170)
    assert lines[0].split() == ["id", "status", "name", "created", "wait", "by", "error"], (
        "columns without values are out"
    )
    assert UUID in lines[2]
    assert "2026-01-31 14:05:03.123" in lines[2]
    assert len(lines) == 4


def test_a_table_on_a_narrow_terminal() -> None:
    """Ids and times are never broken; columns without room are left out, the least important first."""
    lines = rich_table(120)
    assert lines[0].split() == ["id", "status", "name", "created", "wait", "by", "error"]
    assert lines[2].startswith("5f0c2a11 ")
    assert "01-31 14:05:03 " in lines[2]
    assert len(lines) == 4
    lines = rich_table(90)
    assert lines[0].split() == ["id", "status", "name", "created", "error"]
    assert any(line.startswith("import-2026-01-31 ") for line in lines), "no UUID: its beginning tells nothing"
    assert lines[2].startswith("5f0c2a11           ✖ FAILURE")
    for columns in range(20, 90, 7):
        assert rich_table(columns)


def test_colors() -> None:
    output = on_rich(80, color=True)
    output.table(COLUMNS, ROWS)
    assert "\x1b[31m✖ FAILURE" in output.rich.file.getvalue()
    output = on_rich(80)
    output.table(COLUMNS, ROWS)
    output.title("t")
    output.fields([("status", AsyncTaskStatus.FAILURE)])
    assert "\x1b" not in output.rich.file.getvalue()


def test_long_lines_are_left_to_the_terminal() -> None:
    """So that a link or a value can be copied; Rich would break the line."""
    output = on_rich(40)
    output.fields([("trace url", "https://example.com/" + "x" * 100)])
    output.line("y" * 100)
    output.line("[red]no markup[/red] :smile:")
    assert [len(line) for line in output.rich.file.getvalue().splitlines()[:2]] == [131, 100]
    assert "[red]no markup[/red] :smile:" in output.rich.file.getvalue()


@pytest.mark.parametrize(("value", "expected"), [("", True), ("1", False)])
def test_no_color(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    assert Output().color is expected
    assert Output(color=False).color is False
    assert Output(as_json=True).rich is None
    assert sys.stdout.isatty() or Output().rich is None


def test_folding() -> None:
    text = "\n".join(map(str, range(FOLDED_LINES + 3)))
    assert folded(text, full=True) == text.splitlines()
    assert folded(text, full=False) == [*map(str, range(FOLDED_LINES)), "… 3 more lines: --full"]
    assert folded(text, full=False, end=True)[:2] == ["… 3 more lines: --full", "3"]
    assert folded("a\nb", full=False) == ["a", "b"]
    long = "x" * (FOLDED_COLUMNS + 1234)
    assert folded(long, full=False) == ["x" * FOLDED_COLUMNS + "… 1,234 more characters: --full"]
    assert folded(long, full=True) == [long]


def attempt(begin: float | None, end: float | None, **more: Any) -> AsyncTaskAttempt:
    return AsyncTaskAttempt(
        started_at=None if begin is None else AT + minutes(begin),
        ended_at=None if end is None else AT + minutes(end),
        **{"run_key": "", **more},
    )


def test_courses() -> None:
    """How long an attempt waited, and for what: its countdown, or the queue."""
    task = AsyncTask(created_at=AT, status=AsyncTaskStatus.STARTED, order_key="")
    runs = [
        attempt(2, 5, outcome="retried"),
        attempt(17, 20, outcome="retried", published_at=AT + minutes(4), eta=AT + minutes(14)),
        attempt(21, None),
        attempt(30, None, eta=AT),
    ]
    found = list(courses(task, runs, AT + minutes(31)))
    assert found == [
        (None, minutes(2), minutes(3), "retried"),
        (minutes(10), minutes(3), minutes(3), "retried"),
        (None, minutes(1), None, "end not seen"),
        (None, minutes(9), minutes(1), "running"),
    ]
    task.status = AsyncTaskStatus.LOST
    assert list(courses(task, runs, AT))[-1].outcome == "end not seen"
    assert list(courses(task, [attempt(None, 5, outcome="lost")], AT)) == [(None, None, None, "lost")]


def test_courses_of_earlier_executions() -> None:
    """They say nothing of the newest one: not when its first attempt could begin, nor that one still runs."""
    first, second = (f"{created:014x}" for created in (1, 2))
    task = AsyncTask(
        created_at=AT, status=AsyncTaskStatus.STARTED, order_key=f"{second}0000000{'4'}0{'0' * 20}0{'0' * 14}"
    )
    before = attempt(-9, None, run_key=f"{first}0000000{'0' * 20}")
    sent = attempt(-5, -4, run_key=f"{first}0000000{'1' * 20}", published_at=AT - minutes(6), outcome="succeeded")
    now = attempt(2, None, run_key=f"{second}0000000{'0' * 20}")
    assert list(courses(task, [before, sent, now], AT + minutes(3))) == [
        (None, None, None, "end not seen"),
        (None, minutes(1), minutes(1), "succeeded"),
        (None, minutes(2), minutes(1), "running"),
    ]
    assert next(iter(courses(task, [before], AT))).outcome == "end not seen"
