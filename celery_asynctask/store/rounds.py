"""Sorts encoded events into rounds, each with at most one event of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from celery_asynctask.core.event import decode, encode

# How an event encoded by `core.event` begins.
_ID: Final = b'{"id":"'
_ID_END: Final = b'","'
"""Unambiguous: inside a string, a backslash precedes every quote."""
_KIND: Final = b'"kind":"'
_START: Final = b'"kind":"started","at":'
_CARRIED: Final = b',"started":'


def rounds(lines: Iterable[bytes]) -> list[list[bytes]]:
    """Sort encoded events into as few rounds as possible, with at most one event of a task in each, because an upsert
    accepts a row only once. Every task of a round is also in the round before it. A start is left out if a later
    event, the end of the same attempt, carries all of it.

    Nothing is decoded: only the beginning of each event is read, as `core.event` writes it. Raises `ValueError` for
    anything that is not an event.
    """
    by_round: list[dict[bytes, bytes]] = []
    for line in lines:
        if not line.startswith(_ID):
            line = _in_order(line)  # noqa: PLW2901
        task_id = line[7 : line.index(_ID_END, 7)]
        start: bytes | None = None
        for lines_by_task in by_round:
            earlier = lines_by_task.setdefault(task_id, line)
            if earlier is line:
                break
            if start is None:
                start, rest = _start(line)
            if start and earlier.startswith(start) and line.startswith(earlier[len(start) : -1], rest):
                lines_by_task[task_id] = line
                break
        else:
            by_round.append({task_id: line})
    return [list(lines_by_task.values()) for lines_by_task in by_round]


def _start(end: bytes) -> tuple[bytes, int]:
    """The beginning of the start that an end carries, and where in the end its rest lies; empty for other events."""
    at = end.find(_CARRIED)
    if at < 0:
        return b"", 0
    return end[: end.rfind(_KIND, 0, at)] + _START, at + len(_CARRIED)


def _in_order(line: bytes) -> bytes:
    """The event with its id moved to the front. Raises `ValueError`."""
    event = decode(line)
    return encode({"id": event["id"], **event})
