"""The fold as each database's upsert statement, generated from the same groups that `fold` merges by.

`tests/integration/store/test_fold.py` holds the two equal on all permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, case, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from celery_asynctask.core.fold import ATTEMPT_FIRST, ATTEMPT_GROUPS, TASK_EARLIEST, TASK_GROUPS, TaskGroup

Assignments = list[tuple[str, ColumnElement[Any]]]


def task_upsert(dialect: str, table: Table, rows: Select[Any] | None = None) -> Insert:
    """INSERT of partial task rows that joins each with the row that is there. The partials are what ``rows`` selects,
    or else the parameters by their keys."""
    return _upsert(dialect, table, ["celery_task_id"], task_assignments, rows)


def attempt_upsert(dialect: str, table: Table, rows: Select[Any] | None = None) -> Insert:
    """`task_upsert` for partial attempt rows."""
    return _upsert(dialect, table, ["celery_task_id", "run_key"], attempt_assignments, rows)


def source_upsert(dialect: str, table: Table) -> Insert:
    """INSERT of a source that replaces what changes about it. Parameters: the columns."""
    fixed = {"source", "host", "pid", "role", "started_at"}
    return _upsert(
        dialect,
        table,
        ["source"],
        lambda _old, new: [(name, new[name]) for name in map(str, table.columns.keys()) if name not in fixed],
    )


def _upsert(
    dialect: str,
    table: Table,
    keys: list[str],
    assignments: Callable[[Any, Any], Assignments],
    rows: Select[Any] | None = None,
) -> Insert:
    if dialect in ("mysql", "mariadb"):
        # MySQL assigns from left to right and reads what it has assigned: a list keeps the order, keys last.
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update(assignments(table.c, statement.inserted))
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    upsert = insert(table)
    if rows is not None:
        upsert = upsert.from_select(rows.selected_columns.keys(), rows)
    return upsert.on_conflict_do_update(index_elements=keys, set_=dict(assignments(table.c, upsert.excluded)))


def task_assignments(old: Any, new: Any) -> Assignments:
    """The columns of a task row, but its key, that join ``old`` with ``new``; those of ``old`` where all of ``new`` is
    null."""
    return _groups(TASK_GROUPS, old, new) + [
        (name, case((new[name] < old[name], new[name]), else_=func.coalesce(old[name], new[name])))
        for name in TASK_EARLIEST
    ]


def attempt_assignments(old: Any, new: Any) -> Assignments:
    """`task_assignments` of an attempt, but what every event of the run carries alike."""
    first: Assignments = [(name, func.coalesce(old[name], new[name])) for name in ATTEMPT_FIRST]
    return _groups(ATTEMPT_GROUPS, old, new) + first


def _groups(groups: Iterable[TaskGroup], old: Any, new: Any) -> Assignments:
    found: Assignments = []
    for group in groups:
        wins = new[group.key] < old[group.key] if group.smallest_wins else new[group.key] > old[group.key]
        found += [(name, case((wins, new[name]), else_=old[name])) for name in (*group.columns, group.key)]
    return found
