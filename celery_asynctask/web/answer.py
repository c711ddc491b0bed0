"""Answers: rows as the JSON of the API, with an ETag, so that an idle poll costs one read.

Names are in camelCase, times in UTC, values the text that the database has.

The ETag is a digest of the answer, so it reveals nothing that the answer does not show. Beside it we keep the revision
of the store at which the answer was made: while that is the newest revision, the answer is unchanged, and a client that
has it gets a 304 without the answer being made again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from threading import Lock
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from pydantic.alias_generators import to_camel

from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.keys import is_of_earlier_execution
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.text import jsonable
from celery_asynctask.queries.reader import ATTEMPT_COLUMNS, TASK_COLUMNS, Parts, Reader, revision
from celery_asynctask.queries.types import AttemptRow, TaskRow
from celery_asynctask.web.memory import Latest

S = TypeVar("S")

MAX_CACHED: Final = 1000
"""ETags that are kept, one per answer."""
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Answers:
    """The ETags of one server process; used by many threads."""

    def __init__(self) -> None:
        self._tags: Latest[Hashable, tuple[int, str]] = Latest(MAX_CACHED)
        self._newest = 0
        self._lock = Lock()

    def answer(
        self,
        request: Request,
        reader: Reader,
        key: Hashable,
        make: Callable[[S], str],
        read: Callable[[Reader], AbstractContextManager[S]],
        *,
        cacheable: bool = True,
        media_type: str = "application/json",
        headers: Mapping[str, str] = {},
    ) -> Response:
        """The text that ``make`` makes of what ``read`` gives (`Reader.session` or `Reader.connection`), or a 304 where
        the client has it. ``key`` names the answer and who may see it; one that changes with time alone is not
        ``cacheable``. An answer may be of a later revision than the one it is kept with: that one is no longer the
        newest then, and the answer is made again."""
        if_none_match = request.headers.get("if-none-match", "")
        at = None
        if cacheable and if_none_match:
            known = self._newest
            with reader.connection(consistent=False) as connection:
                at = revision(connection)
            kept = self._kept(key, at, known)
            if kept is not None and _matches(if_none_match, kept):
                return _unchanged(kept, headers)
        with read(reader) as session:
            body = make(session).encode()
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if at is not None:
            self._keep(key, at, tag)
        if _matches(if_none_match, tag):
            return _unchanged(tag, headers)
        return Response(body, media_type=media_type, headers={**headers, "ETag": tag})

    def _kept(self, key: Hashable, at: int | None, known: int) -> str | None:
        """The tag of the answer at a revision, which was read when ``known`` was the newest; None: there is none."""
        with self._lock:
            if at is None:
                return None
            if at < known:  # the database was restored: its revisions to come are not those that had these numbers
                self._tags.clear()
                self._newest = at
            self._newest = max(self._newest, at)  # another thread may have read a newer one meanwhile
            made_at, tag = self._tags.get(key, (None, ""))
            return tag if made_at == at else None

    def _keep(self, key: Hashable, at: int, tag: str) -> None:
        with self._lock:
            if at == self._newest:  # an older one is never looked up; a newer one is from before a restore
                self._tags[key] = (at, tag)


def _matches(if_none_match: str, tag: str) -> bool:
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def _unchanged(tag: str, headers: Mapping[str, str]) -> Response:
    return Response(status_code=304, headers={**headers, "ETag": tag})


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=jsonable).encode


def document(fields: Mapping[str, object], **raw: str) -> str:
    """A JSON object of fields, by their Python names, and of members that are JSON text already."""
    text = _encode({to_camel(name): value for name, value in fields.items()})
    members = "".join(f'"{to_camel(name)}":{value},' for name, value in raw.items())
    return f"{{{members}{text[1:]}" if fields else f"{{{members.rstrip(',')}}}"


def array(documents: Iterable[str]) -> str:
    """A JSON array of documents."""
    return f"[{','.join(documents)}]"


_WRITE: Final[dict[type, Callable[[Any], str]]] = {
    str: json.encoder.encode_basestring,
    int: str,
    dt.datetime: lambda at: f'"{at.isoformat("T", "microseconds")[:26]}Z"',  # `rfc3339`, inlined for speed
    AsyncTaskStatus: lambda status: f'"{status.value}"',
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): lambda _: "null",
}
"""By the type of a column's value: takes a third of the time of a JSON encoder called for each row."""


def _members(names: Iterable[str], raw: Collection[str] = ()) -> list[tuple[str, bool]]:
    """The text before the value of each column, and whether the value is JSON text already."""
    return [(f'{"," if number else "{"}"{to_camel(name)}":', name in raw) for number, name in enumerate(names)]


def _row(row: Iterable[object], members: list[tuple[str, bool]]) -> str:
    parts = []
    for value, (before, is_json) in zip(row, members, strict=True):
        parts.append(before)
        parts.append(value if is_json and isinstance(value, str) else _WRITE[type(value)](value))
    parts.append("}")
    return "".join(parts)


@cache
def _task(parts: Parts) -> list[tuple[str, bool]]:
    return _members(parts.of(TASK_COLUMNS), VALUES)


@cache
def _attempt(parts: Parts) -> list[tuple[str, bool]]:
    return _members((*parts.of(ATTEMPT_COLUMNS), "earlier_execution"))


def task_document(row: TaskRow, parts: Parts) -> str:
    """A row of `reader.task_columns` as JSON."""
    return _row(row, _task(parts))


def attempt_document(row: AttemptRow, order_key: str, parts: Parts) -> str:
    """A row of `reader.attempt_columns` as JSON; ``order_key`` is that of its task."""
    *shown, run_key = row
    return _row((*shown, is_of_earlier_execution(run_key, order_key)), _attempt(parts))


def json_response(fields: Mapping[str, object], status: int = 200) -> Response:
    """A `document` of fields as an answer without an ETag."""
    return Response(document(fields).encode(), status, media_type="application/json")
