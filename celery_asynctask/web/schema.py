"""The shapes of what is asked and answered, as the OpenAPI document shows them; `document` makes the answers.

``AsyncTask`` is the resource that generated clients know: names, types, order, descriptions and flags of its
properties are what they are built on.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from pydantic.alias_generators import to_camel

from celery_asynctask.core import columns
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.search.filter import MAX_LENGTH

AsyncTaskStatusEnum: Any = enum.Enum(  # type: ignore[misc]
    "AsyncTaskStatusEnum", {status.name: status.value for status in AsyncTaskStatus}, type=str, module=__name__
)
AsyncTaskStatusEnum.__doc__ = "Where a task stands."
Long = Annotated[int, WithJsonSchema({"type": "integer", "format": "int64"})]
"""A number that may have 64 bits: clients in languages where an integer has 32 must know."""


class Shape(BaseModel):
    """Base of all shapes: properties in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    @classmethod
    def of(cls, source: object, **others: object) -> dict[str, object]:
        """The properties of this shape by their names in JSON: attributes of ``source``, or ``others`` where they are
        given."""
        return {alias: others[name] if name in others else getattr(source, name) for name, alias in _names(cls)}


@cache
def _names(shape: type[Shape]) -> list[tuple[str, str]]:
    """Of a shape's properties, here and in JSON; kept, for a workflow has thousands of members."""
    return [(name, str(field.alias)) for name, field in shape.model_fields.items()]


class StrictShape(Shape):
    """Base of what is sent to us: nothing that is not known."""

    model_config = ConfigDict(extra="forbid")


class Body(StrictShape):
    """Base of what is sent as JSON, which has types of its own: no "yes" is true. Its names are those of the document
    alone."""

    model_config = ConfigDict(strict=True, validate_by_name=False)


_TYPES: Final[Mapping[columns.Type, Any]] = {
    columns.Type.NUMBER: Long,
    columns.Type.INTEGER: int,
    columns.Type.LONG: Long,
    columns.Type.BOOLEAN: bool,
    columns.Type.TIME: dt.datetime,
    columns.Type.STATUS: AsyncTaskStatusEnum,
    columns.Type.JSON: Any,
}


def _type_of(one: columns.Column) -> Any:
    found = _TYPES.get(one.type, str)
    return found | None if one.nullable and found is not Any else found


def _property(one: columns.Column, about: columns.Property) -> Any:
    if about.required:
        return _type_of(one), Field(json_schema_extra={"readOnly": True} if about.read_only else None)
    return _type_of(one), Field(None, description=about.description or None)


# Described property by property; more would show in the clients' page.
AsyncTask: Any = create_model(
    "AsyncTask",
    __base__=Shape,
    **{one.name: _property(one, one.api) for one in columns.TASK if one.api is not None},
)


class AsyncTaskPage(Shape):
    """Some tasks, and where to go on."""

    results: list[AsyncTask] = Field(description="The tasks of this page, in the order that was asked for")
    next: str | None = Field(description="Cursor of the page that follows; null: this is the last")
    complete: bool = Field(description="Whether everything was looked at that the search is about")
    looked_back_to: dt.datetime | None = Field(
        description="Where it was not: tasks asked for beyond this time were not looked at"
    )


_RUN: Final[dict[str, Any]] = {
    "attempt": (int, Field(description="Its number, from 1")),
    **{
        one.name: (_type_of(one), Field(description=one.api.description))
        for one in columns.ATTEMPT
        if one.api is not None
    },
}
AsyncTaskAttempt: Any = create_model(
    "AsyncTaskAttempt",
    __base__=Shape,
    __doc__="One run of a task's body: the first, a retry, a redelivery or a replacement.",
    **_RUN,
)


class AsyncTaskAttempts(Shape):
    """The runs of one task, in the order in which they were meant to happen."""

    results: list[AsyncTaskAttempt] = Field(description="The runs, the first one first")
    complete: bool = Field(description="False: there are more; these are the first")


class AsyncTaskMember(Shape):
    """A task in its workflow."""

    celery_task_id: str = Field(description="Celery task UUID")
    parent_task_id: str | None = Field(description="The member it hangs on; null: it is at the top")
    depth: int = Field(description="0 at the top")
    name: str = Field(description="Name of the task")
    status: AsyncTaskStatusEnum = Field(description="Where it stands")
    created_at: dt.datetime = Field(description="When it was asked for")
    started_at: dt.datetime | None = Field(description="When it first started; null: it never ran")
    completed_at: dt.datetime | None = Field(description="When it ended; null: it has not")
    retries: int = Field(description="Number of retry attempts")
    error_type: str | None = Field(description="Exception class name; null: no error")
    error_message: str | None = Field(description="Text of the latest run's exception; null: no error")
    critical: bool = Field(description="Whether it is of the critical path, which decides when the workflow ends")
    planned: bool = Field(description="A later step that has not been sent yet")
    unsent: bool = Field(description="A step that will never be sent, for one before it failed")


class AsyncTaskWorkflow(Shape):
    """A whole workflow, found from any member: each before what hangs on it."""

    results: list[AsyncTaskMember] = Field(description="Its tasks, each before those that hang on it")
    complete: bool = Field(description="False: it has more members; these were asked for first")


class Percentiles(Shape):
    """Seconds that so many of a hundred took at most; null: none has."""

    p50: float | None = Field(description="Half of them")
    p95: float | None = Field(description="95 of a hundred")
    p99: float | None = Field(description="99 of a hundred")


class AsyncTaskNameStatistics(Shape):
    """How the tasks of one name do."""

    name: str = Field(description="Name of the tasks")
    tasks: Long = Field(description="How many there are")
    failed: Long = Field(description="FAILURE, LOST and REJECTED")
    failure_rate: float = Field(description="From 0 to 1")
    retries: Long = Field(description="Retry attempts of all of them")
    per_minute: float = Field(description="Tasks asked for in a minute")
    wait: Percentiles = Field(description="Seconds from when a task was asked for to its first start")
    run: Percentiles = Field(description="Seconds from its first start to its end, with its retries")


class AsyncTaskStatistics(Shape):
    """How the tasks of each name do, those with most tasks first."""

    results: list[AsyncTaskNameStatistics] = Field(description="One for each name, those with most tasks first")
    since: dt.datetime = Field(description="Counted are tasks asked for at that time or later")
    until: dt.datetime = Field(description="Counted are tasks asked for before that time")
    complete: bool = Field(description="Whether everything was looked at that the search is about")
    looked_back_to: dt.datetime | None = Field(
        description="Where it was not: tasks asked for before this time were not looked at"
    )


class Ledger(Shape):
    """What became of every event: accepted = stored + in journal + quarantined + damaged + dropped + missing."""

    complete: bool = Field(description="Whether nothing is lost, put aside, or in a journal that nobody drains")
    sentence: str = Field(description="The verdict in words")
    processes: Long = Field(description="Processes that wrote events")
    accepted: Long = Field(description="Events that a process meant to record")
    stored: Long = Field(description="In the database")
    in_journal: Long = Field(description="On their way, in the journal of the host of this server")
    abandoned: Long = Field(description="Of these, in a journal that nobody drains")
    quarantined: Long = Field(description="Put aside, because they cannot be stored")
    damaged: Long = Field(description="Found unreadable in a journal")
    dropped: dict[str, Long] = Field(description="Never written to a journal, by reason")
    missing: Long = Field(description="Of these nobody knows what became of them")
    unknown: dict[str, Long] = Field(description="Processes whose journal is not seen from here, by host")


class Health(Shape):
    """Whether the record can be read, and is complete."""

    schema_version: str = Field(description="Version of the tables")
    ledger: Ledger | None = Field(description="Null for callers who see some customers only")


class RerunRequest(Body):
    """How a task is to be sent again."""

    dry_run: bool = Field(False, description="Only say what would be done")
    again: bool = Field(False, description="Also where it was sent again before")
    unfinished: bool = Field(False, description="Also where it is not over")


class Rerun(Shape):
    """A task that was sent again, or would be."""

    celery_task_id: str | None = Field(description="Of the new execution; null: nothing was sent")
    rerun_of: str = Field(description="Celery id of the task that it repeats")
    queue: str = Field(description="Queue, or routing key, that it is sent to")
    remarks: list[str] = Field(description="What is to be known about it")


class PurgeRequest(Body):
    """What is to be deleted."""

    older_than: str = Field(
        description="Age, counted from a task's end: 12h, 90d, 1y",
        min_length=1,
        json_schema_extra={"format": "asynctask-duration"},
    )
    search: str = Field(
        "",
        description="Only what this search finds",
        max_length=MAX_LENGTH,
        json_schema_extra={"format": "asynctask-search"},
    )
    unfinished: bool = Field(False, description="Also tasks that are not over; their age is since they were asked for")
    dry_run: bool = Field(True, description="Only count")


class Purge(Shape):
    """What was deleted, or would be."""

    due: Long | None = Field(description="Tasks found to be deleted; null where they were deleted and not counted")
    tasks: Long = Field(description="Tasks deleted")
    attempts: Long = Field(description="Attempts deleted with them")
    complete: bool = Field(
        description="Whether all tasks were looked at; else there may be more that are due: to delete them, ask again"
    )
