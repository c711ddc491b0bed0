"""The fold as each database's upsert statement, generated from the same groups that `lifecycle` merges by.

`tests/integration/test_fold.py` holds the two equal on all permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Table, case, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from celery_asynctask.lifecycle import ATTEMPT_FIRST, ATTEMPT_GROUPS, TASK_EARLIEST, TASK_GROUPS, TaskGroup

Assignments = list[tuple[str, ColumnElement[Any]]]


def task_upsert(dialect: str, table: Table) -> Insert:
    """INSERT of partial task rows that joins each with the row that is there. Parameters: the partial's keys."""
    return _upsert(dialect, table, ["celery_task_id"], _task_assignments)


def attempt_upsert(dialect: str, table: Table) -> Insert:
    """INSERT of partial attempt rows that joins each with the row that is there. Parameters: the partial's keys."""
    return _upsert(dialect, table, ["celery_task_id", "run_key"], _attempt_assignments)


def source_upsert(dialect: str, table: Table) -> Insert:
    """INSERT of a source that replaces what changes about it. Parameters: the columns."""
    fixed = {"source", "host", "pid", "role", "started_at"}
    return _upsert(
        dialect,
        table,
        ["source"],
        lambda _old, new: [(name, new[name]) for name in map(str, table.columns.keys()) if name not in fixed],
    )


def _upsert(dialect: str, table: Table, keys: list[str], assignments: Callable[[Any, Any], Assignments]) -> Insert:
    if dialect in ("mysql", "mariadb"):
        # MySQL assigns from left to right and reads what it has assigned: a list keeps the order, keys last.
        statement = mysql.insert(table)
        return statement.on_duplicate_key_update(assignments(table.c, statement.inserted))
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    upsert = insert(table)
    return upsert.on_conflict_do_update(index_elements=keys, set_=dict(assignments(table.c, upsert.excluded)))


def _task_assignments(old: Any, new: Any) -> Assignments:
    return _groups(TASK_GROUPS, old, new) + [
        (name, case((new[name] < old[name], new[name]), else_=func.coalesce(old[name], new[name])))
        for name in TASK_EARLIEST
    ]


def _attempt_assignments(old: Any, new: Any) -> Assignments:
    first: Assignments = [(name, func.coalesce(old[name], new[name])) for name in ATTEMPT_FIRST]
    return _groups(ATTEMPT_GROUPS, old, new) + first


def _groups(groups: Iterable[TaskGroup], old: Any, new: Any) -> Assignments:
    found: Assignments = []
    for group in groups:
        wins = new[group.key] < old[group.key] if group.smallest_wins else new[group.key] > old[group.key]
        found += [(name, case((wins, new[name]), else_=old[name])) for name in (*group.columns, group.key)]
    return found
