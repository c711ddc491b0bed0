"""The parameters of a search: the grammar of the command line, and one parameter for each common field."""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AwareDatetime, BeforeValidator, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema

from celery_asynctask.core.columns import ATTEMPT, TASK
from celery_asynctask.core.ids import key_of
from celery_asynctask.core.limits import MAX_ID_TEXT, MAX_INTEGER
from celery_asynctask.core.time import EPOCH
from celery_asynctask.errors import FilterError
from celery_asynctask.operations.audit import Action
from celery_asynctask.queries.search.filter import MAX_LENGTH, MAX_TERMS, Filter, Term, Value, parse, parse_value
from celery_asynctask.queries.search.glob import quoted
from celery_asynctask.queries.search.keys import ERROR_KEYS, JSON_KEYS, KEYS
from celery_asynctask.queries.search.order import ORDERS, Order
from celery_asynctask.queries.search.page import MAX_ROWS
from celery_asynctask.web.problem import invalid
from celery_asynctask.web.schema import AsyncTaskStatusEnum, StrictShape

_KEYS: Final = {column.name: column.search for column in (*TASK, *ATTEMPT) if column.search is not None}
"""Keys of the grammar by column; parameters have the names of columns."""
_OWNERS: Final = frozenset(name for name, key in KEYS.items() if key.is_owner)
"""Parameters, and keys of the grammar, that take the id of a customer or creator."""
_SIDES: Final = {"after": ">=", "before": "<"}
"""Operators by the second word of a time's parameter; the first word is the grammar's key."""
_LAST: Final = dt.datetime(2999, 12, 31, tzinfo=dt.timezone.utc)
"""Times before 1970 and after this are clamped: no task has them, and not every database knows them."""
_GLOB: Final = "; * matches any characters, ? one"
_HOURS: Final = dt.timedelta(hours=25)

ORDER_BY: Final[dict[str, Order]] = {
    f"{'-' if order.descending else ''}{to_camel(order.column)}": order for order in ORDERS
}
AsyncTaskOrdering: Any = enum.Enum(  # type: ignore[misc]
    "AsyncTaskOrdering",
    {f"{name.lstrip('-')}{'Descending' if order.descending else ''}": name for name, order in ORDER_BY.items()},
    type=str,
    module=__name__,
)
AsyncTaskOrdering.__doc__ = "Time to sort tasks by; with - newest first. Tasks without that time come last."


def _rfc3339(value: object) -> object:
    """Refuses what the document does not allow: Pydantic would take a bare number, too, and guess its unit."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{5,}([Zz]|[+-][0-9]{2}:[0-9]{2})", str(value)):
        raise ValueError("must be a time with a zone, such as 2026-01-31T14:05:00Z")
    return value


def _id(value: object) -> str:
    """The key of an id."""
    try:
        return key_of(value)
    except ValueError as exc:
        raise ValueError(f"must be {exc}") from None


# A parameter is left out, never null: the document has no null, and clients do not send it.
_Text = str | SkipJsonSchema[None]
_Number = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)] | SkipJsonSchema[None]
_ID_SCHEMA: Final[Any] = {
    "anyOf": [
        {"type": "integer", "format": "int64", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
        {"type": "string", "format": "asynctask-id", "minLength": 1, "maxLength": MAX_ID_TEXT},
    ]
}
_Owner = Annotated[str, BeforeValidator(_id), WithJsonSchema(_ID_SCHEMA)] | SkipJsonSchema[None]
_Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339)] | SkipJsonSchema[None]


def _text(description: str, note: str = "") -> Any:
    return Field(
        None,
        description=f"{description}{note}",
        min_length=1,
        max_length=MAX_LENGTH,
        json_schema_extra={"format": "asynctask-text"},
    )


def _number(description: str) -> Any:
    return Field(None, description=description, json_schema_extra={"format": "int64"})


def _owner(description: str) -> Any:
    return Field(None, description=description)


class Search(StrictShape):
    """A search; a task must match all parameters."""

    search: str = Field(
        "",
        description="Terms separated by spaces, such as `status:FAILURE name:billing.* retries:>2 since:2d "
        "kwargs.account_id:17`: the grammar of `celery asynctask list`",
        max_length=MAX_LENGTH,
        json_schema_extra={"format": "asynctask-search"},
    )
    status: list[AsyncTaskStatusEnum] = Field(
        [], description="One of these statuses", max_length=len(AsyncTaskStatusEnum)
    )
    name: _Text = _text("Name of the task", _GLOB)
    customer: _Owner = _owner("Customer: its number, or its id as a text")
    created_by: _Owner = _owner("Created by: number of the creator, or its id as a text")
    created_by_name: _Text = _text("Created by: name of the creator", _GLOB)
    error_type: _Text = _text("Exception class name", _GLOB)
    retries: _Number = _number("Number of retry attempts")
    celery_task_id: _Text = _text("Celery task UUID, or its beginning")
    root_task_id: _Text = _text("ID of the root task of its workflow")
    parent_task_id: _Text = _text("ID of its parent task")
    trace_id: _Text = _text("Trace ID")
    span_id: _Text = _text("Span ID")
    worker: _Text = _text("Node name of a worker that ran it", _GLOB)
    queue: _Text = _text("Queue: routing key of one of its attempts", _GLOB)
    created_after: _Time = Field(None, description="Created at that time or later")
    created_before: _Time = Field(None, description="Created before that time")
    started_after: _Time = Field(None, description="First started at that time or later")
    started_before: _Time = Field(None, description="First started before that time")
    completed_after: _Time = Field(None, description="Ended at that time or later")
    completed_before: _Time = Field(None, description="Ended before that time")


class PageSearch(Search):
    """A search, its order, and a page of its results."""

    ordering: AsyncTaskOrdering = Field(AsyncTaskOrdering("-createdAt"), description=AsyncTaskOrdering.__doc__)
    cursor: _Text = Field(
        None,
        description="`next` of the previous page",
        min_length=1,
        max_length=100,
        json_schema_extra={"format": "asynctask-cursor"},
    )
    limit: int = Field(50, description="Tasks per page", ge=1, le=MAX_ROWS)

    @property
    def order(self) -> Order:
        """The order that ``ordering`` names."""
        return ORDER_BY[self.ordering.value]


AuditAction: Any = enum.Enum(  # type: ignore[misc]
    "AuditAction", {action.name: action.value for action in Action}, type=str, module=__name__
)
AuditAction.__doc__ = "What was done."


AUDIT_CURSOR: Final = re.compile("[1-9][0-9]{0,17}")


class AuditSearch(StrictShape):
    """Entries of the audit, and a page of them."""

    since: _Time = Field(None, description="Written at that time or later")
    actor: _Text = _text("Name of the token, the caller or the user")
    action: AuditAction | SkipJsonSchema[None] = Field(None, description="What was done")
    cursor: Annotated[str, Field(pattern=f"^{AUDIT_CURSOR.pattern}$")] | SkipJsonSchema[None] = Field(
        None, description="`next` of the previous page"
    )
    limit: int = Field(50, description="Entries per page", ge=1, le=MAX_ROWS)


class ParsedSearch(NamedTuple):
    """A search, parsed."""

    filter: Filter
    relative: bool
    """Whether it counts time from now, and so finds other tasks tomorrow."""


def in_values(terms: Iterable[Term]) -> bool:
    """Whether terms search the values of tasks. The name of the schedule is no value, although the content holds it."""
    return any(term.key in JSON_KEYS for term in terms)


def in_errors(terms: Iterable[Term]) -> bool:
    """Whether terms search error messages."""
    return any(term.key in ERROR_KEYS for term in terms)


def parse_search(search: Search, now: dt.datetime) -> ParsedSearch:
    """Raises `ProblemError`, which names the parameter."""
    terms, relative = searched(search.search, now)
    if search.status:
        statuses = dict.fromkeys(status.value for status in search.status)
        terms.append(Term("status", (), tuple(Value("=", status) for status in statuses), False))
    for name, field in Search.model_fields.items():
        match getattr(search, name):
            case str(key) if name in _OWNERS:
                terms.append(Term(name, (), (Value("=", quoted(key)),), False))
            case str(text) if name in _KEYS:
                terms.append(_term(field.alias or name, _KEYS[name], text, now))
            case int(number) if name in _KEYS:
                terms.append(Term(_KEYS[name], (), (Value("=", number),), False))
            case dt.datetime() as at:
                key, side = name.split("_")
                terms.append(Term(key, (), (Value(_SIDES[side], bounded(at)),), False))
    if len(terms) > MAX_TERMS:
        raise invalid(
            "search",
            f"The search has {len(terms)} terms, those of the other parameters included. Use at most {MAX_TERMS}.",
        )
    return ParsedSearch(Filter(tuple(terms)), relative)


def bounded(at: dt.datetime) -> dt.datetime:
    """A time of a query as one that every database knows, in UTC."""
    return min(max(at, EPOCH), _LAST).astimezone(dt.timezone.utc)


def searched(text: str, now: dt.datetime) -> tuple[list[Term], bool]:
    """The terms of a search, and whether it counts time from now. Raises `ProblemError`."""
    try:
        terms = parse(text, now).terms
    except FilterError as exc:
        raise invalid("search", str(exc)) from None
    return list(terms), parse(text, now + _HOURS).terms != terms


def _term(parameter: str, key: str, text: str, now: dt.datetime) -> Term:
    """The term of a parameter, whose text is one value: only wildcards have a meaning in it. Raises `ProblemError`."""
    quoted = "".join(char if char in "*?" else f'"\\{char}"' if char in '"\\' else f'"{char}"' for char in text)
    try:
        return parse_value(key, quoted, now)
    except FilterError as exc:
        raise invalid(parameter, str(exc)) from None
