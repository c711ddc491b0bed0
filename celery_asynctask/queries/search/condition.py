"""Makes SQL conditions of a `filter.Filter`: in the dialect of each database, with the same results on all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, SQLColumnExpression
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from celery_asynctask.core import columns
from celery_asynctask.core.status import SHOWN
from celery_asynctask.queries.attempts import seen_of
from celery_asynctask.queries.scope import ALL, HAS_CUSTOMER, Scope
from celery_asynctask.queries.search import glob
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.json_path import at_path, sqlite_glob
from celery_asynctask.queries.search.keys import JSON_KEYS, KEYS
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

Column = SQLColumnExpression[Any]
Condition = ColumnElement[bool]


class Conditions(NamedTuple):
    """The conditions of a filter. A row must meet all of them."""

    indexed: list[Condition]
    """Conditions with an index that leads to their rows, however many others there are."""
    scanned: list[Condition]
    """Conditions that need a look at one row after the other; see `page`."""

    @property
    def matches(self) -> Condition:
        """The condition of a row that meets all of ``indexed``."""
        return sa.and_(sa.true(), *self.scanned)


class microseconds_between(GenericFunction[int]):
    """Microseconds from the first time to the second; null where one is null."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(microseconds_between)
def _microseconds(element: Any, compiler: Any, **options: Any) -> str:
    early, late = (compiler.process(clause, **options) for clause in element.clauses)
    # A third quicker than EXTRACT, which makes decimals, and as exact for a hundred years.
    return f"CAST(date_part('epoch', {late} - {early}) * 1000000 AS BIGINT)"


@compiles(microseconds_between, "mysql", "mariadb")
def _microseconds_mysql(element: Any, compiler: Any, **options: Any) -> str:
    early, late = (compiler.process(clause, **options) for clause in element.clauses)
    return f"TIMESTAMPDIFF(MICROSECOND, {early}, {late})"


@compiles(microseconds_between, "sqlite")
def _microseconds_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    early, late = (compiler.process(clause, **options) for clause in element.clauses)
    # A time is a text such as 2026-01-31 14:05:00.000000. The fraction is cut off first, because strftime rounds it:
    # .9995 would be the next second.
    seconds = f"(strftime('%s', substr({late}, 1, 19)) - strftime('%s', substr({early}, 1, 19)))"
    return f"({seconds} * 1000000 + substr({late}, 21) - substr({early}, 21))"


LENGTHS: Final[Mapping[str, Column]] = {
    "wait": microseconds_between(AsyncTask.created_at, AsyncTask.started_at),
    "run": microseconds_between(AsyncTask.started_at, AsyncTask.completed_at),
}
"""Microseconds from a task's creation to its first start, and from there to its end, including retries and their
waits."""
_COLUMNS: Final = {
    **{column.search: column.name for column in columns.TASK if column.search is not None},
    "since": "created_at",
    "until": "created_at",
}
_ATTEMPT_COLUMNS: Final = {column.search: column.name for column in columns.ATTEMPT if column.search is not None}
_INDEXED_EQUAL: Final = frozenset(
    {"id", "root", "parent", "trace", "customer", "created_by", "name", "error", "status"}
)
_INDEXED_RANGE: Final = frozenset({"created", "since", "until"})


def conditions(search: Filter, dialect: str, scope: Scope = ALL) -> Conditions:
    """The conditions of the filter on rows of `AsyncTask` in ``scope``, on ``dialect`` (postgresql, sqlite, mysql,
    mariadb). That the rows are in it is not one of them: it says which attempts a search may look into."""
    result = Conditions([], [])
    for term in map(_positive, search.terms):
        condition = sa.or_(*(_value(term, value, dialect, scope) for value in term.values))
        if term.negated:
            condition = sa.not_(sa.func.coalesce(condition, sa.false()))
        (result.indexed if _is_indexed(term) else result.scanned).append(condition)
    return result


def _positive(term: Term) -> Term:
    """The term; one that excludes statuses becomes a term for all other statuses, which an index leads to."""
    if term.key != "status" or not term.negated or not all(value.operator == "=" for value in term.values):
        return term
    others = sorted(set(SHOWN) - {value.value for value in term.values})
    return term._replace(values=tuple(Value("=", status) for status in others), negated=False) if others else term


def _is_indexed(term: Term) -> bool:
    if term.key in _INDEXED_RANGE:
        return True
    if term.negated or term.key not in _INDEXED_EQUAL:
        return False
    return all(value.operator == "=" and _has_index(term.key, value.value) for value in term.values)


def _has_index(key: str, value: Any) -> bool:
    if not isinstance(value, str) or not glob.is_glob(value):
        return True
    return KEYS[key].is_id and bool(glob.beginning(value))


def _value(term: Term, value: Value, dialect: str, scope: Scope) -> Condition:
    if term.key in _ATTEMPT_COLUMNS:
        return _in_attempts(getattr(AsyncTaskAttempt, _ATTEMPT_COLUMNS[term.key]), value, dialect, scope)
    if term.key == "periodic":
        return at_path(AsyncTask.content, ("periodic_task_name",), value, dialect)
    if term.key in LENGTHS:
        return _compare(LENGTHS[term.key], value)
    if KEYS[term.key].is_owner:
        return _of_owner(term.key, value, dialect)
    column = getattr(AsyncTask, _COLUMNS[term.key])
    if term.key in JSON_KEYS:
        return at_path(column, term.path, value, dialect)
    if KEYS[term.key].read is not None:
        return _compare(column, value)
    if term.key == "message" and value.operator == "=":
        value = value._replace(value=f"*{value.value}*")
    if term.key == "id" and value.operator == "=" and not glob.is_glob(value.value):
        return begins_with(column, glob.literal(value.value))
    return _text(column, value, dialect, bytewise=KEYS[term.key].is_id)


def _in_attempts(column: Column, value: Value, dialect: str, scope: Scope) -> Condition:
    """Whether any attempt that is seen in the scope has the value; with ``none``, whether no such attempt has any."""
    sought = value._replace(operator="any") if value.operator == "none" else value
    exists = sa.exists().where(seen_of(scope, AsyncTask), _text(column, sought, dialect))
    return sa.not_(exists) if value.operator == "none" else exists


def _of_owner(key: str, value: Value, dialect: str) -> Condition:
    """Ids are texts; comparisons find those that are numbers."""
    if value.operator not in ("=", "none", "any"):
        return _compare(getattr(AsyncTask, key), value)
    if key == "created_by":
        return _text(AsyncTask.created_by_key, value, dialect, bytewise=True)
    if value.operator == "none":
        return sa.not_(HAS_CUSTOMER)
    return (
        HAS_CUSTOMER
        if value.operator == "any"
        else sa.and_(_text(AsyncTask.customer_key, value, dialect, bytewise=True), HAS_CUSTOMER)
    )


def begins_with(column: Column, prefix: str) -> Condition:
    """Whether a text that is compared byte by byte begins with ``prefix``: a range, which an index serves."""
    after = _after(prefix)
    in_range = sa.and_(column >= prefix, column < after if after else sa.true())
    # MySQL ignores blanks at the end.
    return sa.and_(in_range, _like(column, f"{glob.like_literal(prefix)}%")) if prefix.endswith(" ") else in_range


def _like(column: Column, pattern: str) -> Condition:
    """LIKE without an index: with one, MariaDB 10.11 misses texts with characters above U+FFFF."""
    return (column + "").like(pattern, escape=glob.ESCAPE)


def _after(prefix: str) -> str:
    """The first text that sorts after all texts that begin with ``prefix``; empty: there is none."""
    while prefix:
        prefix, code = prefix[:-1], ord(prefix[-1]) + 1
        if code <= 0x10FFFF:
            return prefix + chr(0xE000 if code == 0xD800 else code)  # surrogates lie between them
    return ""


_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Condition]]] = {"=": eq, ">": gt, ">=": ge, "<": lt, "<=": le}


def _presence(column: Column, value: Value) -> Condition:
    return column.is_(None) if value.operator == "none" else column.is_not(None)


def _compare(column: Column, value: Value) -> Condition:
    if value.operator in ("none", "any"):
        return _presence(column, value)
    if value.operator == "..":
        return sa.and_(column >= _plain(value.value), column <= _plain(value.high))
    return _COMPARISONS[value.operator](column, _plain(value.value))


def _plain(value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        value //= dt.timedelta(microseconds=1)
    # PostgreSQL refuses to compare an integer column with a larger number, unless it is typed as a BIGINT.
    return sa.literal(value, sa.BigInteger()) if isinstance(value, int) else value


def _text(column: Column, value: Value, dialect: str, *, bytewise: bool = False) -> Condition:
    if value.operator in ("none", "any"):
        return _presence(column, value)
    is_mysql = dialect in ("mysql", "mariadb")
    if not glob.is_glob(value.value):
        text = glob.literal(value.value)
        equal = column == text
        # MySQL ignores blanks at the end.
        return sa.and_(equal, _like(column, glob.like_literal(text))) if is_mysql else equal
    if bytewise and (prefix := glob.beginning(value.value)):
        return begins_with(column, prefix)
    if dialect == "sqlite":
        return sqlite_glob(column, value.value)
    pattern = glob.like(value.value)
    return _like(column, pattern) if is_mysql else column.like(pattern, escape=glob.ESCAPE)
