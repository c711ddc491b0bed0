"""`celery asynctask erase`: none of a customer's values is left in the tables, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.marks import is_whole
from celery_asynctask.operations.erase import ERASED, Erased, Erasure
from celery_asynctask.operations.session import Writer
from celery_asynctask.store import Store
from celery_asynctask.store.models import Base
from tests.histories import Delivery, about, failure, lines, published
from tests.integration.commands import Project
from tests.integration.rows import stored
from tests.integration.store.test_values import JSON_VALUES

SECRET = "Hildegard"
CUSTOMER = 2**63 - 1


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    made = Writer(store.settings)
    yield made
    made.close()


def task(task_id: str, customer: int, value: Any = SECRET) -> list[Event]:
    """A task that failed, was retried, and has its value everywhere it can be."""
    whose: dict[str, Any] = {
        "customer": customer,
        "created_by": 7,
        "created_by_name": SECRET,
        "content": {"for": value},
    }
    first, second = (Delivery(at, retries=retries, customer=customer) for at, retries in ((2, 0), (20, 1)))
    told = [
        published(args=[value], kwargs={"who": value}, **{name: whose[name] for name in whose}),
        first.started(3, **whose),
        first.ended(Kind.RETRIED, 9, **failure(f"no {SECRET}")),
        second.started(21, **whose),
        second.ended(Kind.SUCCEEDED, 29, result=value, noted={"done": value}),
    ]
    return about(told, task_id)


def failed(task_id: str, customer: int) -> list[Event]:
    run = Delivery(2, customer=customer)
    told = [run.started(3), run.ended(Kind.FAILED, 9, **failure(f"no {SECRET}"))]
    return about(told, task_id)


def without_values(task_id: str, customer: int) -> list[Event]:
    """A task with nothing to erase."""
    run = Delivery(2, customer=customer)
    nothing = {"args": None, "kwargs": None}
    return about([run.started(3, **nothing), run.ended(Kind.SUCCEEDED, 9)], task_id)


def told_of(store: Store) -> str:
    """Everything in the tables, as text."""
    with store.engine.connect() as connection:
        return "\n".join(
            str(row) for table in Base.metadata.tables for row in connection.execute(text(f"SELECT * FROM {table}"))
        )


def run(writer: Writer, customer: int, batch: int = 1000) -> Erased:
    batches = list(Erasure(writer, customer, batch=batch).run())
    return Erased(sum(one.tasks for one in batches), sum(one.attempts for one in batches))


@pytest.mark.every_database
@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_it_erases_all_values_of_one_customer(store: Store, writer: Writer, batch: int) -> None:
    store.write(lines([*task("a", CUSTOMER), *failed("b", CUSTOMER), *without_values("c", CUSTOMER)]))
    store.write(lines([*task("other", 1, "theirs"), *about([published()], "nobody")]))
    before = stored(store)
    assert Erasure(writer, CUSTOMER, batch=batch).count() == Erased(2, 2)
    assert stored(store) == before
    assert run(writer, CUSTOMER, batch) == Erased(2, 2)
    after = stored(store)
    for untouched in ("c", "other", "nobody"):
        assert after[untouched] == before[untouched]
    one = after["a"].task
    for name in ("task_args", "task_kwargs", "result", "content"):
        assert one[name] == ERASED
        assert not is_whole(one[name])
    assert {name: after["b"].task[name] for name in ("result", "content")} == {"result": None, "content": None}
    emptied = {"error_message", "created_by_name", "task_args", "task_kwargs", "result", "content", "traceback"}
    for task_id in ("a", "b"):
        assert kept(after[task_id].task, emptied) == kept(before[task_id].task, emptied)
        assert after[task_id].task["error_message"] is after[task_id].task["created_by_name"] is None
        for key, attempt in after[task_id].attempts.items():
            assert kept(attempt, emptied) == kept(before[task_id].attempts[key], emptied)
            assert attempt["traceback"] is attempt["error_message"] is None
    assert told_of(store).count(SECRET) == 3, "the other one's name, error and traceback"
    assert Erasure(writer, CUSTOMER).count() == Erased(0, 0) == run(writer, CUSTOMER)
    assert stored(store) == after


def kept(row: dict[str, Any], without: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in without}


@pytest.mark.every_database
def test_values_of_every_kind(store: Store, writer: Writer) -> None:
    """Also rows that look like erased ones."""
    lookalikes: list[Any] = ["erased", {"a": ERASED}, [ERASED], {"$asynctask": "redacted"}, {"$$asynctask": "erased"}]
    values = [value for value in (*JSON_VALUES, *lookalikes) if value is not None]
    for number, value in enumerate(values):
        store.write(lines(task(f"task-{number}", 5, value)))
    assert run(writer, 5, 10) == Erased(len(values), len(values))
    for partial in stored(store).values():
        assert [partial.task[name] for name in ("task_args", "task_kwargs", "result", "content")] == [ERASED] * 4


@pytest.mark.every_database
def test_a_word_that_comes_late(store: Store, writer: Writer) -> None:
    """It brings back its own values, and the next erase removes those."""
    told = task("a", 5)
    store.write(lines(told[:-1]))
    run(writer, 5)
    store.write(lines(told[:-1]))
    assert SECRET not in told_of(store), "what was told before is not taken again"
    store.write(lines(told[-1:]))
    assert stored(store)["a"].task["result"] == SECRET
    assert run(writer, 5) == Erased(1, 0)
    assert SECRET not in told_of(store)


# -- as an operator does it ----------------------------------------------------------


def test_the_command(store: Store, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=store.settings.url)
    store.write(lines([*task("a", 42), *task("b", 43), *task("c", 44)]))
    looked = project.run("erase", "--customer", "42", "--customer", "43", "--customer", "45", "--dry-run")
    assert (looked.code, looked.err) == (0, "")
    assert looked.lines == [
        "Customer 42: would erase the values of 1 task, 1 attempt.",
        "Customer 43: would erase the values of 1 task, 1 attempt.",
        "Customer 45: would erase the values of 0 tasks, 0 attempts.",
    ]
    asked = project.run("erase", "--customer", "42")
    assert asked.code == 2
    assert "no terminal to confirm on" in asked.err
    assert told_of(store).count(SECRET) > 3
    done = project.run("erase", "--customer", "42", "--customer", "43", "--yes", "--json")
    assert (done.code, done.err) == (0, "")
    assert [(one["customer"], one["tasks"], one["attempts"]) for one in done.values] == [(42, 1, 1), (43, 1, 1)]
    assert [stored(store)[one].task["result"] for one in "abc"] == [ERASED, ERASED, SECRET]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing option '--customer'"),
        (("--customer", ""), "it must be a whole number of at most 64 bits, a UUID, or a text of 1 to 64"),
        (("--customer", "x" * 65), "it must be a whole number of at most 64 bits, a UUID, or a text of 1 to 64"),
        (("--customer", " 42"), "without spaces at its ends"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = Project(tmp_path, asynctask_url="sqlite:///none.db").run("erase", "--yes", *arguments)
    assert done.code == 2
    assert told in done.err
