"""The models describe every column as the tables have it."""

from __future__ import annotations

import datetime as dt
from typing import Any, cast, get_args, get_type_hints

import pytest
from sqlalchemy import JSON, Column, Enum, Table

from celery_asynctask.core.columns import VALUES
from celery_asynctask.queries.reader import TASK_COLUMNS
from celery_asynctask.queries.types import AttemptRow, TaskRow
from celery_asynctask.store.models import AsyncTask, Base
from celery_asynctask.store.tables import UTCDateTime

MODELS = sorted((one.class_ for one in Base.registry.mappers), key=lambda model: model.__name__)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_annotations_are_those_of_the_columns(model: type[Base]) -> None:
    hints = get_type_hints(model)
    annotated = {name: get_args(hints[name])[0] for name in vars(model)["__annotations__"] if name in hints}
    columns = {column.name: kind(column) for column in cast("Table", model.__table__).columns}
    assert annotated == columns, f"annotations of {model.__name__} in store/models.py"


def test_rows_are_like_the_model() -> None:
    """Except that values are texts."""
    shown = {name: hint for name, hint in get_type_hints(TaskRow).items() if name not in VALUES}
    assert shown == {name: get_args(get_type_hints(AsyncTask)[name])[0] for name in TASK_COLUMNS if name not in VALUES}
    assert get_type_hints(AttemptRow).items() >= {"attempt": int, "run_key": str}.items()
    assert {name: get_type_hints(TaskRow)[name] for name in VALUES} == dict.fromkeys(VALUES, str | None)


def kind(column: Column[Any]) -> Any:
    """The type of an attribute for the column."""
    if isinstance(column.type, JSON):
        return Any
    if isinstance(column.type, UTCDateTime):
        type_: Any = dt.datetime
    else:
        type_ = column.type.enum_class if isinstance(column.type, Enum) else column.type.python_type
    return type_ | None if column.nullable else type_
