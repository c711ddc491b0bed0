"""What is at a path of a JSON column, in the words of each database and with the same answer on all.

A number is compared as a number (``17`` finds 17, 17.0 and the text "17"), true and false by these words, a text as a
text; a glob looks into texts only. Lists and mappings are there, and equal nothing.
MariaDB itself finds no key that begins with a minus.
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
    """Whether what is at ``path`` is like ``value``, on ``dialect``; never null."""
    match = {"postgresql": _postgresql, "sqlite": _sqlite}.get(dialect, _mysql)
    found = func.coalesce(match(column, path, value), false())
    return not_(found) if value.operator == "none" else found


def integer(text: str) -> int | None:
    """The whole number that a text is to JSON."""
    if not _NUMBER.fullmatch(text) or (number := Decimal(text)) != number.to_integral_value():
        return None
    return int(number)


def real(text: str) -> float | None:
    """The float that a text is to JSON, exactly so: 0.1, and not 0.10000000000000001."""
    if not _NUMBER.fullmatch(text):
        return None
    found = float(text)
    return found if found - found == 0 and Decimal(repr(found)) == Decimal(text) else None


def _postgresql(column: Any, path: Sequence[str], value: Value) -> Condition:
    at = column
    for name in path:  # -> has names find keys only, #> has numbers find both
        at = at.op("#>")(cast([name], postgresql.ARRAY(Text))) if is_index(name) else at.op("->")(cast(name, Text))
    kind = func.jsonb_typeof(at)
    if value.operator in ("none", "any"):
        return kind != "null"
    if glob.is_glob(value.value):
        text = at.op("#>>", return_type=Text())(cast([], postgresql.ARRAY(Text)))
        return and_(kind == "string", text.like(glob.like(value.value), escape=glob.ESCAPE))
    text = glob.literal(value.value)
    like: list[Any] = [text, _boolean(text), integer(text), real(text)]
    return or_(*(at == cast(one, postgresql.JSONB) for one in like if one is not None))


def _sqlite(column: Any, path: Sequence[str], value: Value) -> Condition:
    return or_(*(_sqlite_at(column, pointer, value) for pointer, _ in _pointers(path, _sqlite_name)))


def _sqlite_at(column: Any, pointer: str, value: Value) -> Condition:
    kind, found = func.json_type(column, pointer), func.json_extract(column, pointer)
    if value.operator in ("none", "any"):
        return kind != "null"
    if glob.is_glob(value.value):
        return and_(kind == "text", found.bool_op("GLOB")(value.value))
    text = glob.literal(value.value)
    like = [and_(kind == "text", found == text)]
    if _boolean(text) is not None:
        like.append(kind == text)
    if (whole := integer(text)) is not None:  # of two paths it makes a list, in which numbers are as long as they are
        like.append(func.json_extract(column, pointer, pointer) == f"[{whole},{whole}]")
    if (number := real(text)) is not None:
        like.append(and_(kind == "real", found == number))
    return or_(*like)


def _mysql(column: Any, path: Sequence[str], value: Value) -> Condition:
    alternatives = []
    for pointer, lists in _pointers(path, _quoted_name):
        # To MySQL, anything is a list of itself.
        are_lists = [func.json_type(func.json_extract(column, one)) == "ARRAY" for one in lists]
        alternatives.append(and_(*are_lists, _mysql_at(func.json_extract(column, pointer), value)))
    return or_(*alternatives)


def _mysql_at(found: Any, value: Value) -> Condition:
    kind, text_of = func.json_type(found), func.json_unquote(found)
    if value.operator in ("none", "any"):
        return kind != "NULL"
    if glob.is_glob(value.value):
        return and_(kind == "STRING", text_of.like(glob.like(value.value), escape=glob.ESCAPE))
    text = glob.literal(value.value)
    like = [and_(kind == "STRING", text_of.like(glob.like_literal(text), escape=glob.ESCAPE))]
    if _boolean(text) is not None:
        like.append(and_(kind == "BOOLEAN", text_of == text))
    if (whole := integer(text)) is not None:
        like.append(and_(kind.in_(_MYSQL_NUMBERS), text_of == str(whole)))
    if (number := real(text)) is not None:
        # MariaDB calls 1e+20 an integer.
        like.append(and_(kind.in_(_MYSQL_NUMBERS), text_of.regexp_match("[.eE]"), text_of.op("+")(0.0) == number))
    return or_(*like)


def _boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text)


def _pointers(path: Sequence[str], name_of: Any) -> list[tuple[str, list[str]]]:
    """Every path in the databases' own words that ``path`` may mean, each with the paths of what must be a list."""
    ways = [(True, False) if is_index(name) else (False,) for name in path]
    found = []
    for chosen in product(*ways):
        pointer, lists = "$", []
        for name, as_index in zip(path, chosen, strict=True):
            if as_index:
                lists.append(pointer)
            pointer += f"[{name}]" if as_index else name_of(name)
        found.append((pointer, lists))
    return found


def _quoted_name(name: str) -> str:
    """As our JSON has it, which some versions compare without reading it."""
    return f".{dumps(name)}"


def _sqlite_name(name: str) -> str:
    """SQLite before 3.45 knows no quote in quotes; without them, it does."""
    quoted = dumps(name)
    return f".{quoted[1:-1]}" if '"' in name and not set(".[") & set(name) else f".{quoted}"
