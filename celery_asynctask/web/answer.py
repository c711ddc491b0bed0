"""Answers with an ETag, and what makes an idle poll cost one read.

The ETag is a digest of the answer, so it tells nobody of what the answer does not show. Beside it we keep at which
revision of the store the answer was made: while that is the newest, the answer cannot be another, and a client that
has it is told so without making it again.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from threading import Lock
from typing import Final, TypeVar

from fastapi import Request, Response

from celery_asynctask.queries.reader import Reader, revision

S = TypeVar("S")

MOST_KEPT: Final = 1000
"""Answers whose ETags are kept."""
_TAG: Final = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class Answers:
    """Answers of one server process; used by many threads."""

    def __init__(self) -> None:
        self._tags: OrderedDict[Hashable, tuple[int, str]] = OrderedDict()
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
        lasting: bool = True,
        media_type: str = "application/json",
        headers: Mapping[str, str] = {},
    ) -> Response:
        """What ``make`` makes of what ``read`` gives, `Reader.session` or `Reader.connection`, or 304 where the client
        has it already. ``key`` names the answer and who may see it; not ``lasting`` is one that changes as time goes
        by. The answer may be of a later revision than the one it is kept with: then that is not the newest, and it is
        made again."""
        asked = request.headers.get("if-none-match", "")
        at = None
        if lasting and asked:
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
            if at != self._newest:  # nobody asks for an older one, and one that is newer is of before a setting back
                return
            self._tags[key] = (at, tag)
            self._tags.move_to_end(key)
            if len(self._tags) > MOST_KEPT:
                self._tags.popitem(last=False)


def _matches(asked: str, tag: str) -> bool:
    return asked.strip() == "*" or tag in _TAG.findall(asked)


def _unchanged(tag: str, headers: Mapping[str, str]) -> Response:
    return Response(status_code=304, headers={**headers, "ETag": tag})


def json_response(body: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is not asked for twice."""
    return Response(body.encode(), status, media_type="application/json", headers=headers)
