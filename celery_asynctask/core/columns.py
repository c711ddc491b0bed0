"""The columns of a task and of its attempts: the one place that names them all.

Made from it: the tables, the fold's groups and what it copies from events (in Python and in SQL), the columns that are
read, the API's schemas, the search keys, exports, and what is erased. Tests hold the models' annotations and the table
in docs/row.md to it.

A new column is a line here, a migration, and the place in `capture` that writes its event key: so much makes it work.
The tests then require its annotation and its place in the documentation; CONTRIBUTING.md, How to add a column, has all
steps.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple

from celery_asynctask.core.limits import MAX_NAME


class Type(enum.Enum):
    """What a column holds; `store.tables` has the SQL types."""

    NUMBER = enum.auto()
    """The number of a row, which the database counts."""
    STRING = enum.auto()
    """At most ``limit`` characters."""
    TEXT = enum.auto()
    """At most 64 KB."""
    LONG_TEXT = enum.auto()
    TASK_ID = enum.auto()
    """At most 255 characters, compared byte by byte."""
    SHORT_ID = enum.auto()
    """At most 64 characters, compared byte by byte."""
    KEY = enum.auto()
    """A key of the fold, compared byte by byte."""
    INTEGER = enum.auto()
    """32 bits."""
    LONG = enum.auto()
    """64 bits."""
    BOOLEAN = enum.auto()
    TIME = enum.auto()
    """UTC, to the microsecond; in events microseconds since the epoch."""
    STATUS = enum.auto()
    JSON = enum.auto()


class Group(enum.Enum):
    """Which event decides a column; the value is the column with the key that is compared, where there is one."""

    ROW = "row"
    """None: it identifies the row."""
    ORIGIN = "origin_key"
    """What was requested: the event with the smallest key, so that it does not change later."""
    TRACE = "trace_key"
    """The event with the largest key; the same for the next two."""
    CONTENT = "content_key"
    ORDER = "order_key"
    """The task's status and what belongs to it."""
    EARLIEST = "earliest"
    """The smallest value; null counts as not known."""
    ATTEMPT = "attempt"
    """Any: all events of an attempt say the same."""
    START = "start"
    """Any that has a value: only the start of an attempt knows it."""
    END = "end_key"
    """How an attempt ended: the event with the largest key."""


class Content(enum.Enum):
    """How far a column may hold data of people and businesses, which not everybody may see, and which can be erased."""

    FACT = enum.auto()
    """Not at all."""
    TEXT = enum.auto()
    """Free text: emptied by `erase`."""
    ERROR = enum.auto()
    """What an error says, which may quote paths, code and values: needs the right ``errors``, emptied by `erase`."""
    VALUE = enum.auto()
    """What the user's code was given or returned: needs the right ``payloads``, replaced with a mark by `erase`."""


class Property(NamedTuple):
    """A column as the API describes it. For the columns of a task, the AsyncTask resource of generated clients fixes
    all three fields, to the letter."""

    description: str = ""
    required: bool = False
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
    """Key of the event whose value is copied to it unchanged; None: `core.fold.project` makes it."""
    search: str | None = None
    """Its search key; None: it cannot be searched."""
    holds: Content = Content.FACT
    api: Property | None = None
    """None: the API does not have it."""
    doc: str = ""
    """What it means, and what null means: for the documentation, the tables and the help of searches."""


# fmt: off
TASK: Final = (
    Column("id", Type.NUMBER, Group.ROW, nullable=False, api=Property(required=True, read_only=True),
           doc="Number of the row, in the order of recording."),
    Column("created_by_name", Type.STRING, Group.ORIGIN, limit=MAX_NAME, event="created_by_name",
           search="created_by_name", holds=Content.TEXT, api=Property(required=True, read_only=True),
           doc="Name of its creator; null: not given."),
    Column("name", Type.STRING, Group.ORIGIN, nullable=False, limit=MAX_NAME, event="name", search="name",
           api=Property(required=True),
           doc="Name of the task that was sent (a replacement's own name is on its attempts)."),
    Column("created_at", Type.TIME, Group.EARLIEST, nullable=False, search="created",
           api=Property(required=True, read_only=True),
           doc="When it was created; where the producer is not recorded, or the message names a time more than a year "
           "ago or a day ahead, when a worker first saw it."),
    Column("status", Type.STATUS, Group.ORDER, nullable=False, search="status", api=Property(),
           doc="Its status now."),
    Column("error_message", Type.TEXT, Group.ORDER, event="error_message", search="message", holds=Content.ERROR,
           api=Property(),
           doc="Text of the latest attempt's exception, at most 4,000 characters; null: no error."),
    Column("error_type", Type.STRING, Group.ORDER, limit=MAX_NAME, event="error_type", search="error",
           api=Property("Exception class name"),
           doc="Exception class name; null: no error."),
    Column("retries", Type.INTEGER, Group.ORDER, nullable=False, search="retries",
           api=Property("Number of retry attempts"),
           doc="Number of retries: Celery's count on the latest message, 0 before the first retry."),
    Column("completed_at", Type.TIME, Group.ORDER, search="completed", api=Property(),
           doc="When it reached a terminal status; null if and only if it has not."),
    Column("started_at", Type.TIME, Group.EARLIEST, search="started", api=Property("When task execution started"),
           doc="When its body first started; null: it never ran."),
    Column("celery_task_id", Type.TASK_ID, Group.ROW, nullable=False, search="id",
           api=Property("Celery task UUID from self.request.id"),
           doc="Celery's task id: ``self.request.id``. Unique together with ``customer_key``."),
    Column("root_task_id", Type.TASK_ID, Group.ORIGIN, event="root", search="root",
           api=Property("Root task ID in workflow chain"),
           doc="Root of its workflow, its own id for a root; null: not known (message protocol 1, a "
           "chord's body before it is sent)."),
    Column("parent_task_id", Type.TASK_ID, Group.ORIGIN, search="parent", api=Property("Parent task ID if chained"),
           doc="The task that sent it, never itself; null: none, or not known."),
    Column("trace_id", Type.STRING, Group.TRACE, limit=32, event="trace", search="trace",
           api=Property("APM distributed trace ID"),
           doc="Trace id of the latest attempt, before that the producer's, 32 hex digits; null: no trace."),
    Column("span_id", Type.STRING, Group.TRACE, limit=16, search="span", api=Property("APM span ID"),
           doc="Span id of the latest attempt, 16 hex digits; null: not run yet, or no span."),
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
           doc="Free content: given with the task, then as the running task updates it; null: none."),
    Column("customer", Type.LONG, Group.ORIGIN, event="customer",
           api=Property(required=True, read_only=True),
           doc="Id of the customer it is for, where that is a number; null: none, or not a number."),
    Column("created_by", Type.LONG, Group.ORIGIN, event="created_by",
           api=Property(required=True, read_only=True),
           doc="Id of its creator, where that is a number; null: not given, or not a number."),
    Column("origin_key", Type.KEY, Group.ORIGIN, nullable=False,
           doc="The fold's key of what was requested (name, args, root, creator, ...): the smallest wins."),
    Column("order_key", Type.KEY, Group.ORDER, nullable=False,
           doc="The fold's key of the status, error, result and retries: the largest wins."),
    Column("trace_key", Type.KEY, Group.TRACE, nullable=False,
           doc="The fold's key of the trace and span: the largest wins; empty: none."),
    Column("content_key", Type.KEY, Group.CONTENT, nullable=False,
           doc="The fold's key of the content: the largest wins; empty: none."),
    Column("customer_key", Type.SHORT_ID, Group.ROW, nullable=False, search="customer",
           doc="Key of the customer it is for: a number's text, a UUID, any text; empty: none."),
    Column("created_by_key", Type.SHORT_ID, Group.ORIGIN, search="created_by",
           doc="Key of its creator, as for the customer; null: not given."),
    Column("holder", Type.STRING, Group.ORDER, limit=64, event="holder",
           doc="The journal's name for the process that has received its message, the key of its `AsyncTaskSource`; "
           "null: none has, or it has started."),
)
"""The columns of `AsyncTask`, in the order of the table and of the API's resource."""

ATTEMPT: Final = (
    Column("id", Type.NUMBER, Group.ROW, nullable=False,
           doc="Number of the row."),
    Column("celery_task_id", Type.TASK_ID, Group.ATTEMPT, nullable=False,
           doc="Celery's id of its task; not a foreign key, for an attempt may be stored before its task."),
    Column("run_key", Type.KEY, Group.ATTEMPT, nullable=False,
           doc="The attempt key: names the attempt inside its task and sorts the attempts."),
    Column("name", Type.STRING, Group.ATTEMPT, nullable=False, limit=MAX_NAME,
           api=Property("Name of the task that ran"),
           doc="Name of the task that ran."),
    Column("retries", Type.INTEGER, Group.ATTEMPT, nullable=False,
           api=Property("Celery's retry count of its message, from 0"),
           doc="Celery's retry count of its message, from 0."),
    Column("redelivered", Type.BOOLEAN, Group.ATTEMPT, nullable=False,
           api=Property("Whether the broker had delivered the message before"),
           doc="Whether the broker had delivered the message before."),
    Column("published_at", Type.TIME, Group.START, event="sent",
           api=Property("When its message was sent; null: not known"),
           doc="When its message was sent; null: the producer is not recorded, or names a time more than a year ago "
           "or a day ahead."),
    Column("received_at", Type.TIME, Group.START, api=Property("When a worker took it from the broker"),
           doc="When the worker took the message from the broker; null: run eagerly."),
    Column("eta", Type.TIME, Group.START, event="eta", api=Property("Earliest time to run; null: at once"),
           doc="Earliest time to run; null: at once."),
    Column("started_at", Type.TIME, Group.START,
           api=Property("When its body started; null: it did not, or it is not known"),
           doc="When the body started; null: its process was gone before it could say."),
    Column("ended_at", Type.TIME, Group.END, api=Property("When it ended; null: it runs, or its end is not known"),
           doc="When it ended; null: it runs, or its end is not known."),
    Column("outcome", Type.STRING, Group.END, limit=16,
           api=Property("succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, terminated "
                        "or lost"),
           doc="How it ended: succeeded, failed, retried, ignored, replaced, rejected, requeued, revoked, "
           "terminated, lost; null as for ``ended_at``."),
    Column("error_type", Type.STRING, Group.END, limit=MAX_NAME, event="error_type",
           api=Property("Exception class name; null: no error"),
           doc="Exception class name; null: no error."),
    Column("error_message", Type.TEXT, Group.END, event="error_message", holds=Content.ERROR,
           api=Property("Text of the exception, at most 4,000 characters; null: no error"),
           doc="Text of the exception, at most 4,000 characters; null: no error."),
    Column("traceback", Type.LONG_TEXT, Group.END, event="traceback", holds=Content.ERROR,
           api=Property("Python traceback, at most 20,000 characters: a longer one has all frames but shorter texts"),
           doc="Python traceback, at most 20,000 characters: a longer one has all frames but shorter texts; null: "
           "no error, or no traceback known."),
    Column("worker", Type.STRING, Group.START, limit=MAX_NAME, event="worker", search="worker",
           api=Property("Node name of the worker"),
           doc="Node name of the worker; null: not known."),
    Column("pid", Type.INTEGER, Group.START, event="pid", api=Property("Id of the process that ran the body"),
           doc="Id of the process that ran the body; null: not known."),
    Column("source", Type.STRING, Group.START, limit=64, event="source",
           doc="The journal's name for that process, the key of its `AsyncTaskSource`; null: not known."),
    Column("queue", Type.STRING, Group.START, limit=MAX_NAME, event="queue", search="queue",
           api=Property("Routing key of the message"),
           doc="Routing key of the message; null: run eagerly."),
    Column("trace_id", Type.STRING, Group.START, limit=32, event="trace",
           api=Property("Trace id of the attempt, 32 hex digits; null: no trace"),
           doc="Trace id of the attempt, 32 hex digits; null: no trace."),
    Column("span_id", Type.STRING, Group.START, limit=16, event="span",
           api=Property("Span id of the attempt, 16 hex digits; null: no span"),
           doc="Span id of the attempt, 16 hex digits; null: no span."),
    Column("end_key", Type.KEY, Group.END, nullable=False,
           doc="The fold's key of how it ended: the largest wins; empty: it has not ended."),
    Column("customer_key", Type.SHORT_ID, Group.ATTEMPT, nullable=False,
           doc="Key of its task's customer; empty: none."),
)
# fmt: on
"""The columns of `AsyncTaskAttempt`, in the order of the table."""


def names(columns: Iterable[Column], *groups: Group) -> tuple[str, ...]:
    """The names of the columns of these groups, without the groups' own keys."""
    return tuple(column.name for column in columns if column.group in groups and column.name != column.group.value)


VALUES: Final = tuple(column.name for column in TASK if column.holds is Content.VALUE)
"""The names of a task's columns with `Content.VALUE`."""
ERRORS: Final = frozenset(column.name for column in (*TASK, *ATTEMPT) if column.holds is Content.ERROR)
"""The names of the columns with `Content.ERROR`."""
FOLD_KEYS: Final = frozenset(column.name for column in (*TASK, *ATTEMPT) if column.type is Type.KEY)
"""The names of the columns that only the recorder needs."""
