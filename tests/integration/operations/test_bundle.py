"""Bundles: rows that leave one database arrive in another unchanged; files that are no bundle are refused by line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

import pytest

from celery_asynctask.errors import BundleError, NotFoundError
from celery_asynctask.operations import bundle
from celery_asynctask.operations.bundle import FORMAT, Counts
from celery_asynctask.queries import Reader, parse
from celery_asynctask.queries import export as exporting
from celery_asynctask.queries.export import found_by, workflow_of
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task, async_task_attempt
from tests import services
from tests.histories import HISTORIES, about, lines, published
from tests.integration.bundles import bundle_of, exported, import_into, rows, store_everything
from tests.integration.purge import NOW, record


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


@pytest.mark.every_database
def test_there_and_back(store: Store, reader: Reader, tmp_path: Path) -> None:
    store_everything(store)
    told = bundle_of(reader)
    there = f"sqlite:///{tmp_path}/incident.db"
    count = len(told) - 2
    assert import_into(there, told) == Counts(added=count)
    before, after = rows(store.settings.url), rows(there)
    assert len(after) > 60
    assert after == before
    assert [type(row.get("result")) for row in after] == [type(row.get("result")) for row in before]
    for merge in (False, True):
        assert import_into(there, told, merge=merge) == Counts(same=count)
        assert rows(there) == before, "twice is as once"
    copy = Reader(there)
    assert bundle_of(copy) == told, "and what is exported there is the same bundle"
    copy.close()


@pytest.mark.every_database
def test_into_any_database(store: Store, reader: Reader, tmp_path: Path) -> None:
    """Like the recorder, it leaves row numbers to the database, which would otherwise assign unknown ones twice."""
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
    merged = [import_into(there, one, merge=True) for one in (older, newer, older)]
    assert merged == [Counts(added=1), Counts(differing=1), Counts(differing=1)]
    mine = [row for row in rows(there, "id") if row["celery_task_id"] == "a"]
    assert mine == rows(store.settings.url, "id")
    assert len(rows(there)) == 40 + 3


@pytest.mark.every_database
def test_a_task_that_is_there_is_left_as_it_is(store: Store, reader: Reader, tmp_path: Path) -> None:
    """With its attempts, its owner included: whoever makes a bundle chooses the keys that decide what is later."""
    store.write(lines(about(HISTORIES["failed"](), "a")))
    told = bundle_of(reader)
    line = json.loads(told[1])
    first = {**line["attempts"][0], "run_key": "f" * 20 + "0" + "f" * 20}
    keys = {"origin_key": "0" * 37, "order_key": "f" * 14 + "1" + "f" * 6 + "41" + "f" * 20 + "4" + "f" * 14}
    theirs = {**line, **keys, "task_args": ["theirs"], "created_by_name": "Mallory", "attempts": [first]}
    there = [told[0], json.dumps(theirs).encode(), json.dumps({**line, "celery_task_id": "b", "attempts": []}).encode()]
    there.append(b'{"end": true, "tasks": 2}')
    with services.new_database(store.engine.dialect.name, tmp_path) as url:
        import_into(url, told)
        before = rows(url)
        assert import_into(url, there) == Counts(added=1, differing=1)
        assert [row for row in rows(url) if row["celery_task_id"] == "a"] == before
        assert import_into(url, there, merge=True) == Counts(same=1, differing=1)
        assert len([row for row in rows(url) if row["celery_task_id"] == "a"]) == len(before) + 1


@pytest.mark.every_database
def test_an_attempt_that_is_there_before_its_task(store: Store, reader: Reader) -> None:
    """It stays as it is, too; a recorder may also store a row while an import looks."""
    store.write(lines(about(HISTORIES["failed"](), "a")))
    told = bundle_of(reader)
    with store.engine.begin() as connection:
        connection.execute(async_task.delete())
        connection.execute(async_task_attempt.update().values(worker="ours", outcome=None, end_key=""))
    before = [row for row in rows(store.settings.url, "id") if "run_key" in row]
    assert import_into(store.settings.url, told) == Counts(added=1)
    after = rows(store.settings.url, "id")
    assert [row for row in after if "run_key" in row] == before
    assert len(after) == len(before) + 1


@pytest.mark.every_database
def test_all_of_it_is_exported(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page, beyond searches that a page bounds, and not one row twice."""
    monkeypatch.setattr(exporting, "MAX_ROWS", 7)
    monkeypatch.setattr(import_module("celery_asynctask.queries.search.page"), "MAX_SCANNED", 10)
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
    monkeypatch.setattr(exporting, "MAX_ROWS", 2)
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


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def first_line(**more: Any) -> Callable[[list[bytes]], list[bytes]]:
    return lambda good: [json.dumps({"format": FORMAT, "version": 1, **more}).encode(), *good[1:]]


BAD: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "nothing": (lambda _: [], "Line 1: this is not JSON"),
    "something else": (lambda _: [b"\x89PNG\r\n", b"\x1a"], "Line 1: this is not JSON"),
    "other lines": (lambda good: good[1:], "Line 1: this is not a bundle"),
    "a list": (lambda good: [b"[]", *good[1:]], "Line 1: this is not a JSON object"),
    "newer": (first_line(version=2), "Line 1: the bundle is of version 2, and this release .* Install a newer release"),
    "no version": (first_line(version=None), "Line 1: a bundle has no version None"),
    "odd version": (first_line(version=True), "Line 1: a bundle has no version True"),
    "cut line": (lambda good: [*good[:2], good[2][:-20]], "Line 3: this is not JSON"),
    "cut off": (lambda good: good[:-1], "The bundle was cut off: its last line is missing, after 2 tasks"),
    "a task is gone": (lambda good: [*good[:1], *good[2:]], "Line 3: the bundle says it has 2 tasks, and has 1"),
    "more behind": (lambda good: [*good, good[1]], "Line 5: there is something behind the end"),
    "an empty line": (lambda good: [*good[:2], b"\n", *good[2:]], "Line 3: this is not JSON"),
    "unknown column": (changed(more=1), "Line 3: the columns are not those of this release: more"),
    "no attempts": (changed(attempts=None), "Line 3: this is not a task of a bundle"),
    "odd attempt": (changed(attempts=[1]), "Line 3: the columns are not those of this release"),
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
    "id": (changed(id=0), "Line 3: id is 0; it must be a whole number from 1"),
    "last id": (changed(id=2**63 - 1), "Line 3: id is 9223372036854775807; it must be a whole number from 1"),
    "long name": (changed(name="a" * 256), "Line 3: name is 'aaaa.*; it must be a text of at most 255 characters"),
    "long id": (changed(root_task_id="a" * 256), "Line 3: root_task_id is .*; it must be a text of 1 to 255"),
    "no id": (changed(celery_task_id=""), "Line 3: celery_task_id is ''; it must be a text of 1 to 255"),
    "long message": (changed(error_message="é" * 32_768), "Line 3: error_message is .* a text of at most 65535 bytes"),
    "long traceback": (in_attempt(traceback="a" * 300_000), "Line 3: traceback is .* a text of at most 262144 bytes"),
    "order key": (changed(order_key="f" * 58), "Line 3: order_key is 'f*'; it must be a key of the fold"),
    "origin key": (changed(origin_key="0"), "Line 3: origin_key is '0'; it must be a key of the fold"),
    "attempt key": (in_attempt(run_key="z" * 41), "Line 3: run_key is 'z*'; it must be a key of the fold"),
    "end key": (in_attempt(end_key="9" * 15), "Line 3: end_key is"),
    "content key": (changed(content_key="\n"), "Line 3: content_key is"),
    "customer key": (changed(customer_key="5", customer=6), "Line 3: the customer_key is not that of its customer"),
    "creator key": (changed(created_by=7), "Line 3: the created_by_key is not that of its created_by"),
    "customer": (changed(customer_key="a\nb"), "Line 3: customer_key is"),
    "year 1": (changed(created_at="0001-01-01T00:00:00.000000Z"), "Line 3: created_at is .* from 1970 to 2999"),
    "year 3111": (changed(created_at="3111-01-01T00:00:00.000000Z"), "Line 3: created_at is .* from 1970 to 2999"),
    "offset": (changed(created_at="2026-01-01T00:00:00+23:59Z"), "Line 3: created_at is"),
    "retries": (changed(retries=-1), "Line 3: retries is -1; it must be a whole number from 0 to 2147483647"),
    "pid": (in_attempt(pid=2**31), "Line 3: pid is 2147483648; it must be a whole number from 0"),
    "deep value": (changed(result=deep(101)), "Line 3: result is a list; it must be JSON of at most 100 levels"),
    "NUL in a value": (changed(result={"a\0": 1}), "Line 3: result is a dict; it must be JSON"),
    "surrogate in a value": (changed(result=[{"a": "\ud800"}]), "Line 3: result is a list; it must be JSON"),
    "infinite": (
        lambda good: [*good[:2], re.sub(rb'"result": null', b'"result": 1e400', good[2])],
        "Line 3: this is not JSON",
    ),
    "NaN": (
        lambda good: [*good[:2], re.sub(rb'"result": null', b'"result": NaN', good[2])],
        "Line 3: this is not JSON",
    ),
    "deep": (lambda good: [*good[:2], b"[" * 100_000 + b"]" * 100_000], "Line 3: this is not JSON"),
    "long number": (lambda good: [*good[:2], b'{"a": ' + b"9" * 5000 + b"}"], "Line 3: this is not JSON|columns"),
    "other task's attempt": (in_attempt(celery_task_id="x"), "Line 3: an attempt is of another task"),
    "attempt's number": (in_attempt(pid="x"), "Line 3: pid is 'x'; it must be a whole number"),
    "attempt's flag": (in_attempt(redelivered=0), "Line 3: redelivered is 0; it must be true or false"),
}


def test_the_good_one_is_one(good: list[bytes]) -> None:
    """The ones below are invalid because of the change."""
    for change in (lambda same: same, changed(), in_attempt(), first_line()):
        assert [task.task["celery_task_id"] for task in bundle.read(change(good))] == ["b", "a"]


@pytest.mark.parametrize("change", BAD)
def test_what_is_no_bundle(good: list[bytes], change: str) -> None:
    made, told = BAD[change]
    with pytest.raises(BundleError, match=told):
        list(bundle.read(made(good)))


def test_a_line_without_end(good: list[bytes]) -> None:
    """No more of it is read than a line may have."""

    class Endless(io.RawIOBase):
        taken = 0

        def readline(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size > 0, "a line is not read as a whole"
            self.taken += 1
            return good[0] if self.taken == 1 else b" " * size

    with pytest.raises(BundleError, match=r"Line 2: it has more than 5,000 bytes\. Leave that task out, or raise asyn"):
        list(bundle.read(bundle.lines(cast("IO[bytes]", Endless()), 5000), 5000))
    assert [one.task["celery_task_id"] for one in bundle.read(bundle.lines(io.BytesIO(b"".join(good))))] == ["b", "a"]


def test_what_ends_before_it_begins_is_said(good: list[bytes], tmp_path: Path) -> None:
    told = changed(started_at="2027-01-01T00:00:00.000000Z")(good)
    assert import_into(f"sqlite:///{tmp_path}/rows.db", told) == Counts(added=2, odd_times=1)


def test_the_same_task_twice(good: list[bytes], tmp_path: Path) -> None:
    """The first one is stored."""
    again = json.dumps({**json.loads(good[1]), "task_args": ["other"]}).encode()
    told = [*good[:2], again, good[1], *good[2:3], b'{"end": true, "tasks": 4}']
    url = f"sqlite:///{tmp_path}/rows.db"
    assert import_into(url, told) == Counts(added=2, same=1, differing=1)
    [row] = [row for row in rows(url) if row["celery_task_id"] == "b" and "status" in row]
    assert row["task_args"] != ["other"]


def test_two_attempts_of_one_run(good: list[bytes]) -> None:
    attempts = json.loads(good[1])["attempts"]
    with pytest.raises(BundleError, match="Line 3: two attempts have the same run_key"):
        list(bundle.read(changed(attempts=json.loads(good[2])["attempts"] * 2)(good)))
    assert len(attempts) == 1


def test_the_same_number_twice(good: list[bytes], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/rows.db"
    import_into(url, changed(id=json.loads(good[1])["id"])(good))
    assert len({row["id"] for row in rows(url) if "status" in row}) == 2
