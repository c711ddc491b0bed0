"""The columns of a task and of its attempts: the one place that names them all.

Made from it: the tables, the fold's groups and what it copies from events, in Python and in SQL, the columns that are
read, the API's schemas, the search keys, exports, and what is erased. The models' annotations and the README's table
are held to it by tests.

A new column is a line here, a migration, and the place in `capture` that writes its event key; so much makes it work.
The tests then ask for its annotation in `store.models` and `queries.types`, and its row in the README.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple

from celery_asynctask.core.limits import MAX_NAME


class Type(enum.Enum):
    """What a column holds; `store.tables` says what that is in SQL."""

    NUMBER = enum.auto()
    """Our own number of a row."""
    STRING = enum.auto()
    """At most ``limit`` characters."""
    TEXT = enum.auto()
    """At most 64 KB."""
    LONG_TEXT = enum.auto()
    TASK_ID = enum.auto()
    """At most 255 characters, compared byte by byte."""
    KEY = enum.auto()
    """A key of the fold, compared byte by byte."""
    INTEGER = enum.auto()
    """32 bits."""
    LONG = enum.auto()
    """64 bits."""
    BOOLEAN = enum.auto()
    TIME = enum.auto()
    """UTC, to the microsecond; in events microseconds since 1970."""
    STATUS = enum.auto()
    JSON = enum.auto()


class Group(enum.Enum):
    """Whose word about a column counts; the value is the column that decides, where one does."""

    ROW = "row"
    """Names the row, or counts it."""
    ORIGIN = "origin_key"
    """What was asked for: the event with the smallest key, and it never changes again."""
    TRACE = "trace_key"
    """The event with the largest key, as of those that follow."""
    CONTENT = "content_key"
    ORDER = "order_key"
    """Where the task stands."""
    EARLIEST = "earliest"
    """The smallest value; null counts as not known."""
    ATTEMPT = "attempt"
    """Every event of a run says the same."""
    START = "start"
    """Only the start of a run knows: whichever event has a value."""
    END = "end_key"
    """How a run ended: the event with the largest key."""


class Content(enum.Enum):
    """What a column may tell of people and businesses, for who must not see it or wants it erased."""

    FACT = enum.auto()
    TEXT = enum.auto()
    """Free text, in which values may stand: emptied by `erase`."""
    VALUE = enum.auto()
    """What the user's code was given, or gave: needs the right ``payloads``, marked as erased by `erase`."""


class Property(NamedTuple):
    """How the API has a column."""

    description: str = ""
    required: bool = False
    """Not to be left out; this and the next as the page of generated clients has it, to the letter."""
    read_only: bool = False


class Column(NamedTuple):
    """One column."""

    name: str
    type: Type
    group: Group
    nullable: bool = True
    limit: int | None = None
    """Characters of a `Type.STRING`."""
    event: str | None = None
    """Key of the event that is copied to it as it is; None: `core.fold.project` makes it."""
    search: str | None = None
    """Key of a search that asks for it."""
    holds: Content = Content.FACT
    api: Property | None = None
    """None: the API does not have it."""
    doc: str = ""
    """What it means, and what null means."""


# fmt: off
TASK: Final = (
    Column("id", Type.NUMBER, Group.ROW, nullable=False, api=Property(required=True, read_only=True),
           doc="Our own number, in the order of recording."),
    Column("created_by_name", Type.STRING, Group.ORIGIN, limit=MAX_NAME, event="created_by_name",
           search="created_by_name", holds=Content.TEXT, api=Property(required=True, read_only=True),
           doc="Name of who asked for it; null: not given."),
    Column("name", Type.STRING, Group.ORIGIN, nullable=False, limit=MAX_NAME, event="name", search="name",
           api=Property(required=True),
           doc="Name of the task that was asked for (a replacement's own name is on its attempts)."),
    Column("created_at", Type.TIME, Group.EARLIEST, nullable=False, search="created",
           api=Property(required=True, read_only=True),
           doc="When it was first asked for; where the producer is not recorded, when a worker first saw it."),
    Column("status", Type.STATUS, Group.ORDER, nullable=False, search="status", api=Property(),
           doc="Where it stands."),
    Column("error_message", Type.TEXT, Group.ORDER, event="error_message", search="message", holds=Content.TEXT,
           api=Property(),
           doc="Text of the latest run's exception, at most 4,000 characters; null: no error."),
    Column("error_type", Type.STRING, Group.ORDER, limit=MAX_NAME, event="error_type", search="error",
           api=Property("Exception class name"),
           doc="Exception class name; null: no error."),
    Column("retries", Type.INTEGER, Group.ORDER, nullable=False, search="retries",
           api=Property("Number of retry attempts"),
           doc="Number of retry attempts: Celery's count on the latest message, 0 for a first run."),
    Column("completed_at", Type.TIME, Group.ORDER, search="completed", api=Property(),
           doc="When it reached a terminal status; null exactly while it has not."),
    Column("started_at", Type.TIME, Group.EARLIEST, search="started", api=Property("When task execution started"),
           doc="When its body first started; null: it never ran."),
    Column("celery_task_id", Type.TASK_ID, Group.ROW, nullable=False, search="id",
           api=Property("Celery task UUID from self.request.id"),
           doc="Celery's task id, unique: ``self.request.id``."),
    Column("root_task_id", Type.TASK_ID, Group.ORIGIN, event="root", search="root",
           api=Property("Root task ID in workflow chain"),
           doc="Root of its workflow, its own id for a root; null: not known (message protocol 1, a "
           "chord's body before it is sent)."),
    Column("parent_task_id", Type.TASK_ID, Group.ORIGIN, search="parent", api=Property("Parent task ID if chained"),
           doc="The task that sent it, never itself; null: none, or not known."),
    Column("trace_id", Type.STRING, Group.TRACE, limit=32, event="trace", search="trace",
           api=Property("APM distributed trace ID"),
           doc="Trace of the latest run, 32 hex digits, before that the producer's; null: no trace."),
    Column("span_id", Type.STRING, Group.TRACE, limit=16, search="span", api=Property("APM span ID"),
           doc="Span in which the latest run's body ran, 16 hex digits; null: not run yet, or no span."),
    Column("task_args", Type.JSON, Group.ORIGIN, event="args", search="args", holds=Content.VALUE,
           api=Property("Task positional arguments"),
           doc="Positional arguments; null: left out, or not readable."),
    Column("task_kwargs", Type.JSON, Group.ORIGIN, event="kwargs", search="kwargs", holds=Content.VALUE,
           api=Property("Task keyword arguments"),
           doc="Keyword arguments; null: left out, or not readable."),
    Column("result", Type.JSON, Group.ORDER, event="result", search="result", holds=Content.VALUE,
           api=Property("Task execution result"),
           doc="What it returned; null: None, left out, or no success."),
    Column("content", Type.JSON, Group.CONTENT, search="content", holds=Content.VALUE, api=Property(),
           doc="Free content: given with the task, then what the running task makes of it; null: none."),
    Column("customer", Type.LONG, Group.ORIGIN, event="customer", search="customer",
           api=Property(required=True, read_only=True),
           doc="For which customer; null: not given."),
    Column("created_by", Type.LONG, Group.ORIGIN, event="created_by", search="created_by",
           api=Property(required=True, read_only=True),
           doc="Who asked for it; null: not given."),
    Column("origin_key", Type.KEY, Group.ORIGIN, nullable=False,
           doc="Of the fold: which event the asked-for columns come from; a smaller one replaces them."),
    Column("order_key", Type.KEY, Group.ORDER, nullable=False,
           doc="Of the fold: which event the status, error, result and retries come from; a larger one replaces them."),
    Column("trace_key", Type.KEY, Group.TRACE, nullable=False,
           doc="Of the fold: which event the trace and span come from; empty: none."),
    Column("content_key", Type.KEY, Group.CONTENT, nullable=False,
           doc="Of the fold: which event the content comes from; empty: none."),
)
"""Of `AsyncTask`, in the order of the table and of the API's resource."""

ATTEMPT: Final = (
    Column("id", Type.NUMBER, Group.ROW, nullable=False,
           doc="Our own number."),
    Column("celery_task_id", Type.TASK_ID, Group.ATTEMPT, nullable=False,
           doc="The task; not a foreign key, for an attempt may be stored before its task."),
    Column("run_key", Type.KEY, Group.ATTEMPT, nullable=False,
           doc="Names the run inside its task and sorts the runs."),
    Column("name", Type.STRING, Group.ATTEMPT, nullable=False, limit=MAX_NAME,
           api=Property("Name of the task that ran"),
           doc="Name of the task that ran."),
    Column("retries", Type.INTEGER, Group.ATTEMPT, nullable=False,
           api=Property("Celery's retry count of its message, from 0"),
           doc="Celery's 0-based retry count of its message."),
    Column("redelivered", Type.BOOLEAN, Group.ATTEMPT, nullable=False,
           api=Property("Whether the broker had delivered the message before"),
           doc="Whether the broker had delivered the message before."),
    Column("published_at", Type.TIME, Group.START, event="sent",
           api=Property("When its message was sent; null: not known"),
           doc="When this run's message was sent; null: the producer is not recorded."),
    Column("received_at", Type.TIME, Group.START, api=Property("When a worker took it from the broker"),
           doc="When the worker took the message from the broker; null: run eagerly."),
    Column("eta", Type.TIME, Group.START, event="eta", api=Property("Not to be run before; null: at once"),
           doc="Not to be run before; null: at once."),
    Column("started_at", Type.TIME, Group.START,
           api=Property("When its body started; null: it did not, or nobody saw it"),
           doc="When the body started; null: its process was gone before it could say."),
    Column("ended_at", Type.TIME, Group.END, api=Property("Null: it runs, or nobody saw its end"),
           doc="When the run ended; null: it runs, or nobody saw its end."),
    Column("outcome", Type.STRING, Group.END, limit=16,
           api=Property("succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, terminated "
                        "or lost"),
           doc="How it ended: succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, "
           "terminated, lost; null as for ``ended_at``."),
    Column("error_type", Type.STRING, Group.END, limit=MAX_NAME, event="error_type",
           api=Property("Class of its exception; null: none"),
           doc="Exception class name; null: no error."),
    Column("error_message", Type.TEXT, Group.END, event="error_message", holds=Content.TEXT,
           api=Property("Text of its exception, at most 4,000 characters; null: none"),
           doc="Text of the exception, at most 4,000 characters; null: no error."),
    Column("traceback", Type.LONG_TEXT, Group.END, event="traceback", holds=Content.TEXT,
           api=Property("Python traceback, its last 20,000 characters"),
           doc="Python traceback, its last 20,000 characters; null: no error, or none known."),
    Column("worker", Type.STRING, Group.START, limit=MAX_NAME, event="worker", search="worker",
           api=Property("Node name of the worker"),
           doc="Node name of the worker; null: not known."),
    Column("pid", Type.INTEGER, Group.START, event="pid", api=Property("Process id in which the body ran"),
           doc="Process that ran the body; null: not known."),
    Column("source", Type.STRING, Group.START, limit=64, event="source",
           doc="The journal's name for that process, the key of its `AsyncTaskSource`; null: not known."),
    Column("queue", Type.STRING, Group.START, limit=MAX_NAME, event="queue", search="queue",
           api=Property("Routing key that the message came with"),
           doc="Routing key the message came with; null: run eagerly."),
    Column("trace_id", Type.STRING, Group.START, limit=32, event="trace",
           api=Property("Trace ID of this run, 32 hex digits; null: no trace"),
           doc="Trace ID of the run; null: no trace."),
    Column("span_id", Type.STRING, Group.START, limit=16, event="span",
           api=Property("Span ID of this run, 16 hex digits; null: no span"),
           doc="Span ID of the run; null: no span."),
    Column("end_key", Type.KEY, Group.END, nullable=False,
           doc="Of the fold: which event says how it ended; empty: none yet."),
)
# fmt: on
"""Of `AsyncTaskAttempt`, in the order of the table."""


def names(columns: Iterable[Column], *groups: Group) -> tuple[str, ...]:
    """Names of the columns of these groups, without the group's own key."""
    return tuple(one.name for one in columns if one.group in groups and one.name != one.group.value)


VALUES: Final = tuple(one.name for one in TASK if one.holds is Content.VALUE)
"""Columns of a task with what the user's code was given, or gave."""
FOLD_KEYS: Final = frozenset(one.name for one in (*TASK, *ATTEMPT) if one.type is Type.KEY)
"""Columns that are the recorder's own."""
