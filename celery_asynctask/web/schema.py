"""The shapes of requests and answers in the OpenAPI document; `answer.document` makes the answers.

``AsyncTask`` is the resource that generated clients know: they are built on the names, types, order, descriptions and
flags of its properties.
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
from celery_asynctask.core.status import SHOWN
from celery_asynctask.queries.search.filter import MAX_LENGTH

AsyncTaskStatusEnum: Any = enum.Enum(  # type: ignore[misc]
    "AsyncTaskStatusEnum", {status.name: status.value for status in SHOWN}, type=str, module=__name__
)
AsyncTaskStatusEnum.__doc__ = "Status of a task."
Long = Annotated[int, WithJsonSchema({"type": "integer", "format": "int64"})]
"""A number of up to 64 bits, for clients in languages whose integers have 32."""


class Shape(BaseModel):
    """Base of all shapes: properties in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    @classmethod
    def of(cls, source: object, **others: object) -> dict[str, object]:
        """The properties of this shape, by their names in JSON, from ``others`` or else from attributes of
        ``source``."""
        return {alias: others[name] if name in others else getattr(source, name) for name, alias in _names(cls)}


@cache
def _names(shape: type[Shape]) -> list[tuple[str, str]]:
    """Names of a shape's properties, in Python and in JSON; cached, because a workflow has thousands of members."""
    return [(name, str(field.alias)) for name, field in shape.model_fields.items()]


class StrictShape(Shape):
    """Base of what callers send: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class Body(StrictShape):
    """Base of JSON bodies. JSON has types of its own, so nothing is converted ("yes" is not true); names are those of
    the document alone."""

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


def _type_of(column: columns.Column) -> Any:
    kind = _TYPES.get(column.type, str)
    return kind | None if column.nullable and kind is not Any else kind


def _property(column: columns.Column, about: columns.Property) -> Any:
    if about.required:
        return _type_of(column), Field(json_schema_extra={"readOnly": True} if about.read_only else None)
    return _type_of(column), Field(None, description=about.description or None)


# No docstring: it would show in the clients' page of the resource.
AsyncTask: Any = create_model(
    "AsyncTask",
    __base__=Shape,
    **{column.name: _property(column, column.api) for column in columns.TASK if column.api is not None},
)


class AsyncTaskPage(Shape):
    """A page of tasks."""

    results: list[AsyncTask] = Field(description="The tasks of this page, in the requested order")
    next: str | None = Field(description="Cursor of the next page; null: this is the last page")
    complete: bool = Field(description="Whether all tasks of the search were read")
    looked_back_to: dt.datetime | None = Field(
        description="If not complete: tasks created beyond this time were not read; else null"
    )


_LEFT_OUT: Final = (None,)
"""Default of a property that is left out for callers who may not see it."""
_RUN: Final[dict[str, Any]] = {
    "attempt": (int, Field(description="Number of the attempt, from 1")),
    **{
        column.name: (
            _type_of(column),
            Field(*_LEFT_OUT if column.name in columns.ERRORS else (), description=column.api.description),
        )
        for column in columns.ATTEMPT
        if column.api is not None
    },
}
AsyncTaskAttempt: Any = create_model(
    "AsyncTaskAttempt",
    __base__=Shape,
    __doc__="One run of a task's body: the first, a retry, a redelivery or a replacement.",
    **_RUN,
    earlier_execution=(
        bool,
        Field(description="Whether it belongs to an earlier execution, because the id was used again"),
    ),
)


class AsyncTaskAttempts(Shape):
    """The attempts of one task, in the order in which they were meant to run."""

    results: list[AsyncTaskAttempt] = Field(description="The attempts, the first one first")
    complete: bool = Field(description="False: there are more attempts; these are the first")


class AsyncTaskMember(Shape):
    """A task in its workflow."""

    celery_task_id: str = Field(description="Celery task UUID")
    customer_key: str = Field(description="Key of its customer: the text of a number, or any text; empty: none")
    parent_task_id: str | None = Field(description="The member above it; null: it is at the top")
    depth: int = Field(description="0 at the top")
    name: str = Field(description="Name of the task")
    status: AsyncTaskStatusEnum = Field(description="Status")
    created_at: dt.datetime = Field(description="When it was created")
    started_at: dt.datetime | None = Field(description="When it first started; null: it has not")
    completed_at: dt.datetime | None = Field(description="When it ended; null: it has not")
    retries: int = Field(description="Number of retry attempts")
    error_type: str | None = Field(description="Exception class name; null: no error")
    error_message: str | None = Field(
        *_LEFT_OUT, description="Message of the latest attempt's exception; null: no error"
    )
    critical: bool = Field(description="Whether it is on the critical path, which decides when the workflow ends")
    planned: bool = Field(description="Whether it is a later step that has not been sent yet")
    unsent: bool = Field(description="Whether it is a step that is never sent, because one before it failed")


class AsyncTaskWorkflow(Shape):
    """A workflow, found from any of its tasks."""

    results: list[AsyncTaskMember] = Field(description="Its tasks, each before those below it")
    complete: bool = Field(description="False: it has more tasks; these were created first")


class Percentiles(Shape):
    """Percentiles in seconds; null: no task has such a time."""

    p50: float | None = Field(description="50 of 100 tasks took this long or less")
    p95: float | None = Field(description="95 of 100 tasks took this long or less")
    p99: float | None = Field(description="99 of 100 tasks took this long or less")


class AsyncTaskNameStatistics(Shape):
    """Statistics of the tasks of one name."""

    name: str = Field(description="Name of the tasks")
    tasks: Long = Field(description="Number of tasks")
    failed: Long = Field(description="Number of tasks in FAILURE, LOST or REJECTED")
    failure_rate: float = Field(description="Failed tasks as a share of all, from 0 to 1")
    retries: Long = Field(description="Retry attempts of all these tasks")
    per_minute: float = Field(description="Tasks created per minute")
    wait: Percentiles = Field(description="Seconds from creation to the first start")
    run: Percentiles = Field(description="Seconds from the first start to the end, retries included")


class AsyncTaskStatistics(Shape):
    """Statistics by name."""

    results: list[AsyncTaskNameStatistics] = Field(description="One entry per name, the name with most tasks first")
    since: dt.datetime = Field(description="Tasks created at this time or later are counted")
    until: dt.datetime = Field(description="Tasks created before this time are counted")
    complete: bool = Field(description="Whether all tasks of the search were read")
    looked_back_to: dt.datetime | None = Field(
        description="If not complete: tasks created before this time were not read; else null"
    )


class AsyncTaskUnheard(Shape):
    """Processes of a host of which nobody knows what they did last."""

    host: str = Field(description="Name of the host")
    processes: Long = Field(description="Number of these processes")
    since: dt.datetime = Field(description="When the first of them was seen last")
    tasks: Long | None = Field(
        description="Tasks without a known end that they may have ended, at most; null: too many to count"
    )


class Ledger(Shape):
    """What became of all events: accepted = stored + in journal + quarantined + damaged + given up + dropped +
    missing."""

    complete: bool | None = Field(
        description="Whether no event is lost, in quarantine, or in a journal that no recorder drains; null: not known"
    )
    answer: str = Field(description="The same in words: complete, not complete, or not known")
    sentence: str = Field(description="The same as a sentence")
    processes: Long = Field(description="Processes that wrote events")
    accepted: Long = Field(description="Events that processes accepted for recording")
    stored: Long = Field(description="Events in the database")
    in_journal: Long = Field(description="Events in the journal of this server's host, not stored yet")
    abandoned: Long = Field(description="Of those in the journal: events in a journal that no recorder drains")
    quarantined: Long = Field(description="Events in quarantine: they cannot be stored")
    damaged: Long = Field(description="Unreadable lines in a journal")
    given_up: Long = Field(description="Events that a person gave up: dropped from quarantine, or on a host for good")
    dropped: dict[str, Long] = Field(description="Events never written to a journal, by reason")
    missing: Long = Field(description="Events that were numbered and never arrived")
    unknown: list[AsyncTaskUnheard] = Field(description="Of which processes nobody knows what they did last")
    accepted_unknown: list[AsyncTaskUnheard] = Field(description="The same, where a person has accepted that")


class Health(Shape):
    """Whether the record can be read, and is complete."""

    schema_version: str = Field(description="Version of the schema")
    ledger: Ledger | None = Field(description="Null for callers who see only some tasks")


class AuditEntry(Shape):
    """Who did what, from where, and how it ended. What takes a while has two entries with one `operation`."""

    id: Long = Field(description="Number of the entry")
    at: dt.datetime = Field(description="When it was written")
    actor: str = Field(description="Name of the token, the caller or the user of the operating system")
    origin: str = Field(description="Address that the request came from, or `command line of` a host; empty: unknown")
    action: str = Field(
        description="What was done: rerun, purge, erase, export, replay, drop, accept, sign-in, sign-out"
    )
    target: str | None = Field(description="To what: a task id, a search, customers")
    outcome: str = Field(description="begun, done, refused, failed or interrupted")
    detail: str | None = Field(description="Numbers and reasons")
    operation: str | None = Field(description="What the two entries of one action have in common")


class AuditPage(Shape):
    """A page of the audit."""

    results: list[AuditEntry] = Field(description="The entries of this page, newest first")
    next: str | None = Field(description="Cursor of the next page; null: this is the last page")


class RerunRequest(Body):
    """How to rerun a task; an empty body means all defaults."""

    dry_run: bool = Field(False, description="Say what would be sent, and send nothing")
    again: bool = Field(False, description="Rerun also a task that was rerun before")
    unfinished: bool = Field(False, description="Rerun also a task that has not ended")


class Rerun(Shape):
    """A rerun that was sent, or would be."""

    celery_task_id: str | None = Field(description="Celery task UUID of the new execution; null: nothing was sent")
    rerun_of: str = Field(description="Celery task UUID of the original")
    queue: str = Field(description="Queue, or routing key, that the rerun is sent to")
    remarks: list[str] = Field(description="Warnings")


class PurgeRequest(Body):
    """Which tasks to delete."""

    older_than: str = Field(
        description="Age since the end of a task: 12h, 90d, 1y",
        min_length=1,
        json_schema_extra={"format": "asynctask-duration"},
    )
    search: str = Field(
        "",
        description="Delete only tasks that match this search",
        max_length=MAX_LENGTH,
        json_schema_extra={"format": "asynctask-search"},
    )
    unfinished: bool = Field(
        False, description="Delete also tasks that have not ended; their age counts from their creation"
    )
    dry_run: bool = Field(True, description="Count, and delete nothing")


class Purge(Shape):
    """The outcome of a purge."""

    due: Long | None = Field(description="Tasks that a purge would delete; null if it was no dry run")
    tasks: Long = Field(description="Tasks deleted")
    attempts: Long = Field(description="Attempts deleted with these tasks")
    complete: bool = Field(description="Whether all tasks were checked; if not, repeat the request")
