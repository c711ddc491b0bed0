"""`celery asynctask export` and `import`, as an operator runs them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert

from celery_asynctask.core.columns import FOLD_KEYS
from celery_asynctask.core.status import SHOWN, TERMINAL
from celery_asynctask.core.text import rfc3339
from celery_asynctask.operations import bundle
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.histories import about, lines, published
from tests.integration.bundles import bundle_of, rows, store_everything
from tests.integration.commands import SECONDS, Project
from tests.integration.http.client import Api
from tests.integration.oracle import add
from tests.integration.oracle import row as pending
from tests.integration.purge import NOW, record
from tests.integration.terminal import on_terminal
from tests.pace import patience


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    return Project(tmp_path, asynctask_url=store.settings.url)


def test_an_incident_is_looked_at_elsewhere(store: Store, project: Project) -> None:
    tree = {"1000root": None, "1000child": "1000root"}
    store.write(
        lines(e for one, parent in tree.items() for e in about([published(root="1000root", parent=parent)], one))
    )
    record(store, "failed", "2000other")
    done = project.run("export", "--workflow", "1000c", "-o", "incident.ndjson")
    assert (done.code, done.out, done.err) == (0, "", "2 tasks in incident.ndjson.\n")
    path = project.path / "incident.ndjson"
    assert path.stat().st_mode & 0o777 == 0o600
    done = project.run("import", "incident.ndjson", "--into", "sqlite:///incident.db")
    assert done.code == 0
    assert done.out == "2 tasks added to sqlite:///incident.db.\n"
    assert (project.path / "incident.db").stat().st_mode & 0o777 == 0o600
    url = ("--url", "sqlite:///incident.db")
    listed = Project.run(project, "--json", group=(*url, "list"))
    assert {one["celery_task_id"] for one in listed.values} == tree.keys()
    shown = project.run("1000r", group=(*url, "show"))
    assert shown.code == 0
    assert "1000root" in shown.out
    drawn = project.run("1000r", group=(*url, "tree"))
    assert drawn.code == 0
    assert drawn.out.count("shop.charge") == 2
    piped = project.run("export", "status:FAILURE")
    assert piped.code == 0
    assert [json.loads(line).get("celery_task_id") for line in piped.lines] == [None, "2000other", None]
    read = project.run("import", "-", "--into", "sqlite:///incident.db", "--json", given=piped.out)
    told = {"tasks": 1, "database": "sqlite:///incident.db", "same": 0, "differing": 0, "odd_times": 0}
    assert read.values == [{**told, "added": 1}]
    assert len(rows(f"sqlite:///{project.path}/incident.db")) == 4
    server = "postgresql+psycopg://nobody@127.0.0.1:9/x"
    refused = project.run("import", "-", "--into", server, given=piped.out)
    assert refused.code == 2
    assert "--into is not an SQLite file. To import into it anyway, add --any-database." in refused.err


def test_an_incident_is_not_rerun_here(small: Project) -> None:
    """A prepared bundle and one command would run any task with any arguments."""
    assert small.run("export", "-o", "incident.ndjson").code == 0
    assert small.run("import", "incident.ndjson", "--into", "sqlite:///incident.db").code == 0
    group = ("--url", "sqlite:///incident.db")
    for arguments in (("a",), ("--search", "id:a")):
        refused = small.run("rerun", *arguments, "--force-name", "--again", "--yes", group=group)
        assert refused.code == 1
        assert "a cannot be rerun: it is from another record than the app's" in refused.out
        assert "(--from-elsewhere reruns it anyway)" in refused.out
        assert "was rerun as" not in refused.out
    told = small.run("rerun", "a", "--from-elsewhere", "--yes", group=group)
    assert (told.code, told.err) == (0, "")
    assert "a note: it is from another record" in told.out
    assert "a was rerun as" in told.out
    same = ("--url", f"sqlite:///{small.path}/rows.db?timeout=3")
    assert small.run("rerun", "b", "--yes", group=same).code == 0, "its own record, written in another way"


def test_csv(store: Store, project: Project) -> None:
    store_everything(store)
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "export", "--format", "csv"],
        cwd=project.path,
        capture_output=True,
        check=True,
        timeout=patience(SECONDS),
    )
    table = list(csv.DictReader(io.StringIO(done.stdout.decode("utf-8"), newline="")))
    tasks = {row["celery_task_id"]: row for row in rows(store.settings.url) if "status" in row}
    assert len(table) == len(tasks)
    for row in table:
        task = tasks[row["celery_task_id"]]
        assert row["name"] == task["name"]
        assert row["customer"] == ("" if task["customer"] is None else str(task["customer"]))
        assert (json.loads(row["result"]) if row["result"] else None) == task["result"]
        assert row["created_at"] == rfc3339(task["created_at"])
        assert row["status"] == str(task["status"])
    assert not [name for name in table[0] if name in FOLD_KEYS]


CELLS = {
    '=HYPERLINK("https://elsewhere.example")': "'",
    "+1+cmd|' /C calc'!A0": "'",
    "-2+3": "'",
    "-E5+E6": "'",
    "@SUM(A1)": "'",
    "\t=1": "'",
    "\r=1": "'",
    "\n=1": "'",
    "  =1": "'",
    "\u00a0@SUM(A1)": "'",
    "\uff1d1+1": "'",
    "\uff20SUM(A1)": "'",
    "  a": "",
    "-1.5e-3": "",
    "-7": "",
    "a=b": "",
    "'=1": "",
}
"""Texts, with the character before each in a file for spreadsheets."""


def test_no_cell_of_csv_is_a_formula(store: Store, project: Project, api: Api) -> None:
    """In the command's file and in the console's; a bundle has the texts unchanged."""
    add(store, [pending(f"={number}", error_message=text) for number, text in enumerate(CELLS)])
    wanted = {f"'={number}": f"{before}{text}" for number, (text, before) in enumerate(CELLS.items())}
    assert project.run("export", "--format", "csv", "-o", "tasks.csv").code == 0
    for told in ((project.path / "tasks.csv").read_bytes().decode(), api.get("/console/tasks.csv").text):
        table = csv.DictReader(io.StringIO(told, newline=""))
        assert {one["celery_task_id"]: one["error_message"] for one in table} == wanted
    assert project.run("export", "-o", "tasks.ndjson").code == 0
    tasks = [json.loads(one) for one in (project.path / "tasks.ndjson").read_bytes().splitlines()[1:-1]]
    assert sorted(one["error_message"] for one in tasks) == sorted(CELLS)


@pytest.mark.parametrize("key", ["", "x"])
def test_keys_that_the_recorder_did_not_write(store: Store, project: Project, api: Api, key: str) -> None:
    """Rows may come from anything that can write into the database; an import refuses them."""
    keys = dict.fromkeys(("origin_key", "order_key", "trace_key", "content_key"), key)
    with store.engine.begin() as connection:
        for status in SHOWN:
            over = {"completed_at": NOW} if status in TERMINAL else {}
            task = pending(f"{status}", **keys, status=status, **over, task_args=[1, "a"], task_kwargs={})
            connection.execute(insert(AsyncTask).values(task))
            same = {"celery_task_id": f"{status}", "name": "shop.charge", "retries": 0, "redelivered": False}
            connection.execute(insert(AsyncTaskAttempt).values(**same, run_key=key, end_key=key, customer_key=""))
    assert project.run("export", "-o", "odd.ndjson").code == 0
    refused = project.run("import", "odd.ndjson", "--into", "sqlite:///odd.db")
    assert refused.code == 1
    assert f"Error: Line 2: origin_key is {key!r}; it must be a key of the fold." in refused.err
    for status in SHOWN:
        for command in ("why", "show", "tree"):
            ended = project.run(command, status)
            assert (ended.code, ended.err) == (0, ""), (command, ended)
        for page in ("", "/workflow", "/rerun"):
            assert api.get(f"/console/tasks/{status}{page}").status_code == 200, page
        assert api.post(f"/async-tasks/{status}/rerun", dryRun=True, unfinished=True).status_code == 200
    ended = project.run("rerun", "--search", "shop.charge", "--unfinished", "--force-name", "--yes")
    assert ended.code == 0, ended
    reader = Reader(store.settings.url)
    assert len(bundle_of(reader, "shop.charge")) >= len(SHOWN) + 2, "and are exported again"
    reader.close()


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """A project with two tasks in an SQLite file."""
    project = Project(tmp_path, asynctask_url=f"sqlite:///{tmp_path}/rows.db")
    store = Store(Settings(url=f"sqlite:///{tmp_path}/rows.db"))
    store.prepare()
    record(store, "success", "a", "b", customer=2**62)
    store.close()
    return project


def test_parquet(small: Project) -> None:
    from pyarrow import parquet

    assert small.run("export", "--format", "parquet", "-o", "tasks.parquet").code == 0
    table = parquet.read_table(small.path / "tasks.parquet").to_pylist()
    assert {row["celery_task_id"] for row in table} == {"a", "b"}
    assert {row["customer"] for row in table} == {2**62}
    assert {row["result"] for row in table} == {'{"paid": true}'}
    assert str(table[0]["created_at"].tzinfo) == "UTC"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_not_written_to_a_terminal(small: Project, kind: str) -> None:
    """It would obey the texts."""
    code, shown = on_terminal(small.path, "export", "--format", kind)
    assert code == 2
    assert f"Error: {kind} is not written to a terminal. Use -o FILE, or a pipe." in shown


def test_an_argument_in_an_error_is_no_command_to_the_terminal(small: Project) -> None:
    for arguments in (("show", "a", "\x1b[31m"), ("\x9b31m",), ("show", "--\x1b]0;x\x07"), ("list", "-n", "\u202e")):
        ended = small.run(*arguments)
        assert ended.code == 2
        assert "Error: " in ended.err
        assert ended.err.replace("\n", "").isprintable(), ended


def test_parquet_without_pyarrow(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = small.run("export", "--format", "parquet", "-o", "tasks.parquet")
    assert (done.code, done.err) == (
        1,
        "Error: Parquet needs pyarrow. Install the extra: pip install 'celery-asynctask[parquet]'.\n",
    )
    assert not (small.path / "tasks.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--workflow", "a", "status:SUCCESS"), 2, "Give a search or --workflow, not both."),
        (("--workflow", "zzz"), 1, "No task has the id zzz"),
        (("state:x",), 2, "The search has no key 'state'"),
        (
            ("-o", "nowhere/tasks.ndjson"),
            1,
            "nowhere/tasks.ndjson cannot be written: No such file or directory. Choose another file with -o.",
        ),
    ],
)
def test_what_cannot_be_exported(small: Project, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = small.run("export", *arguments)
    assert done.code == code
    assert told in done.err


def test_a_file_is_whole_or_not_there(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, or the database goes away, in the middle."""

    def fails(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    (small.path / "old.ndjson").write_text("old", encoding="utf-8")
    monkeypatch.setattr(bundle, "line", fails)
    done = small.run("export", "-o", "old.ndjson")
    assert (done.code, done.err) == (
        1,
        "Error: old.ndjson cannot be written: No space left on device. Choose another file with -o.\n",
    )
    assert (small.path / "old.ndjson").read_text(encoding="utf-8") == "old"
    assert [path.name for path in small.path.iterdir() if "ndjson" in path.name] == ["old.ndjson"]


def test_whoever_reads_has_enough(small: Project) -> None:
    process = small.start("export")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(patience(SECONDS)) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


def test_nothing_is_imported_of_what_is_not_whole(small: Project) -> None:
    told = small.run("export").lines
    (small.path / "cut.ndjson").write_text("\n".join(told[:-1]), encoding="utf-8")
    done = small.run("import", "cut.ndjson", "--into", "sqlite:///incident.db")
    assert done.code == 1
    assert "Error: The bundle was cut off: its last line is missing, after 2 tasks. Export it again." in done.err
    assert not (small.path / "incident.db").exists()
    done = small.run("import", "none.ndjson", "--into", "sqlite:///incident.db")
    assert done.code == 1
    assert done.err.startswith("Error: none.ndjson cannot be read: No such file or directory. Give the path")
    with create_engine(f"sqlite:///{small.path}/newer.db").begin() as connection:
        connection.exec_driver_sql("CREATE TABLE async_task_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO async_task_version VALUES ('9999')")
    connection.engine.dispose()
    (small.path / "whole.ndjson").write_text("\n".join(told), encoding="utf-8")
    done = small.run("import", "whole.ndjson", "--into", "sqlite:///newer.db")
    assert done.code == 3
    assert "has tables of version 9999" in done.err
