"""`celery asynctask list` and `show` as an operator runs them: their output, its width, and their errors."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from celery_asynctask.core.columns import FOLD_KEYS
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.search.keys import KEYS
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from celery_asynctask.store.tables import SCHEMA_VERSION, async_task_version
from tests.integration.commands import SECONDS, Project
from tests.integration.oracle import START, add, row
from tests.integration.terminal import on_terminal
from tests.pace import patience

MINUTE = dt.timedelta(minutes=1)
HOSTILE = "evil\x1b[2J\x1b]0;title\x07\x9b31m\u202e\nfake  SUCCESS"
BIG = 10**30 + 1
RETRIED = "5f0c2a11-1111-4222-8333-444455556666"
QUEUED = "6a000000-1111-4222-8333-444455556666"
RUNNING = "6b000000-1111-4222-8333-444455556666"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE_URL = "https://traces.example/{trace_id}?span={span_id}"


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    fill(store)
    return Project(tmp_path, asynctask_url=store.settings.url, asynctask_trace_url=TRACE_URL)


def fill(store: Store) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    retried = row(
        RETRIED,
        name="shop.charge",
        status=AsyncTaskStatus.FAILURE,
        retries=1,
        started_at=START + MINUTE,
        completed_at=START + 20 * MINUTE,
        root_task_id=RETRIED,
        customer=42,
        created_by=7,
        created_by_name="Ada",
        error_type="ValueError",
        error_message="no money\nfake  SUCCESS",
        trace_id=TRACE,
        span_id=SPAN,
        task_args=[BIG, {"$asynctask": "redacted"}],
        task_kwargs={"text": {"$asynctask": "cut", "type": "str", "size": 99_999, "head": "é"}},
        content={"lines": list(range(40)), "long": "x" * 2000},
    )
    hostile = row("hostile", name=HOSTILE, created_at=START + MINUTE, created_by_name=HOSTILE, task_args=[HOSTILE])
    queued = row(QUEUED, created_at=now - 5 * MINUTE, status=AsyncTaskStatus.RECEIVED)
    running = row(RUNNING, created_at=now - 9 * MINUTE, started_at=now - 8 * MINUTE, status=AsyncTaskStatus.STARTED)
    names = {name for one in (retried, hostile, queued, running) for name in one}
    add(store, [{**dict.fromkeys(names), **one} for one in (retried, hostile, queued, running)])
    first = {
        "celery_task_id": RETRIED, "run_key": "0", "name": "shop.charge", "retries": 0, "redelivered": False,
        "end_key": "", "customer_key": "42",
        "published_at": START, "eta": None, "started_at": START + MINUTE, "ended_at": START + 4 * MINUTE,
        "outcome": "retried", "error_type": "TimeoutError", "traceback": "Traceback of the first",
        "worker": "celery@one",
        "pid": 4711, "queue": "celery",
    }  # fmt: skip
    second = {
        **first, "run_key": "1", "retries": 1, "published_at": START + 4 * MINUTE, "eta": START + 14 * MINUTE,
        "started_at": START + 16 * MINUTE, "ended_at": START + 20 * MINUTE, "outcome": "failed",
        "error_type": "ValueError",
        "traceback": "\n".join(f"line {number} \x1b[31m" for number in range(40)),
    }  # fmt: skip
    third = {
        **first,
        "celery_task_id": RUNNING,
        "customer_key": "",
        "started_at": now - 8 * MINUTE,
        "ended_at": None,
        "outcome": None,
    }
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTaskAttempt), [second, first, third])


def obeyed(text: str) -> list[str]:
    """Characters that a terminal would obey."""
    return [char for char in text if (ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160 or char == "\u202e"]


def test_list(project: Project) -> None:
    ended = project.run("list", "-n", "3")
    assert ended.code == 0, ended.err
    head, *lines = ended.lines
    assert head.split() == [
        "id",
        "status",
        "name",
        "created",
        "wait",
        "run",
        "retries",
        "customer",
        "created",
        "by",
        "error",
    ]
    assert [line.split()[:2] for line in lines] == [[QUEUED, "RECEIVED"], [RUNNING, "STARTED"], ["hostile", "PENDING"]]
    assert not obeyed(ended.out)
    assert "fake  SUCCESS" in lines[2], "in its own line"
    hint = ended.err.strip()
    assert hint.startswith("More tasks match: --after ")
    ended = project.run("list", "--after", hint.split()[-1], TZ="America/New_York")
    assert (ended.code, ended.err) == (0, "")
    [_, line] = ended.lines
    assert line.split() == [
        RETRIED, "FAILURE", "shop.charge", "2026-01-31", "07:00:00.000", "1", "m", "00", "s", "19", "m", "00", "s",
        "1", "42", "Ada",
        "ValueError",
    ]  # fmt: skip


def test_list_as_json(project: Project) -> None:
    ended = project.run("list", "--json", "--utc", "created:2026-01-31", "-customer:42,7", TZ="America/New_York")
    assert (ended.code, ended.err) == (0, "")
    assert not obeyed(ended.out)
    assert [one["celery_task_id"] for one in project.run("list", "--json", "-creator:*").values] == [RUNNING, QUEUED][
        ::-1
    ]
    [value] = ended.values
    assert (value["name"], value["task_args"], value["created_at"]) == (
        HOSTILE,
        [HOSTILE],
        "2026-01-31T12:01:00.000000Z",
    )
    assert value.keys() == {column.name for column in AsyncTask.__table__.columns if column.name not in FOLD_KEYS}


def test_show(project: Project) -> None:
    ended = project.run("show", RETRIED[:6].upper(), "--utc")
    assert (ended.code, ended.err) == (0, "")
    assert not obeyed(ended.out)
    fields = dict(line.split(maxsplit=1) for line in ended.lines[:6])
    assert fields == {
        "id": RETRIED,
        "name": "shop.charge",
        "status": "FAILURE",
        "error": "ValueError: no money",
        "fake": "SUCCESS",
        "created": "2026-01-31 12:00:00.000",
    }
    assert "            fake  SUCCESS" in ended.lines, "more lines of a value begin where it begins"
    for line in (
        "waited      1 m 00 s",
        "ran         19 m 00 s",
        f"trace url   https://traces.example/{TRACE}?span={SPAN}",
        "args (redacted)",
        f"  {BIG},",
        "kwargs (cut)",
        "content",
        "… 33 more lines: --full",
        "Traceback of attempt 2",
        "… 28 more lines: --full",
        "line 39 \ufffd[31m",
    ):
        assert line in ended.lines, line
    attempts = [line.split("  ") for line in ended.lines if "celery@one" in line]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in attempts]
    assert cells == [
        ["1", "2026-01-31 12:01:00.000", "1 m 00 s", "3 m 00 s", "retried", "TimeoutError", "celery@one", "4711",
        "celery"],
        ["2", "2026-01-31 12:16:00.000", "10 m 00 s", "2 m 00 s", "4 m 00 s", "failed", "ValueError", "celery@one",
        "4711",
         "celery"],
    ]  # fmt: skip


def test_show_in_full(small: Project) -> None:
    full = small.run("show", RETRIED, "--full").lines
    assert "--full" not in "".join(full)
    assert "x" * 2000 in "".join(full)
    assert {"Traceback of the first", "line 0 \ufffd[31m", "line 39 \ufffd[31m"} <= set(full)


def test_nothing_is_found(small: Project) -> None:
    ended = small.run("list", "name:nothing")
    assert (ended.code, ended.out, ended.err) == (
        0,
        "",
        "No tasks match.\nname: takes the whole name; name:*nothing* finds a part.\n",
    )
    assert small.run("list", "boom").err == "No tasks match.\n"
    assert small.run("list", "name:*", "revoked").err == "No tasks match.\nDid you mean status:REVOKED?\n"


def test_show_as_json(small: Project) -> None:
    [value] = small.run("show", RETRIED, "--json").values
    assert value["task_args"] == [BIG, {"$asynctask": "redacted"}]
    assert value["trace_url"] == f"https://traces.example/{TRACE}?span={SPAN}"
    assert [(one["attempt"], one["outcome"]) for one in value["attempts"]] == [(1, "retried"), (2, "failed")]
    columns = {column.name for column in AsyncTaskAttempt.__table__.columns if column.name not in FOLD_KEYS}
    assert {name for one in value["attempts"] for name in one} == columns - {"id"} | {"attempt", "earlier_execution"}


def test_show_of_a_task_that_is_not_over(small: Project) -> None:
    assert any(line.startswith("waiting  5 m 0") for line in small.run("show", QUEUED).lines)
    lines = small.run("show", RUNNING[:2]).lines
    assert any(line.startswith("running  8 m 0") and line.endswith("so far") for line in lines)
    assert any(" running " in line and "celery@one" in line for line in lines)


def test_ids_that_find_nothing_or_too_much(small: Project) -> None:
    ended = small.run("show", "nothing")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "Error: No task has the id nothing, and none begins with it.\n"
    ended = small.run("show", "6")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        f"Error: Several task ids begin with 6: {QUEUED} (shop.charge), {RUNNING} (shop.charge). Give more of the id. "
        "The number of a row (id with --json and in the API) is no ID here.\n"
    )


def test_a_database_that_cannot_be_read(store: Store, tmp_path: Path) -> None:
    """Tables of another version, no tables, or no server: one line each, with what to do."""
    project = Project(tmp_path, asynctask_url=store.settings.url)
    with store.engine.begin() as connection:
        connection.execute(update(async_task_version).values(version_num="9999"))
    try:
        ended = project.run("list")
    finally:
        store.engine.dispose()
        with store.engine.begin() as connection:
            connection.execute(update(async_task_version).values(version_num=SCHEMA_VERSION))
    assert (ended.code, ended.out) == (3, "")
    assert "has tables of version 9999" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.every_database
def test_a_database_without_tables(database: str, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url="sqlite:///elsewhere.db")
    if database.startswith("sqlite"):
        ended = project.run("list", group=("--url", database))
        assert (ended.code, "There is no database file" in ended.err) == (3, True), ended.err
        assert not Path(database.removeprefix("sqlite:///")).exists()
        Path(database.removeprefix("sqlite:///")).touch()
    ended = project.run("show", "x", group=("--url", database))
    assert (ended.code, "has no tables of celery-asynctask" in ended.err) == (3, True), ended.err
    assert ended.err.count("\n") == 1


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """A project with a few rows in SQLite, where the database does not matter."""
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    store.prepare()
    fill(store)
    store.close()
    return Project(tmp_path, asynctask_url=store.settings.url, asynctask_trace_url=TRACE_URL)


def test_wrong_usage(small: Project) -> None:
    ended = small.run("list", "nmae:x")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(
        "Error: The search has no key 'nmae'. Did you mean 'name'? The keys are id, name, status"
    )
    ended = small.run("list", "name:\udc80")
    assert (ended.code, "a character that no text in a database has" in ended.err) == (2, True)
    Project(small.path, asynctask_nonsense=1)
    ended = small.run("list")
    assert (ended.code, "asynctask_nonsense" in ended.err) == (2, True)


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_no_server(driver: str, tmp_path: Path) -> None:
    ended = Project(tmp_path, asynctask_url=f"{driver}://u:secret@127.0.0.1:9/d").run("list")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith(f"Error: The database {driver}://u:***@127.0.0.1:9/d cannot be read: ")


def test_help(small: Project) -> None:
    ended = small.run("list", "--help")
    assert ended.code == 0
    assert "celery -A proj asynctask list status:FAILURE,LOST since:2d" in ended.out
    assert all(f"\n    {key} " in ended.out for key in KEYS)


def piped(small: Project, command: str) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; {sys.executable} -m celery -A proj asynctask {command}"
    return subprocess.run(
        ["bash", "-c", line],
        check=False,
        cwd=small.path,
        capture_output=True,
        encoding="utf-8",
        timeout=patience(SECONDS),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["list -n 1 | true", "list --json | head -c 1", "list 2>&1 | true", "show hostile | true"]
)
def test_a_closed_pipe(small: Project, command: str) -> None:
    ended = piped(small, command)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(small: Project) -> None:
    ended = piped(small, "list > /dev/full")
    assert (ended.returncode, ended.stderr) == (1, "Error: [Errno 28] No space left on device\n")


@pytest.mark.slow
def test_a_terminal_without_our_signs(small: Project) -> None:
    ended = small.run_process("list", "--json", "created_by_name:Ada", PYTHONIOENCODING="ascii")
    assert ended.values[0]["task_kwargs"]["text"]["head"] == "é"
    ended = small.run_process("show", RETRIED, PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err, "? 33 more lines: --full" in ended.lines) == (0, "", True)


@pytest.mark.slow
def test_an_interrupt(project: Project, store: Store) -> None:
    """While it prints more than anybody reads."""
    text = "x" * 1000
    add(store, [row(f"many-{number}", task_kwargs={"text": text}) for number in range(300)])
    process = project.start("list", "--json", "-n", "1000")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert (process.wait(patience(SECONDS)), err) == (130, "")
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.slow
def test_on_a_terminal(small: Project) -> None:
    code, sent = on_terminal(small.path, "list", "--utc")
    assert code == 0
    assert "\x1b[31m✖ FAILURE" in sent
    assert "\x1b[36m▶ STARTED" in sent
    assert "────" in sent
    assert "5f0c2a11 " in sent
    assert RETRIED not in sent, "80 columns have no room for it"
    assert not [char for char in "\x07\x9b\u202e" if char in sent]
    assert "\x1b[2J" not in sent
    code, sent = on_terminal(small.path, "list", columns=240, NO_COLOR="1")
    assert (code, "\x1b" in sent, "────" in sent, RETRIED in sent) == (0, False, True, True)


@pytest.mark.slow
def test_show_on_a_terminal(small: Project) -> None:
    code, sent = on_terminal(small.path, "show", RETRIED, "--utc", NO_COLOR="1")
    assert code == 0
    assert not obeyed(sent)
    assert f"id          {RETRIED}\n" in sent
    assert "1  01-31 12:01:00" in sent
    code, sent = on_terminal(small.path, "list", TERM="dumb")
    assert (code, "\x1b" in sent) == (0, False)


def complete(words: str, position: int) -> list[str]:
    celery = shutil.which("celery", path=str(Path(sys.executable).parent))
    assert celery is not None
    ended = subprocess.run(
        [celery],
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=patience(SECONDS),
        env={**os.environ, "_CELERY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)},
    )
    return [line.partition(",")[2] for line in ended.stdout.splitlines()]


@pytest.mark.slow
def test_shell_completion() -> None:
    assert {"list"} <= set(complete("celery -A proj asynctask l", 4))
    assert {"--json", "--utc", "--limit", "--after"} <= set(complete("celery -A proj asynctask list --", 5))
