"""The directory of a journal, and its events."""

from __future__ import annotations

from pathlib import Path

from celery_asynctask.journal import Directory, Segment
from celery_asynctask.journal.frame import Chunk, read

STORE = "postgresql://h/shop"


def segments(path: Path) -> list[Segment]:
    return Directory(path, STORE).segments()


def events_in(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Number and data of every event in the directory, by process."""
    by_process: dict[str, list[tuple[int, bytes]]] = {}
    for segment in segments(path):
        chunk = Chunk([], [], [], 0, 0, 0, at_end=False)
        while not chunk.at_end:
            chunk = read(segment, chunk.end, 1_000_000, ended=True)
            assert chunk.damaged == []
            by_process.setdefault(segment.source, []).extend(zip(chunk.numbers, chunk.events, strict=True))
    return by_process
