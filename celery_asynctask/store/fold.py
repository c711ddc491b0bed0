"""The fold in SQL: each database's upsert, generated from the groups that `core.fold` merges by, and PostgreSQL's
projection of events into rows.

PostgreSQL gets a batch of events as one JSON document and does the rest in one statement: it parses the document,
projects the events into rows, and joins these with the stored rows. That spares the recorder reading, folding and
binding every event. The other databases get rows made by `core.fold`. `tests/integration/store/test_fold.py` checks
that both agree with the fold in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from celery_asynctask.core import fold, keys
from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Group, Type
from celery_asynctask.core.event import Kind
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.time import AGO, AHEAD

Assignments = list[tuple[str, sa.ColumnElement[Any]]]
_TASK_IDENTITY = ("celery_task_id", "customer_key")
_ATTEMPT_IDENTITY = (*_TASK_IDENTITY, "run_key")


def task_upsert(dialect: str, table: sa.Table, rows: sa.Select[Any] | None = None) -> Insert:
    """INSERT of partial task rows that joins each with the stored row. The partial rows are what ``rows`` selects;
    without it, they are parameters named after the columns."""
    return _upsert(dialect, table, list(_TASK_IDENTITY), _task_assignments, rows)


def attempt_upsert(dialect: str, table: sa.Table, rows: sa.Select[Any] | None = None) -> Insert:
    """`task_upsert` for partial attempt rows."""
    return _upsert(dialect, table, list(_ATTEMPT_IDENTITY), _attempt_assignments, rows)


def insert_new(dialect: str, table: sa.Table) -> Insert:
    """INSERT of rows that leaves the stored row as it is. Parameters are named after the columns."""
    index = [name for name in _ATTEMPT_IDENTITY if name in table.c] or [column.name for column in table.primary_key]
    return _upsert(dialect, table, index, lambda old, _: [(index[0], old[index[0]])])


def source_upsert(dialect: str, table: sa.Table) -> Insert:
    """INSERT of a process that replaces the columns that change. Parameters are named after the columns."""
    fixed = {"source", "host", "pid", "role", "started_at", "numbered"}
    replaced = [column.name for column in table.columns if column.name not in fixed]

    def assignments(old: Any, new: Any) -> Assignments:
        numbered = sa.func.coalesce(new["numbered"], old["numbered"])  # null: not known this time
        return [*((name, new[name]) for name in replaced), ("numbered", numbered)]

    return _upsert(dialect, table, ["source"], assignments)


def _upsert(
    dialect: str,
    table: sa.Table,
    index: list[str],
    assignments: Callable[[Any, Any], Assignments],
    rows: sa.Select[Any] | None = None,
) -> Insert:
    if dialect in ("mysql", "mariadb"):
        # MySQL assigns from left to right and reads new values at once: a list keeps the order, each key last.
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update(assignments(table.c, statement.inserted))
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    upsert = insert(table)
    if rows is not None:
        upsert = upsert.from_select(rows.selected_columns.keys(), rows)
    return upsert.on_conflict_do_update(index_elements=index, set_=dict(assignments(table.c, upsert.excluded)))


def _task_assignments(old: Any, new: Any) -> Assignments:
    """The columns of a task row, except its identity, that join ``old`` with ``new``. Where all of ``new`` is null,
    they are those of ``old``."""
    ours, theirs = _execution_of(old["order_key"]), _execution_of(new["order_key"])
    return [
        (
            name,
            sa.case(
                (theirs > ours, new[name]),
                (theirs < ours, old[name]),
                (new[name] < old[name], new[name]),
                else_=sa.func.coalesce(old[name], new[name]),
            ),
        )
        for name in fold.TASK_EARLIEST  # first: MySQL reads the order key as it has assigned it
    ] + _groups(fold.TASK_GROUPS, old, new)


def _attempt_assignments(old: Any, new: Any) -> Assignments:
    """`_task_assignments` for an attempt, except the columns that every event of the attempt carries alike."""
    first: Assignments = [(name, sa.func.coalesce(old[name], new[name])) for name in fold.ATTEMPT_FIRST]
    return _groups(fold.ATTEMPT_GROUPS, old, new) + first


def _groups(groups: Iterable[fold.TaskGroup], old: Any, new: Any) -> Assignments:
    assignments: Assignments = []
    for group in groups:
        wins = new[group.key] < old[group.key] if group.smallest_wins else new[group.key] > old[group.key]
        assignments += [(name, sa.case((wins, new[name]), else_=old[name])) for name in (*group.columns, group.key)]
    return assignments


EVENTS = "events"
"""The statement's first parameter: the text of a JSON array with at most one event per task."""
LATER = "later"
"""The second parameter: another such array, with a second event of some of these tasks."""

_SQL: Mapping[Type, Any] = {
    Type.INTEGER: sa.Integer,
    Type.LONG: sa.BigInteger,
    Type.BOOLEAN: sa.Boolean,
    Type.TIME: sa.BigInteger,
    Type.JSON: postgresql.JSONB,
}
"""The SQL type of an event key, by the type of the column it is copied to; any other type is text."""
_COLUMNS: Mapping[str, Any] = {
    **dict.fromkeys(("id", "run", "kind", "parent", "span", "outcome", "customer_key", "created_by_key"), sa.Text),
    **dict.fromkeys(("at", "started", "created"), sa.BigInteger),
    **dict.fromkeys(("nesting", "retries"), sa.Integer),
    **dict.fromkeys(
        ("redelivered", "delivered", "asked", "again", "ran", "inferred", "internal", "blind", "chord"), sa.Boolean
    ),
    **dict.fromkeys(("content", "noted"), postgresql.JSONB),
    **{column.event: _SQL.get(column.type, sa.Text) for column in (*TASK, *ATTEMPT) if column.event is not None},
}


def insert_events(task_table: Any, attempt_table: Any) -> sa.TextClause:
    """The statement that joins the events of the two documents with each other and then with the stored rows.

    An upsert accepts a row only once, and each write of a row also writes its index entries.
    """
    first, second = _events(EVENTS), _events(LATER)
    tasks = task_upsert("postgresql", task_table, _task_rows(first, second))
    attempts = attempt_upsert("postgresql", attempt_table, _attempt_rows(first, second))
    statement = attempts.add_cte(tasks.cte("tasks"))
    # Text with its hundreds of constants inlined, so that a batch sends only the documents.
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return sa.text(str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})))


def _task_rows(first: sa.CTE, second: sa.CTE) -> sa.Select[Any]:
    """One row for each task that either document mentions. Both may have events of one id for different customers."""
    old, new = (_select(_tasks(event.c)).subquery() for event in (first, second))
    return _joined(old, new, _TASK_IDENTITY, {}, _task_assignments(old.c, new.c))


def _attempt_rows(first: sa.CTE, second: sa.CTE) -> sa.Select[Any]:
    """One row for each attempt that either document mentions."""
    old, new = (_select(_attempts(event.c)).where(_has_attempt(event.c)).subquery() for event in (first, second))
    constant = {name: sa.func.coalesce(old.c[name], new.c[name]) for name in fold.ATTEMPT_CONSTANT}
    return _joined(old, new, _ATTEMPT_IDENTITY, constant, _attempt_assignments(old.c, new.c))


def _joined(
    old: sa.Subquery, new: sa.Subquery, identity: Sequence[str], constant: Mapping[str, Any], joined: Assignments
) -> sa.Select[Any]:
    """The rows of both, each joined with the other's of the same identity."""
    same = sa.and_(*(new.c[name] == old.c[name] for name in identity))
    is_new = old.c.celery_task_id.is_(None)
    columns: dict[str, Any] = {name: sa.func.coalesce(old.c[name], new.c[name]) for name in identity}
    columns |= constant
    columns |= {name: sa.case((is_new, new.c[name]), else_=value) for name, value in joined}
    return _in_order(columns, identity).select_from(old.outerjoin(new, same, full=True))


def _has_attempt(event: Any) -> sa.ColumnElement[bool]:
    return sa.or_(event.kind == Kind.STARTED, event.ran, event.started.is_not(None))


def _select(columns: Mapping[str, Any]) -> sa.Select[Any]:
    return sa.select(*(value.label(name) for name, value in columns.items()))


def _in_order(columns: Mapping[str, Any], keys: Sequence[str]) -> sa.Select[Any]:
    """Rows sorted by the keys: recorders that lock rows in the same order cannot deadlock."""
    return _select(columns).order_by(*(_bytewise(columns[key]) for key in keys))


def _bytewise(key: Any) -> sa.ColumnElement[Any]:
    """A key that is compared and sorted byte by byte, whatever the database's collation: Danish puts "aa" after "z"."""
    return sa.collate(key, "C")


def _bytewise_all(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _bytewise(key) for name, key in keys.items()}


def _events(parameter: str) -> sa.CTE:
    """The events of a document, with the keys that `core.keys` gives them."""
    recordset = (
        sa.func.json_to_recordset(sa.cast(sa.literal_column(f":{parameter}"), sa.JSON))
        .table_valued(*(sa.column(name, kind) for name, kind in _COLUMNS.items()))
        .render_derived(name="event", with_types=True)
    )
    event = recordset.c
    token = sa.func.coalesce(event.run, keys.NO_TOKEN, type_=sa.Text)
    nesting = sa.func.least(sa.func.coalesce(event.nesting, 0), keys.MAX_NESTING)
    retries = sa.func.least(sa.func.coalesce(event.retries, 0), keys.MAX_RETRIES)
    created = sa.case((event.chord, 0), else_=sa.func.coalesce(event.created, 0))
    is_unrecorded = event.kind == Kind.UNRECORDED
    parts = {
        "created_hex": _hex(created, keys.TIME_DIGITS),
        "standing": sa.case((is_unrecorded, keys.UNRECORDED), else_=keys.RECORDED),
        "inverse": _hex(keys.MAX_TIME - created, keys.TIME_DIGITS)
        + sa.case((is_unrecorded, keys.RECORDED), else_=keys.UNRECORDED),
        "prefix": _hex(nesting, keys.NESTING_DIGITS) + _hex(retries, keys.RETRIES_DIGITS),
        "delivery": sa.case((event.redelivered, keys.REDELIVERED), else_=keys.FIRST) + token,
        "at_hex": _hex(event.at, keys.TIME_DIGITS),
        "phase": _phase(event),
    }
    parted = _once(event, parts)
    ordered = _once(parted, _bytewise_all({"order_key": _order(parted), "start_order": _start_order(parted)}))
    return _with(ordered, _bytewise_all(_keys(ordered))).cte(parameter).prefix_with("MATERIALIZED")


def _with(event: Any, extra: Mapping[str, Any]) -> sa.Select[Any]:
    return sa.select(*event, *(value.label(name) for name, value in extra.items()))


def _once(event: Any, extra: Mapping[str, Any]) -> Any:
    """The columns of an event and ``extra`` ones, computed once however often they are used: PostgreSQL does not merge
    a subquery that has an offset into the outer query."""
    return _with(event, extra).offset(0).subquery().c


def _hex(number: Any, digits: int) -> sa.ColumnElement[Any]:
    return sa.func.lpad(sa.func.to_hex(number), digits, "0", type_=sa.Text)


def _time(microseconds: Any) -> sa.ColumnElement[Any]:
    epoch = sa.literal_column("timestamptz 'epoch'", sa.DateTime(timezone=True))
    moment: sa.ColumnElement[Any] = epoch + microseconds * sa.literal_column("interval '1 microsecond'")
    return moment


def _phase(event: Any) -> sa.ColumnElement[Any]:
    """`core.keys._phase`."""
    kinds_of: dict[int, list[str]] = {}
    for kind, phase in keys.PHASE.items():
        kinds_of.setdefault(phase, []).append(kind)
    return sa.case(
        *((event.kind.in_(kinds), str(phase)) for phase, kinds in kinds_of.items()),
        (event.internal, str(keys.PHASE_INTERNAL)),
        (event.inferred, str(keys.PHASE_INFERRED)),
        else_=str(keys.PHASE_SEEN),
    )


def _order(event: Any) -> sa.ColumnElement[Any]:
    """The order key, as `core.keys.order_keys` makes it."""
    prefix = event.created_hex + event.standing + event.prefix
    stages = [
        (event.kind == kind, prefix + f"{stage}{keys.BEFORE_ATTEMPT}" + event.at_hex)
        for kind, stage in keys.STAGE.items()
    ]
    attempt = prefix + str(keys.STAGE_ATTEMPT) + event.delivery + event.phase + event.at_hex
    return sa.case(*stages, else_=attempt)


def _start_order(event: Any) -> sa.ColumnElement[Any]:
    """The order key of the start that an end carries; any other event has only its own order key."""
    prefix = event.created_hex + event.standing + event.prefix
    start = prefix + str(keys.STAGE_ATTEMPT) + event.delivery + str(keys.PHASE_STARTED)
    return sa.case((event.started.is_(None), _order(event)), else_=start + _hex(event.started, keys.TIME_DIGITS))


def _status(event: Any) -> sa.ColumnElement[Any]:
    """`core.fold.status_of`."""
    sent_again = sa.and_(event.kind.in_([Kind.PUBLISHED, Kind.RECEIVED, Kind.RELEASED]), event.retries > 0)
    return sa.case(
        (event.again, AsyncTaskStatus.PENDING.value),
        (sent_again, AsyncTaskStatus.RETRY.value),
        *((event.kind == kind, status.value) for kind, status in fold.STATUS.items()),
    )


def _keys(event: Any) -> dict[str, Any]:
    """The keys of the groups in `core.fold`, except ``order_key``, and the attempt key."""
    source = sa.case(
        (sa.func.coalesce(event.asked, False).is_(False), str(keys.SOURCE_NAME_ONLY)),
        *((event.kind == kind, str(source)) for kind, source in keys.SOURCE.items()),
        else_=str(keys.SOURCE_MESSAGE),
    )
    informed = sa.case(
        (event.blind, str(keys.INFORMED_BLIND)),
        (event.kind == Kind.PUBLISHED, str(keys.INFORMED_PRODUCER)),
        else_=str(keys.INFORMED_WORKER),
    )
    execution = _execution_of(event.order_key)

    def content_of(whose: str, order: Any) -> Any:
        return execution + whose + sa.func.substr(order, keys.EXECUTION_DIGITS + 1)

    return {
        "origin_key": event.inverse + source + event.prefix + informed + _hex(_since(event), keys.TIME_DIGITS),
        "trace_key": sa.case((event.trace.is_not(None), event.start_order), else_=execution),
        "content_key": sa.case(
            (event.noted.is_not(None), content_of(keys.CHANGED, event.order_key)),
            (event.content.is_not(None), content_of(keys.GIVEN, event.start_order)),
            else_=execution,
        ),
        "run_key": event.created_hex + event.prefix + event.delivery,
        "end_key": sa.case((event.kind == Kind.STARTED, sa.literal("")), else_=event.phase + event.at_hex),
    }


def _execution_of(order_key: Any) -> sa.ColumnElement[Any]:
    """`core.keys.execution_of`."""
    # Constants in the text: the parameters of an upsert are its columns.
    digits: Any = sa.literal_column(str(keys.EXECUTION_DIGITS))
    return sa.func.substr(order_key, sa.literal_column("1"), digits, type_=sa.Text)


def _since(event: Any) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(event.started, event.at)


def _copied(event: Any, columns: Iterable[Column]) -> dict[str, Any]:
    """The columns that are copied from the event unchanged."""
    return {
        column.name: _time(event[column.event]) if column.type is Type.TIME else event[column.event]
        for column in columns
        if column.event is not None
    }


def _tasks(event: Any) -> dict[str, Any]:
    """`core.fold.project`, by column."""
    status = _status(event)
    return {
        **_copied(event, TASK),
        "celery_task_id": event.id,
        "customer_key": _customer_key(event),
        "created_by_key": sa.func.coalesce(event.created_by_key, sa.cast(event.created_by, sa.Text)),
        "origin_key": event.origin_key,
        "parent_task_id": sa.func.nullif(event.parent, event.id),
        "trace_key": event.trace_key,
        "span_id": sa.case((event.trace.is_not(None), event.span)),
        "content_key": event.content_key,
        "content": sa.func.coalesce(event.noted, event.content),
        "created_at": _time(sa.case((event.kind == Kind.UNRECORDED, event.at), else_=_created_at(event))),
        "started_at": _time(sa.case((event.kind == Kind.STARTED, event.at), else_=event.started)),
        "order_key": event.order_key,
        "status": status,
        "retries": sa.func.coalesce(event.retries, 0),
        "completed_at": sa.case((status.in_([terminal.value for terminal in TERMINAL]), _time(event.at))),
    }


_NO_TIME: Final = -(10**18)
"""Microseconds of no time that PostgreSQL has: it refuses the event."""


def _created_at(event: Any) -> sa.ColumnElement[Any]:
    """`core.fold._created_at`."""
    at = sa.func.least(_since(event), event.at)
    has_room = sa.or_(event.created.is_(None), event.created.between(0, keys.MAX_TIME))
    believed = event.created.between(at - AGO, at + AHEAD)
    return sa.case((~has_room, sa.literal(_NO_TIME)), (believed, event.created), else_=at)


def _customer_key(event: Any) -> sa.ColumnElement[Any]:
    """`core.fold.customer_key`."""
    return _bytewise(sa.func.coalesce(event.customer_key, sa.cast(event.customer, sa.Text), ""))


def _attempts(event: Any) -> dict[str, Any]:
    """`core.fold._project_attempt`, by column."""
    is_start = event.kind == Kind.STARTED
    has_start = sa.or_(is_start, event.started.is_not(None))
    token = sa.func.lpad(sa.func.left(event.run, keys.TIME_DIGITS), 16, "0", type_=sa.Text)
    received = sa.cast(sa.cast(sa.literal("x") + token, postgresql.BIT(64)), sa.BigInteger)

    def of_end(value: Any) -> Any:
        return sa.case((event.kind.in_([Kind.STARTED, Kind.FOUND]), None), else_=value)

    starts = _copied(event, (column for column in ATTEMPT if column.group is Group.START))
    return {
        **{name: sa.case((has_start, value)) for name, value in starts.items()},
        **_copied(event, (column for column in ATTEMPT if column.group is not Group.START)),
        "celery_task_id": event.id,
        "customer_key": _customer_key(event),
        "run_key": event.run_key,
        "name": event.name,
        "retries": sa.func.coalesce(event.retries, 0),
        "redelivered": sa.func.coalesce(event.redelivered, False),
        "started_at": _time(sa.case((is_start, event.at), else_=event.started)),
        "received_at": sa.case((sa.and_(has_start, event.delivered), _time(received))),
        "end_key": event.end_key,
        "ended_at": of_end(_time(event.at)),
        "outcome": of_end(sa.func.coalesce(event.outcome, event.kind)),
    }
