"""Events as one JSON document that PostgreSQL itself reads: parsed, projected, joined with the rows in one statement.

The projection of `fold` in SQL; the joining is `upsert`'s. Spares the recorder the reading, folding and binding of
every event. `tests/integration/store/test_fold.py` holds it equal to the fold in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    TextClause,
    and_,
    case,
    cast,
    collate,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

from celery_asynctask.core import fold, keys
from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Group, Type
from celery_asynctask.core.event import Kind
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.store import upsert

EVENTS = "events"
"""The statement's first parameter: the text of a JSON array of events, each of another task."""
LATER = "later"
"""The second: another such array, of one more event of some of these tasks."""

_SQL: Mapping[Type, Any] = {
    Type.INTEGER: Integer,
    Type.LONG: BigInteger,
    Type.BOOLEAN: Boolean,
    Type.TIME: BigInteger,
    Type.JSON: JSONB,
}
"""By the type of a column, that of the key of an event which is copied to it: a text where it is none of these."""
_COLUMNS: Mapping[str, Any] = {
    **dict.fromkeys(("id", "run", "kind", "parent", "span", "outcome"), Text),
    **dict.fromkeys(("at", "started", "created"), BigInteger),
    **dict.fromkeys(("nesting", "retries"), Integer),
    **dict.fromkeys(("redelivered", "delivered", "asked", "again", "ran", "inferred", "internal"), Boolean),
    **dict.fromkeys(("content", "noted"), JSONB),
    **{one.event: _SQL.get(one.type, Text) for one in (*TASK, *ATTEMPT) if one.event is not None},
}


def insert_events(task_table: Any, attempt_table: Any) -> TextClause:
    """Joins the events of the two documents with each other and then with the rows that are there.

    An upsert takes a row once; and every time a row is written, so are its places in the indexes.
    """
    first, second = _events(EVENTS), _events(LATER)
    tasks = upsert.task_upsert("postgresql", task_table, _task_rows(first, second))
    attempts = upsert.attempt_upsert("postgresql", attempt_table, _attempt_rows(first, second))
    statement = attempts.add_cte(tasks.cte("tasks"))
    # As text, with its hundreds of constants in it: what is sent for every batch is the documents alone.
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return text(str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})))


def _task_rows(first: CTE, second: CTE) -> Select[Any]:
    """A row for each task of the first document."""
    old, new = (_select(_tasks(event.c)).subquery() for event in (first, second))
    same = new.c.celery_task_id == old.c.celery_task_id
    columns = {"celery_task_id": old.c.celery_task_id, **dict(upsert.task_assignments(old.c, new.c))}
    return _in_order(columns, ["celery_task_id"]).select_from(old.outerjoin(new, same))


def _attempt_rows(first: CTE, second: CTE) -> Select[Any]:
    """A row for each run that either document tells of."""
    old, new = (_select(_attempts(event.c)).where(_has_run(event.c)).subquery() for event in (first, second))
    same = and_(new.c.celery_task_id == old.c.celery_task_id, new.c.run_key == old.c.run_key)
    columns: dict[str, Any] = {name: func.coalesce(old.c[name], new.c[name]) for name in fold.ATTEMPT_CONSTANT}
    is_new = old.c.celery_task_id.is_(None)
    joined = upsert.attempt_assignments(old.c, new.c)
    columns |= {name: case((is_new, new.c[name]), else_=value) for name, value in joined}
    return _in_order(columns, ["celery_task_id", "run_key"]).select_from(old.outerjoin(new, same, full=True))


def _has_run(event: Any) -> ColumnElement[bool]:
    return or_(event.kind == Kind.STARTED, event.ran, event.started.is_not(None))


def _select(columns: Mapping[str, Any]) -> Select[Any]:
    return select(*(value.label(name) for name, value in columns.items()))


def _in_order(columns: Mapping[str, Any], keys: Sequence[str]) -> Select[Any]:
    """By the keys: recorders that take rows in one order cannot deadlock over them."""
    return _select(columns).order_by(*(_bytewise(columns[key]) for key in keys))


def _bytewise(key: Any) -> ColumnElement[Any]:
    """A key as it is compared and sorted, whatever language the database sorts by: Danish puts "aa" after "z"."""
    return collate(key, "C")


def _bytewise_all(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _bytewise(key) for name, key in keys.items()}


def _events(parameter: str) -> CTE:
    """A document's events with their keys, as `core.keys` makes them."""
    recordset = (
        func.json_to_recordset(cast(literal_column(f":{parameter}"), JSON))
        .table_valued(*(column(name, kind) for name, kind in _COLUMNS.items()))
        .render_derived(name="told", with_types=True)
    )
    told = recordset.c
    run = func.coalesce(told.run, keys.NO_RUN, type_=Text)
    nesting = func.least(func.coalesce(told.nesting, 0), keys.MAX_NESTING)
    retries = func.least(func.coalesce(told.retries, 0), keys.MAX_RETRIES)
    parts = {
        "prefix": _hex(nesting, keys.NESTING_DIGITS) + _hex(retries, keys.RETRIES_DIGITS),
        "delivery": case((told.redelivered, keys.REDELIVERED), else_=keys.FIRST) + run,
        "at_hex": _hex(told.at, keys.TIME_DIGITS),
        "phase": _phase(told),
    }
    parted = _once(told, parts)
    ordered = _once(parted, _bytewise_all({"order_key": _order(parted), "start_order": _start_order(parted)}))
    return _with(ordered, _bytewise_all(_keys(ordered))).cte(parameter).prefix_with("MATERIALIZED")


def _with(event: Any, more: Mapping[str, Any]) -> Select[Any]:
    return select(*event, *(value.label(name) for name, value in more.items()))


def _once(event: Any, more: Mapping[str, Any]) -> Any:
    """The event's columns and more, which are computed once, however often they are used: PostgreSQL does not look
    into a subquery with an offset."""
    return _with(event, more).offset(0).subquery().c


def _hex(number: Any, digits: int) -> ColumnElement[Any]:
    return func.lpad(func.to_hex(number), digits, "0", type_=Text)


def _time(microseconds: Any) -> ColumnElement[Any]:
    epoch = literal_column("timestamptz 'epoch'", DateTime(timezone=True))
    moment: ColumnElement[Any] = epoch + microseconds * literal_column("interval '1 microsecond'")
    return moment


def _phase(event: Any) -> ColumnElement[Any]:
    """`keys._phase`."""
    said: dict[int, list[Kind]] = {}
    for kind, phase in keys.PHASE.items():
        said.setdefault(phase, []).append(kind)
    return case(
        *((event.kind.in_(kinds), str(phase)) for phase, kinds in said.items()),
        (event.internal, str(keys.PHASE_INTERNAL)),
        (event.inferred, str(keys.PHASE_INFERRED)),
        else_=str(keys.PHASE_SEEN),
    )


def _order(event: Any) -> ColumnElement[Any]:
    """`keys.order_key`."""
    stages = [
        (event.kind == kind, event.prefix + f"{stage}{keys.BEFORE_RUN}" + event.at_hex)
        for kind, stage in keys.STAGE.items()
    ]
    run = event.prefix + str(keys.STAGE_RUN) + event.delivery + event.phase + event.at_hex
    return case(*stages, else_=run)


def _start_order(event: Any) -> ColumnElement[Any]:
    """`keys.order_key` of the start that an end carries; of any other event its own."""
    start = event.prefix + str(keys.STAGE_RUN) + event.delivery + str(keys.PHASE_STARTED)
    return case((event.started.is_(None), _order(event)), else_=start + _hex(event.started, keys.TIME_DIGITS))


def _status(event: Any) -> ColumnElement[Any]:
    """`fold.status_of`."""
    sent_again = and_(event.kind.in_([Kind.PUBLISHED, Kind.RECEIVED]), event.retries > 0)
    return case(
        (event.again, AsyncTaskStatus.PENDING.value),
        (sent_again, AsyncTaskStatus.RETRY.value),
        *((event.kind == kind, status.value) for kind, status in fold.STATUS.items()),
    )


def _keys(event: Any) -> dict[str, Any]:
    """The keys of the groups in `fold` but ``order_key``, and of the run."""
    has_trace = event.trace.is_not(None)
    origin = case(
        (func.coalesce(event.asked, False).is_(False), str(keys.SOURCE_NAME_ONLY)),
        *((event.kind == kind, str(source)) for kind, source in keys.SOURCE.items()),
        else_=str(keys.SOURCE_MESSAGE),
    )
    return {
        "origin_key": origin + event.prefix + _hex(_since(event), keys.TIME_DIGITS),
        "trace_key": case((has_trace, event.start_order), else_=literal("")),
        "content_key": case(
            (event.noted.is_not(None), literal(keys.CHANGED) + event.order_key),
            (event.content.is_not(None), literal(keys.GIVEN) + event.start_order),
            else_=literal(""),
        ),
        "run_key": event.prefix + event.delivery,
        "end_key": case((event.kind == Kind.STARTED, literal("")), else_=event.phase + event.at_hex),
    }


def _since(event: Any) -> ColumnElement[Any]:
    return func.coalesce(event.started, event.at)


def _copied(event: Any, columns: Iterable[Column]) -> dict[str, Any]:
    """Those that are copied from the event as they are."""
    return {
        one.name: _time(event[one.event]) if one.type is Type.TIME else event[one.event]
        for one in columns
        if one.event is not None
    }


def _tasks(event: Any) -> dict[str, Any]:
    """`fold.project`, by column."""
    status = _status(event)
    return {
        **_copied(event, TASK),
        "celery_task_id": event.id,
        "origin_key": event.origin_key,
        "parent_task_id": func.nullif(event.parent, event.id),
        "trace_key": event.trace_key,
        "span_id": case((event.trace.is_not(None), event.span)),
        "content_key": event.content_key,
        "content": func.coalesce(event.noted, event.content),
        "created_at": _time(func.coalesce(event.created, func.least(_since(event), event.at))),
        "started_at": _time(case((event.kind == Kind.STARTED, event.at), else_=event.started)),
        "order_key": event.order_key,
        "status": status,
        "retries": func.coalesce(event.retries, 0),
        "completed_at": case((status.in_([one.value for one in TERMINAL]), _time(event.at))),
    }


def _attempts(event: Any) -> dict[str, Any]:
    """`fold._project_attempt`, by column."""
    is_start = event.kind == Kind.STARTED
    has_start = or_(is_start, event.started.is_not(None))
    token = func.lpad(func.left(event.run, keys.TIME_DIGITS), 16, "0", type_=Text)
    received = cast(cast(literal("x") + token, postgresql.BIT(64)), BigInteger)

    def of_end(value: Any) -> Any:
        return case((event.kind.in_([Kind.STARTED, Kind.FOUND]), None), else_=value)

    starts = _copied(event, (one for one in ATTEMPT if one.group is Group.START))
    return {
        **{name: case((has_start, value)) for name, value in starts.items()},
        **_copied(event, (one for one in ATTEMPT if one.group is not Group.START)),
        "celery_task_id": event.id,
        "run_key": event.run_key,
        "name": event.name,
        "retries": func.coalesce(event.retries, 0),
        "redelivered": func.coalesce(event.redelivered, False),
        "started_at": _time(case((is_start, event.at), else_=event.started)),
        "received_at": case((and_(has_start, event.delivered), _time(received))),
        "end_key": event.end_key,
        "ended_at": of_end(_time(event.at)),
        "outcome": of_end(func.coalesce(event.outcome, event.kind)),
    }
