"""Rows as JSON: names and their order, times in UTC, values untouched."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.reader import ATTEMPT_COLUMNS, TASK_COLUMNS, Parts
from celery_asynctask.web import schema
from celery_asynctask.web.answer import array, attempt_document, document, task_document

AT = dt.datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=dt.timezone.utc)
TEXTS = st.none() | st.text()


def row(names: tuple[str, ...], **values: Any) -> Any:
    """A row as the database returns it, its columns in order."""
    return tuple({**dict.fromkeys(names), **values}.values())


def aliases(shape: Any) -> list[str]:
    return [str(one.alias) for one in shape.model_fields.values()]


def test_a_task_has_the_properties_of_its_shape_in_their_order() -> None:
    shown = json.loads(task_document(row(TASK_COLUMNS), Parts()))
    assert list(shown) == aliases(schema.AsyncTask)
    for parts, hidden in (
        (Parts(values=False), {"taskArgs", "taskKwargs", "result", "content"}),
        (Parts(errors=False), {"errorMessage"}),
    ):
        without = json.loads(task_document(row(tuple(parts.of(TASK_COLUMNS))), parts))
        assert list(without) == [one for one in shown if one not in hidden]


def test_an_attempt_has_those_of_its_shape() -> None:
    for parts, hidden in ((Parts(), set()), (Parts(errors=False), {"errorMessage", "traceback"})):
        shown = row((*parts.of(ATTEMPT_COLUMNS), "run_key"), run_key="")
        names = [one for one in aliases(schema.AsyncTaskAttempt) if one not in hidden]
        assert list(json.loads(attempt_document(shown, "", parts))) == names


def test_values_are_what_the_database_has_to_the_letter() -> None:
    values = {
        "task_args": "[1e400, 1.10 ]",
        "task_kwargs": '{"a":  9007199254740993}',
        "result": "null",
        "content": "{}",
    }
    shown = task_document(row(TASK_COLUMNS, **values), Parts())
    for text in values.values():
        assert text in shown


@given(TEXTS, TEXTS, st.integers(-(2**63), 2**63 - 1))
def test_texts_and_numbers_of_every_kind(name: str | None, message: str | None, number: int) -> None:
    given = {"name": name, "error_message": message, "customer": number, "status": AsyncTaskStatus.LOST}
    shown = json.loads(task_document(row(TASK_COLUMNS, **given), Parts()))
    assert (shown["name"], shown["errorMessage"], shown["customer"]) == (name, message, number)
    assert shown["status"] == "LOST"


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (AT, "2026-01-31T12:00:00.000007Z"),
        (AT.replace(microsecond=0), "2026-01-31T12:00:00.000000Z"),
        (dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc), "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_times_are_as_long_as_each_other(at: dt.datetime, text: str) -> None:
    """Texts of such times sort by time."""
    assert json.loads(document({"created_at": at})) == {"createdAt": text}


def test_documents_with_members_that_are_json_already() -> None:
    members = array(["1", "[2]"])
    assert json.loads(document({"looked_back_to": None}, results=members)) == {
        "results": [1, [2]],
        "lookedBackTo": None,
    }
    assert document({}, results=array([])) == '{"results":[]}'
    assert document({}) == "{}"


def test_what_json_does_not_have_is_refused() -> None:
    for value in (float("nan"), float("inf"), object(), b"x", {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            document({"value": value})
