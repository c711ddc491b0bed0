"""`celery asynctask export` and `import`: what leaves one database is in the other, to the letter."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, create_engine, select

from celery_asynctask.core.event import Kind
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.text import rfc3339
from celery_asynctask.errors import BundleError, NotFoundError
from celery_asynctask.operations import bundle
from celery_asynctask.operations.bundle import FORMAT, Import
from celery_asynctask.operations.session import Writer
from celery_asynctask.queries import Reader, parse
from celery_asynctask.queries import export as exporting
from celery_asynctask.queries.export import Exported, found_by, workflow_of
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests import services
from tests.histories import HISTORIES, Delivery, about, failure, lines, published
from tests.integration.commands import SECONDS, Project
from tests.integration.http.client import Api
from tests.integration.oracle import add
from tests.integration.oracle import row as pending
from tests.integration.purge import NOW, record
from tests.integration.store.test_values import JSON_VALUES
from tests.pace import patience

ODD = "é 😀 \" ' \\ % :x\n\r\t\u2028\x1b[31m,;=1+1"


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


def store_everything(store: Store) -> None:
    """Every history, every value that is made, and the ends of every column."""
    for name, history in HISTORIES.items():
        store.write(lines(about(history(), f"history-{name}")))
    run = Delivery(2, name=ODD)
    for number, value in enumerate(JSON_VALUES):
        whose = {"customer": 2**63 - 1, "created_by": -(2**63) + 1, "created_by_name": ODD, "content": {"": value}}
        told = [
            run.started(3, args=[value], kwargs={"k": value}, worker=ODD, queue=ODD, **whose),
            run.ended(Kind.SUCCEEDED, 4, result=value),
        ]
        store.write(lines(about(told, f"value-{number}")))
    store.write(lines(about([run.started(3), run.ended(Kind.FAILED, 4, **failure(ODD, error_type=ODD))], f"😀{ODD}")))


def rows(url: str, *without: str) -> list[dict[str, Any]]:
    """All columns of all tasks and attempts."""
    engine = create_engine(url)
    found = []
    with engine.connect() as connection:
        for model, key in ((AsyncTask, "celery_task_id"), (AsyncTaskAttempt, "run_key")):
            table = model.__table__
            assert isinstance(table, Table)
            for row in connection.execute(select(table).order_by(table.c.celery_task_id, table.c[key])).mappings():
                found.append({name: value for name, value in row.items() if name not in without})
    engine.dispose()
    return sorted(found, key=lambda row: (row["celery_task_id"], row.get("run_key", "")))


def exported(pages: Iterator[list[Exported]]) -> list[Exported]:
    return [task for page in pages for task in page]


def bundle_of(reader: Reader, search: str = "") -> list[bytes]:
    tasks = exported(found_by(reader, parse(search, NOW)))
    told = [bundle.line(task, attempts) for task, attempts in tasks]
    return [one.encode("ascii") + b"\n" for one in (bundle.head(NOW, "0001", search), *told, bundle.tail(len(told)))]


def import_into(url: str, told: list[bytes]) -> None:
    writer = Writer(Settings(url=url))
    work = Import(writer)
    work.prepare()
    assert sum(work.store(bundle.read(told))) == len(told) - 2
    writer.close()


@pytest.mark.every_database
def test_there_and_back(store: Store, reader: Reader, tmp_path: Path) -> None:
    store_everything(store)
    told = bundle_of(reader)
    there = f"sqlite:///{tmp_path}/incident.db"
    import_into(there, told)
    before, after = rows(store.settings.url), rows(there)
    assert len(after) > 60
    assert after == before
    assert [type(row.get("result")) for row in after] == [type(row.get("result")) for row in before]
    import_into(there, told)
    assert rows(there) == before, "twice is as once"
    copy = Reader(there)
    assert bundle_of(copy) == told, "and what is exported there is the same bundle"
    copy.close()


@pytest.mark.every_database
def test_into_any_database(store: Store, reader: Reader, tmp_path: Path) -> None:
    """As the recorder, it leaves the numbers to the database, which would give those it does not know of once more."""
    store_everything(store)
    told = bundle_of(reader)
    for number, line in enumerate(told[1:-1], 1):
        task = json.loads(line)
        attempts = [{**one, "id": 10 * number + at} for at, one in enumerate(task["attempts"])]
        told[number] = json.dumps({**task, "id": number, "attempts": attempts}).encode()
    with services.new_database(store.engine.dialect.name, tmp_path) as url:
        import_into(url, told)
        assert rows(url, "id") == rows(store.settings.url, "id")
        other = Store(Settings(url=url))
        record(other, "success", "next")
        other.close()
        import_into(url, told)
        assert len(rows(url)) == len(rows(store.settings.url)) + 2


@pytest.mark.every_database
def test_a_task_that_is_there_is_joined(store: Store, reader: Reader, tmp_path: Path) -> None:
    """An older bundle takes nothing back; a number that another task has is not taken from it."""
    told = HISTORIES["ends_carry_starts"]()
    store.write(lines(about(told[:1], "a")))
    older = bundle_of(reader)
    store.write(lines(about(told, "a")))
    newer = bundle_of(reader)
    there = f"sqlite:///{tmp_path}/incident.db"
    copy = Store(Settings(url=there))
    copy.prepare()
    record(copy, "success", *(f"theirs-{number}" for number in range(20)))
    copy.close()
    for one in (older, newer, older):
        import_into(there, one)
    mine = [row for row in rows(there, "id") if row["celery_task_id"] == "a"]
    assert mine == rows(store.settings.url, "id")
    assert len(rows(there)) == 40 + 3


@pytest.mark.every_database
def test_all_of_it_is_exported(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page, on over searches that a page bounds, and not one more."""
    monkeypatch.setattr(exporting, "MOST_ROWS", 7)
    monkeypatch.setattr(import_module("celery_asynctask.queries.search.page"), "MOST_LOOKED_AT", 10)
    record(store, "success", *(f"a-{number:03}" for number in range(50)))
    record(store, "retries_exhausted", *(f"b-{number:03}" for number in range(45)))
    everything = exported(found_by(reader, parse("", NOW)))
    assert len(everything) == 95 == len({one.task["celery_task_id"] for one in everything})
    assert sum(len(one.attempts) for one in everything) == 50 + 3 * 45
    scanned = exported(found_by(reader, parse("result.paid:true", NOW)))
    assert {one.task["celery_task_id"] for one in scanned} == {f"a-{number:03}" for number in range(50)}
    assert len(scanned) == 50
    few = exported(found_by(reader, parse("retries:>0 id:b-00", NOW)))
    assert len(few) == 10
    assert all(list(one.attempts) == sorted(one.attempts, key=lambda run: run["run_key"]) for one in few)
    assert exported(found_by(reader, parse("name:nobody", NOW))) == []


@pytest.mark.every_database
def test_a_workflow(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "MOST_ROWS", 2)
    tree = {"root": None, "child": "root", "grandchild": "child"}
    store.write(lines(e for one, parent in tree.items() for e in about([published(root="root", parent=parent)], one)))
    record(store, "success", "other")
    for member in tree:
        found = exported(workflow_of(reader, member))
        assert {one.task["celery_task_id"] for one in found} == tree.keys()
        assert len(found) == 3
    with pytest.raises(NotFoundError):
        exported(workflow_of(reader, "nobody"))


# -- what is no bundle ---------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    url = f"sqlite:///{tmp_path_factory.mktemp('good')}/rows.db"
    store = Store(Settings(url=url))
    store.prepare()
    record(store, "failed", "a", "b")
    store.close()
    reader = Reader(url)
    made = bundle_of(reader)
    reader.close()
    return made


def changed(**columns: Any) -> Callable[[list[bytes]], list[bytes]]:
    """With other values in the second task."""
    return lambda good: [*good[:2], json.dumps({**json.loads(good[2]), **columns}).encode(), *good[3:]]


def in_attempt(**columns: Any) -> Callable[[list[bytes]], list[bytes]]:
    def change(good: list[bytes]) -> list[bytes]:
        attempts = json.loads(good[2])["attempts"]
        return changed(attempts=[{**attempts[0], **columns}, *attempts[1:]])(good)

    return change


def first_line(**more: Any) -> Callable[[list[bytes]], list[bytes]]:
    return lambda good: [json.dumps({"format": FORMAT, "version": 1, **more}).encode(), *good[1:]]


BAD: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "nothing": (lambda _: [], "Line 1: it is no JSON"),
    "something else": (lambda _: [b"\x89PNG\r\n", b"\x1a"], "Line 1: it is no JSON"),
    "other lines": (lambda good: good[1:], "Line 1: this is no bundle"),
    "a list": (lambda good: [b"[]", *good[1:]], "Line 1: it is no JSON object"),
    "newer": (first_line(version=2), "Line 1: the bundle is of version 2, and this release .* install a newer release"),
    "no version": (first_line(version=None), "Line 1: a bundle has no version None"),
    "odd version": (first_line(version=True), "Line 1: a bundle has no version True"),
    "cut line": (lambda good: [*good[:2], good[2][:-20]], "Line 3: it is no JSON"),
    "cut off": (lambda good: good[:-1], "The bundle was cut off: its last line is missing, after 2 tasks"),
    "a task is gone": (lambda good: [*good[:1], *good[2:]], "Line 3: the bundle says it has 2 tasks, and has 1"),
    "more behind": (lambda good: [*good, good[1]], "Line 5: there is something behind the end"),
    "an empty line": (lambda good: [*good[:2], b"\n", *good[2:]], "Line 3: it is no JSON"),
    "unknown column": (changed(more=1), "Line 3: it has not the columns of this release; of more"),
    "no attempts": (changed(attempts=None), "Line 3: it is no task of a bundle"),
    "odd attempt": (changed(attempts=[1]), "Line 3: it has not the columns"),
    "null": (changed(name=None), "Line 3: name is None; it must be a text"),
    "number": (changed(name=5), "Line 3: name is 5; it must be a text"),
    "NUL": (changed(name="a\0"), "Line 3: name is 'a.x00'; it must be a text"),
    "surrogate": (changed(name="\ud800"), "Line 3: name is"),
    "text": (changed(customer="5"), "Line 3: customer is '5'; it must be a whole number"),
    "true": (changed(retries=True), "Line 3: retries is True; it must be a whole number"),
    "too large": (changed(customer=2**63), "Line 3: customer is 9223372036854775808; it must be a whole number"),
    "no time": (changed(created_at="yesterdayZ"), "Line 3: created_at is 'yesterdayZ'; it must be a time"),
    "local time": (changed(created_at="2026-01-01T00:00:00"), "Line 3: created_at is"),
    "status": (changed(status="DONE"), "Line 3: status is 'DONE'; it must be a status"),
    "not over": (changed(completed_at=None), "Line 3: the status FAILURE does not go with its completed_at"),
    "id": (changed(id=0), "Line 3: an id must be 1 or more"),
    "NaN": (lambda good: [*good[:2], re.sub(rb'"result": null', b'"result": NaN', good[2])], "Line 3: it is no JSON"),
    "deep": (lambda good: [*good[:2], b"[" * 100_000 + b"]" * 100_000], "Line 3: it is no JSON"),
    "long number": (lambda good: [*good[:2], b'{"a": ' + b"9" * 5000 + b"}"], "Line 3: it is no JSON|columns"),
    "other task's attempt": (in_attempt(celery_task_id="x"), "Line 3: an attempt is of another task"),
    "attempt's number": (in_attempt(pid="x"), "Line 3: pid is 'x'; it must be a whole number"),
    "attempt's flag": (in_attempt(redelivered=0), "Line 3: redelivered is 0; it must be true or false"),
}


def test_the_good_one_is_one(good: list[bytes]) -> None:
    """Those below are bad for what was changed in them."""
    for change in (lambda same: same, changed(), in_attempt(), first_line()):
        assert [task.task["celery_task_id"] for task in bundle.read(change(good))] == ["b", "a"]


@pytest.mark.parametrize("change", BAD)
def test_what_is_no_bundle(good: list[bytes], change: str) -> None:
    made, told = BAD[change]
    with pytest.raises(BundleError, match=told):
        list(bundle.read(made(good)))


def test_two_attempts_of_one_run(good: list[bytes]) -> None:
    attempts = json.loads(good[1])["attempts"]
    with pytest.raises(BundleError, match="Line 3: two attempts have the same run_key"):
        list(bundle.read(changed(attempts=json.loads(good[2])["attempts"] * 2)(good)))
    assert len(attempts) == 1


def test_the_same_number_twice(good: list[bytes], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/rows.db"
    import_into(url, changed(id=json.loads(good[1])["id"])(good))
    assert len({row["id"] for row in rows(url) if "status" in row}) == 2


# -- as an operator does it ----------------------------------------------------------


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
    assert done.out == "2 tasks are in sqlite:///incident.db.\n"
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
    assert read.values == [{"tasks": 1, "database": "sqlite:///incident.db"}]
    assert len(rows(f"sqlite:///{project.path}/incident.db")) == 4
    server = "postgresql+psycopg://nobody@127.0.0.1:9/x"
    refused = project.run("import", "-", "--into", server, given=piped.out)
    assert refused.code == 2
    assert "--into is not an SQLite file. If that is what you want, say --any-database." in refused.err


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
    assert not [name for name in table[0] if name.endswith("_key")]


CELLS = {
    '=HYPERLINK("https://elsewhere.example")': "'",
    "+1+cmd|' /C calc'!A0": "'",
    "-2+3": "'",
    "-E5+E6": "'",
    "@SUM(A1)": "'",
    "\t=1": "'",
    "\r=1": "'",
    "-1.5e-3": "",
    "-7": "",
    "a=b": "",
    "'=1": "",
}
"""Texts, and what stands before each in a file for spreadsheets."""


def test_no_cell_of_csv_is_a_formula(store: Store, project: Project, api: Api) -> None:
    """Neither in the command's nor in the console's; a bundle has the texts as they were."""
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
    """A bundle may come from anything that knows the format."""
    keys = dict.fromkeys(("origin_key", "order_key", "trace_key", "content_key"), key)
    nothing = {c.name: None for c in AsyncTask.__table__.columns if c.nullable}
    run = {c.name: None for c in AsyncTaskAttempt.__table__.columns if c.nullable}
    told = [bundle.head(NOW, "0001", "made elsewhere")]
    for number, status in enumerate(AsyncTaskStatus, 1):
        over = {"completed_at": NOW} if status in TERMINAL else {}
        task = {
            **nothing,
            **pending(f"{status}", **keys),
            "id": number,
            "status": status,
            **over,
            "task_args": [1, "a"],
        }
        same = {"id": number, "celery_task_id": f"{status}", "name": "shop.charge", "retries": 0, "redelivered": False}
        told.append(bundle.line({**task, "task_kwargs": {}}, [{**run, **same, "run_key": key, "end_key": key}]))
    told.append(bundle.tail(len(AsyncTaskStatus)))
    import_into(store.settings.url, [f"{one}\n".encode() for one in told])
    for status in AsyncTaskStatus:
        for command in ("why", "show", "tree"):
            ended = project.run(command, status)
            assert (ended.code, ended.err) == (0, ""), (command, ended)
        for page in ("", "/workflow", "/rerun"):
            assert api.get(f"/console/tasks/{status}{page}").status_code == 200, page
        assert api.post(f"/async-tasks/{status}/rerun", dryRun=True, unfinished=True).status_code == 200
    ended = project.run("rerun", "--search", "shop.charge", "--unfinished", "--force-name", "--yes")
    assert ended.code == 0, ended
    reader = Reader(store.settings.url)
    assert len(bundle_of(reader, "shop.charge")) >= len(told), "and are exported again"
    reader.close()


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """A project with an SQLite file with two tasks."""
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


def test_parquet_without_pyarrow(small: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = small.run("export", "--format", "parquet", "-o", "tasks.parquet")
    assert (done.code, done.err) == (1, "Error: Parquet needs pyarrow, which is not installed: pip install pyarrow\n")
    assert not (small.path / "tasks.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--workflow", "a", "status:SUCCESS"), 2, "Either a search or --workflow, not both."),
        (("--workflow", "zzz"), 1, "No task has the id zzz"),
        (("state:x",), 2, "The search has no key 'state'"),
        (("-o", "nowhere/tasks.ndjson"), 1, "nowhere/tasks.ndjson cannot be written: No such file or directory."),
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
    assert (done.code, done.err) == (1, "Error: old.ndjson cannot be written: No space left on device.\n")
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
    assert (done.code, done.err) == (1, "Error: none.ndjson cannot be read: No such file or directory.\n")
    with create_engine(f"sqlite:///{small.path}/newer.db").begin() as connection:
        connection.exec_driver_sql("CREATE TABLE async_task_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO async_task_version VALUES ('9999')")
    connection.engine.dispose()
    (small.path / "whole.ndjson").write_text("\n".join(told), encoding="utf-8")
    done = small.run("import", "whole.ndjson", "--into", "sqlite:///newer.db")
    assert done.code == 3
    assert "has tables of version 9999" in done.err
