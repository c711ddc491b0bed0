"""Encoded events sorted into rounds, each with one event a task, without those that a later one says again.

Pure, and without decoding: it looks only at how `event` begins an event. An upsert takes a row once; and the start
of a run that has ended is all in its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from celery_asynctask.core.event import decode, encode

_ID: Final = b'{"id":"'
_ID_END: Final = b'","'
"""Inside of a string a quote comes behind a backslash."""
_KIND: Final = b'"kind":"'
_START: Final = b'"kind":"started","at":'
_CARRIED: Final = b',"started":'


def rounds(lines: Iterable[bytes]) -> list[list[bytes]]:
    """The events in as few rounds as there are events of one task; every task of a round is in the one before it, too.
    Raises `ValueError` for what is no event."""
    found: list[dict[bytes, bytes]] = []
    for line in lines:
        if not line.startswith(_ID):
            line = _in_order(line)  # noqa: PLW2901
        task_id = line[7 : line.index(_ID_END, 7)]
        start: bytes | None = None
        for one in found:
            told = one.setdefault(task_id, line)
            if told is line:
                break
            if start is None:
                start, rest = _start(line)
            if start and told.startswith(start) and line.startswith(told[len(start) : -1], rest):
                one[task_id] = line
                break
        else:
            found.append({task_id: line})
    return [list(one.values()) for one in found]


def _start(end: bytes) -> tuple[bytes, int]:
    """How the start begins that an end carries, and where in the end the rest of it is; of another event nothing."""
    at = end.find(_CARRIED)
    if at < 0:
        return b"", 0
    return end[: end.rfind(_KIND, 0, at)] + _START, at + len(_CARRIED)


def _in_order(line: bytes) -> bytes:
    """An event whose id does not come first. Raises `ValueError`."""
    event = decode(line)
    return encode({"id": event["id"], **event})
