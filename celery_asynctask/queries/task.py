"""One task, by its id or the beginning of it, and its attempts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, overload

from sqlalchemy import Connection, Select, bindparam, select
from sqlalchemy.orm import Session

from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries.reader import Reader, attempt_columns
from celery_asynctask.queries.search.condition import begins_with
from celery_asynctask.queries.search.keys import is_hex
from celery_asynctask.queries.types import AttemptRow, TaskColumns
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

_NAMED: Final = 5
"""Tasks that an error names."""
MOST_ATTEMPTS: Final = 1000
"""Attempts of a task that `attempt_rows` has, and one that shows that there are more."""


def find(reader: Reader, session: Session, text: str) -> AsyncTask:
    """The task whose Celery id is ``text``, or begins with it where no other does; a UUID may be in upper case, too.
    Raises `NotFoundError`."""
    if not is_id(text):
        raise NotFoundError(f"{text[:80]!r} is no task id.")
    found = _found(reader, session, text)
    if not found and is_hex(text) and text != text.lower():
        found = _found(reader, session, text.lower())
    if not found:
        raise NotFoundError(f"No task has the id {text}, and none begins with it.")
    if len(found) > 1:
        named = ", ".join(f"{task.celery_task_id} ({task.name})" for task in found[:_NAMED])
        more = ", and others" if len(found) > _NAMED else ""
        raise NotFoundError(f"Several tasks begin with {text}: {named}{more}. Give more of the id.")
    return found[0]


def _found(reader: Reader, session: Session, text: str) -> list[AsyncTask]:
    """The one with that id, else some that begin with it."""
    beginning = reader.tasks().where(begins_with(AsyncTask.celery_task_id, text))
    found: list[AsyncTask] = list(session.scalars(beginning.order_by(AsyncTask.celery_task_id).limit(_NAMED + 1)))
    # Sorted by bytes, the id itself comes first.
    return found[:1] if found and found[0].celery_task_id == text else found


@overload
def exact(reader: Reader, session: Session, text: str, number: int | None = None) -> AsyncTask | None: ...
@overload
def exact(
    reader: Reader, session: Session | Connection, text: str, number: int | None, columns: TaskColumns | None
) -> Any: ...
def exact(
    reader: Reader,
    session: Session | Connection,
    text: str,
    number: int | None = None,
    columns: TaskColumns | None = None,
) -> Any:
    """The task whose own ``number`` it is, else the one whose Celery id is ``text``; with ``columns``, a row of what
    that selects. None: there is none."""
    by_id, by_text = _exact(columns)
    for statement, value in (
        *([(by_id, number)] if number is not None else []),
        *([(by_text, text)] if is_id(text) else []),
    ):
        rows = session.execute(reader.seen(statement), {"value": value})
        found = (rows if columns is not None else rows.scalars()).first()
        if found is not None:
            return found
    return None


@lru_cache
def _exact(columns: Select[Any] | None) -> tuple[Any, Any]:
    """The statements of `exact`, made once: SQLAlchemy takes long to find that another is the same."""
    asked: Select[Any] = select(AsyncTask) if columns is None else columns
    value: Any = bindparam("value")
    return asked.where(AsyncTask.id == value), asked.where(AsyncTask.celery_task_id == value)


def number_of(text: str) -> int | None:
    """The own number of a row that a text may be; None: it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None


def is_id(text: str) -> bool:
    """Whether a database may have it as a task id."""
    return re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}", text) is not None


def attempt_rows(reader: Reader, session: Session, task: AsyncTask) -> Sequence[AttemptRow]:
    """`reader.attempt_columns` of the first attempts of a task."""
    asked = attempt_columns(reader.dialect).where(AsyncTaskAttempt.celery_task_id == task.celery_task_id)
    rows: Sequence[Any] = session.execute(asked.order_by(AsyncTaskAttempt.run_key).limit(MOST_ATTEMPTS + 1)).all()
    return rows


def attempts(session: Session, task: AsyncTask) -> Sequence[AsyncTaskAttempt]:
    """The runs of a task's body, in the order in which they were meant to happen."""
    asked = select(AsyncTaskAttempt).where(AsyncTaskAttempt.celery_task_id == task.celery_task_id)
    return session.scalars(asked.order_by(AsyncTaskAttempt.run_key)).all()
