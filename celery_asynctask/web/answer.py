"""Answers: rows as the JSON of the API, with an ETag, and what makes an idle poll cost one read.

Names are in camelCase, times in UTC, values the text that the database has.

The ETag is a digest of the answer, so it tells nobody of what the answer does not show. Beside it we keep at which
revision of the store the answer was made: while that is the newest, the answer cannot be another, and a client that
has it is told so without making it again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from pydantic.alias_generators import to_camel

from celery_asynctask.core.columns import VALUES
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.text import jsonable
from celery_asynctask.queries.reader import ATTEMPT_COLUMNS, TASK_COLUMNS, Reader, revision
from celery_asynctask.queries.types import AttemptRow, TaskRow
from celery_asynctask.web.memory import Latest

S = TypeVar("S")

MAX_CACHED: Final = 1000
"""Answers whose ETags are kept."""
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Answers:
    """Answers of one server process; used by many threads."""

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
        """What ``make`` makes of what ``read`` gives, `Reader.session` or `Reader.connection`, or 304 where the client
        has it already. ``key`` names the answer and who may see it; not ``lasting`` is one that changes as time goes
        by. The answer may be of a later revision than the one it is kept with: then that is not the newest, and it is
        made again."""
        asked = request.headers.get("if-none-match", "")
        at = None
        if cacheable and asked:
            known = self._newest
            with reader.connection(consistent=False) as connection:
                at = revision(connection)
            kept = self._kept(key, at, known)
            if kept is not None and _matches(asked, kept):
                return _unchanged(kept, headers)
        with read(reader) as session:
            body = make(session).encode()
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if at is not None:
            self._keep(key, at, tag)
        if _matches(asked, tag):
            return _unchanged(tag, headers)
        return Response(body, media_type=media_type, headers={**headers, "ETag": tag})

    def _kept(self, key: Hashable, at: int | None, known: int) -> str | None:
        """The tag of the answer at a revision that was read when ``known`` was the newest."""
        with self._lock:
            if at is None:
                return None
            if at < known:  # the database was set back: what comes is not what was there at these numbers
                self._tags.clear()
                self._newest = at
            self._newest = max(self._newest, at)  # another thread may have read a newer one meanwhile
            made_at, tag = self._tags.get(key, (None, ""))
            return tag if made_at == at else None

    def _keep(self, key: Hashable, at: int, tag: str) -> None:
        with self._lock:
            if at == self._newest:  # nobody asks for an older one, and one that is newer is of before a setting back
                self._tags[key] = (at, tag)


def _matches(asked: str, tag: str) -> bool:
    return asked.strip() == "*" or tag in _TAG.findall(asked)


def _unchanged(tag: str, headers: Mapping[str, str]) -> Response:
    return Response(status_code=304, headers={**headers, "ETag": tag})


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=jsonable).encode


def document(fields: Mapping[str, object], **raw: str) -> str:
    """A JSON object of fields, by their names here, and of members that are JSON already."""
    text = _encode({to_camel(name): value for name, value in fields.items()})
    members = "".join(f'"{to_camel(name)}":{value},' for name, value in raw.items())
    return f"{{{members}{text[1:]}" if fields else f"{{{members.rstrip(',')}}}"


def array(documents: Iterable[str]) -> str:
    """A JSON array of documents."""
    return f"[{','.join(documents)}]"


_WRITE: Final[dict[type, Callable[[Any], str]]] = {
    str: json.encoder.encode_basestring,
    int: str,
    dt.datetime: lambda at: f'"{at.isoformat("T", "microseconds")[:26]}Z"',  # `rfc3339`, without a call more
    AsyncTaskStatus: lambda status: f'"{status.value}"',
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): lambda _: "null",
}
"""By the type of a column's value: a third of the time that an encoder takes which is asked row by row."""


def _members(names: Iterable[str], raw: Collection[str] = ()) -> list[tuple[str, bool]]:
    """What stands before the value of each column, and whether the value is JSON already."""
    return [(f'{"," if number else "{"}"{to_camel(name)}":', name in raw) for number, name in enumerate(names)]


def _row(row: TaskRow | AttemptRow, members: list[tuple[str, bool]]) -> str:
    parts = []
    for value, (before, is_json) in zip(row, members, strict=True):
        parts.append(before)
        parts.append(value if is_json and value is not None else _WRITE[type(value)](value))
    parts.append("}")
    return "".join(parts)


_TASK: Final = {
    True: _members(TASK_COLUMNS, VALUES),
    False: _members(name for name in TASK_COLUMNS if name not in VALUES),
}
_ATTEMPT: Final = _members(ATTEMPT_COLUMNS)


def task_document(row: TaskRow, *, values: bool) -> str:
    """A row with `reader.task_columns`."""
    return _row(row, _TASK[values])


def attempt_document(row: AttemptRow) -> str:
    """A row with `reader.attempt_columns`."""
    return _row(row, _ATTEMPT)


def json_response(fields: Mapping[str, object], status: int = 200) -> Response:
    """An answer that is not asked for twice: a `document` of fields."""
    return Response(document(fields).encode(), status, media_type="application/json")
