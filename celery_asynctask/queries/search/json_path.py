"""Compares the value at a path of a JSON column, in the dialect of each database, with the same results on all.

Numbers are compared as numbers (``17`` finds 17, 17.0 and the text "17"), booleans with the words true and false, and
texts as texts; a glob matches texts only. Lists and mappings count as present, but equal nothing. One exception:
MariaDB finds no key that begins with a minus.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from json import dumps
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, and_, cast, false, func, not_, or_
from sqlalchemy.dialects import postgresql

from celery_asynctask.queries.search import glob
from celery_asynctask.queries.search.filter import Value, is_index

Condition = ColumnElement[bool]
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,399})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?")
_MYSQL_NUMBERS: Final = ("INTEGER", "UNSIGNED INTEGER", "DOUBLE", "DECIMAL")


def at_path(column: Any, path: Sequence[str], value: Value, dialect: str) -> Condition:
    """Whether the JSON at ``path`` matches ``value``, on ``dialect``; never null."""
    match = {"postgresql": _postgresql, "sqlite": _sqlite}.get(dialect, _mysql)
    matches = func.coalesce(match(column, path, value), false())
    return not_(matches) if value.operator == "none" else matches


def integer(text: str) -> int | None:
    """The integer that a text is in JSON; None: it is not one."""
    if not _NUMBER.fullmatch(text) or (number := Decimal(text)) != number.to_integral_value():
        return None
    return int(number)


def real(text: str) -> float | None:
    """The float that a text is in JSON; None: it is not one, or not exactly (0.1 is, 0.10000000000000001 is not)."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if number - number == 0 and Decimal(repr(number)) == Decimal(text) else None


def _postgresql(column: Any, path: Sequence[str], value: Value) -> Condition:
    at = column
    for name in path:  # -> with a name finds keys only, #> with a number finds keys and indexes
        at = at.op("#>")(cast([name], postgresql.ARRAY(Text))) if is_index(name) else at.op("->")(cast(name, Text))
    kind = func.jsonb_typeof(at)
    if value.operator in ("none", "any"):
        return kind != "null"
    if glob.is_glob(value.value):
        text = at.op("#>>", return_type=Text())(cast([], postgresql.ARRAY(Text)))
        return and_(kind == "string", text.like(glob.like(value.value), escape=glob.ESCAPE))
    text = glob.literal(value.value)
    readings: list[Any] = [text, _boolean(text), integer(text), real(text)]
    return or_(*(at == cast(reading, postgresql.JSONB) for reading in readings if reading is not None))


def _sqlite(column: Any, path: Sequence[str], value: Value) -> Condition:
    return or_(*(_sqlite_at(column, pointer, value) for pointer, _ in _pointers(path, _sqlite_name)))


def _sqlite_at(column: Any, pointer: str, value: Value) -> Condition:
    kind, member = func.json_type(column, pointer), func.json_extract(column, pointer)
    if value.operator in ("none", "any"):
        return kind != "null"
    if glob.is_glob(value.value):
        return and_(kind == "text", sqlite_glob(member, value.value))
    text = glob.literal(value.value)
    readings = [and_(kind == "text", member == text)]
    if _boolean(text) is not None:
        readings.append(kind == text)
    if (number := integer(text)) is not None:  # for two paths it returns a list as text, with all digits of a number
        readings.append(func.json_extract(column, pointer, pointer) == f"[{number},{number}]")
    if (fraction := real(text)) is not None:
        readings.append(and_(kind == "real", member == fraction))
    return or_(*readings)


def sqlite_glob(column: Any, text: str) -> Condition:
    """Whether a text matches a glob, on SQLite, whose LIKE ignores case."""
    if (sought := glob.contained(text)) is not None:
        return func.instr(column, sought) > 0
    matches: Condition = column.bool_op("GLOB")(text)
    return matches


def _mysql(column: Any, path: Sequence[str], value: Value) -> Condition:
    alternatives = []
    for pointer, lists in _pointers(path, _quoted_name):
        # MySQL takes any value for a list with that value in it.
        are_lists = [func.json_type(func.json_extract(column, parent)) == "ARRAY" for parent in lists]
        alternatives.append(and_(*are_lists, _mysql_at(func.json_extract(column, pointer), value)))
    return or_(*alternatives)


def _mysql_at(member: Any, value: Value) -> Condition:
    kind, text_of = func.json_type(member), func.json_unquote(member)
    if value.operator in ("none", "any"):
        return kind != "NULL"
    if glob.is_glob(value.value):
        return and_(kind == "STRING", text_of.like(glob.like(value.value), escape=glob.ESCAPE))
    text = glob.literal(value.value)
    readings = [and_(kind == "STRING", text_of.like(glob.like_literal(text), escape=glob.ESCAPE))]
    if _boolean(text) is not None:
        readings.append(and_(kind == "BOOLEAN", text_of == text))
    if (number := integer(text)) is not None:
        readings.append(and_(kind.in_(_MYSQL_NUMBERS), text_of == str(number)))
    if (fraction := real(text)) is not None:
        # MariaDB calls 1e+20 an integer.
        is_equal = text_of.op("+")(0.0) == fraction
        readings.append(and_(kind.in_(_MYSQL_NUMBERS), text_of.regexp_match("[.eE]"), is_equal))
    return or_(*readings)


def _boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text)


def _pointers(path: Sequence[str], name_of: Any) -> list[tuple[str, list[str]]]:
    """Every pointer in the database's own syntax that ``path`` can mean, each with the pointers to its lists."""
    ways = [(True, False) if is_index(name) else (False,) for name in path]
    pointers = []
    for chosen in product(*ways):
        pointer, lists = "$", []
        for name, as_index in zip(path, chosen, strict=True):
            if as_index:
                lists.append(pointer)
            pointer += f"[{name}]" if as_index else name_of(name)
        pointers.append((pointer, lists))
    return pointers


def _quoted_name(name: str) -> str:
    """A name as our JSON writes it: some versions compare it without decoding escapes."""
    return f".{dumps(name)}"


def _sqlite_name(name: str) -> str:
    """A name in quotes, or without them if it contains one: SQLite before 3.45 knows no escaped quote."""
    quoted = dumps(name)
    return f".{quoted[1:-1]}" if '"' in name and not set(".[") & set(name) else f".{quoted}"
