"""The control pages of a journal directory: what they say beyond the segments.

The start of a run that goes on becomes an event. Of a process that is gone, all of whose segments are stored, the page
is its last word: how many events it had numbered, what it dropped, which runs it had in hand. It goes into the ledger
in one transaction, and the process is settled. A process without a page is never settled: what it held in its memory,
or had on a disk that is gone, nobody knows.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery_asynctask.core.accounting import dropped_of
from celery_asynctask.core.event import decode
from celery_asynctask.core.logs import logger_of
from celery_asynctask.core.text import reason
from celery_asynctask.journal import Directory, Segment
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.page import View, merged, read
from celery_asynctask.recorder.batch import Part, nothing_at, store_accounts
from celery_asynctask.store import Position, Store

logger = logger_of("celery_asynctask.recorder")

_SURELY_OTHER: Final = 1.0
"""Seconds after which a file that is written to has another time of change, whatever the file system's resolution."""
_BRIEF: Final = 100_000
"""Microseconds within which most runs are over: their one event saves the recorder a transaction at each look."""
_AT_ONCE: Final = 200
"""Processes that are settled in one transaction."""


class _Seen(NamedTuple):
    """What pages were like when they were read."""

    stamps: tuple[tuple[int, int, int], ...]
    is_lasting: bool
    """Whether they have not changed as long as their stamps are the same."""
    view: View


class _Told(NamedTuple):
    """When a start was stored."""

    at: float
    """By our clock."""
    is_again: bool
    """Whether it was stored twice: a failover may have lost it the first time, and nothing else would tell."""


class _Settled(NamedTuple):
    """A process whose last word is stored."""

    view: View | None
    at: float
    """Since when, by our clock."""


class Pages:
    """The pages of a journal directory, for its recorder. Iterates over the processes that have one."""

    def __init__(self, directory: Directory, seconds: float) -> None:
        """``seconds``: how long what is stored is kept."""
        self._directory = directory
        self._seconds = seconds
        self._paths: dict[str, list[Path]] = {}
        self._seen: dict[str, _Seen] = {}
        self._told: dict[str, dict[bytes, _Told]] = {}
        """The starts of runs in hand that are stored, by process."""
        self._settled: dict[str, _Settled] = {}
        self._ended: dict[str, Mapping[str, Any]] = {}
        """Descriptions of processes of earlier versions, which have no page, of which a stored segment has no lock."""
        self._logged: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def forget(self) -> None:
        """Say everything again: the database may have lost it."""
        self._told.clear()
        self._settled.clear()

    def see(self) -> None:
        """Look which pages there are. Raises `OSError`."""
        self._paths = self._directory.pages()
        for known in (self._seen, self._told):
            for source in set(known).difference(self._paths):
                del known[source]

    def numbered(self, source: str) -> int | None:
        """How many events a process has numbered; None: not known."""
        view = self._view(source)
        return None if view is None else view.numbered

    def described(self, description: dict[str, Any]) -> dict[str, Any]:
        """The description of a process from a segment, with what it has dropped since then."""
        view = self._view(description["source"])
        dropped = description["dropped"]
        if view is None or sum(view.dropped.values()) <= sum((dropped or {}).values()):
            return description
        return {**description, "dropped": view.dropped}

    def has_ended(self, description: Mapping[str, Any]) -> None:
        """A segment of a process of an earlier version is stored, and nobody writes to it any more."""
        self._ended[description["source"]] = description

    def go_on(self, sources: Iterable[str]) -> None:
        """Events of these processes are stored: a last word that was stored before was not the last."""
        for source in sources:
            self._settled.pop(source, None)

    def living(self, others: Collection[str]) -> set[str]:
        """The processes that have a page open, except ``others``: a process may be unable to begin a segment. Raises
        `OSError`."""
        return {
            source
            for source, paths in self._paths.items()
            if source not in others and any(map(is_being_written, paths))
        }

    def tell(
        self, store: Store, segments: Iterable[Segment], positions: dict[str, Position], *, at_once: bool = True
    ) -> None:
        """Store the starts of runs that living processes have in hand; unless ``at_once``, those that may be over in a
        moment have time. Raises like `Store.write`, and `OSError`."""
        now = time.monotonic()
        new: dict[str, View] = {}
        told: list[tuple[str, bytes, _Told]] = []
        there = {segment.source for segment in segments}
        for source in self._paths.keys() - self._settled.keys():
            view = self._view(source) if source in there or self._has_run(source) else None
            if view is None:
                continue
            in_hand = frozenset(view.starts.values())
            known = self._told[source] = {
                start: before for start, before in self._told.get(source, {}).items() if start in in_hand
            }
            news = [
                (source, start, _Told(now, start in known))
                for start in in_hand
                if (
                    not (known[start].is_again or now - known[start].at < self._seconds)
                    if start in known
                    else at_once or not _has_just_begun(start)
                )
            ]
            told += news
            if news and not known:
                new[source] = view
        if unknown := new.keys() - positions:
            positions |= store.stored(unknown)
        # An attempt needs its process.
        parts = [
            self._part(source, view, Position()) for source, view in new.items() if positions[source] == Position()
        ]
        if told:
            positions |= store_accounts(store, parts, positions, [start for _, start, _ in told])
            for source, start, stored in told:
                self._told[source][start] = stored

    def _has_run(self, source: str) -> bool:
        """Whether a process without a segment has a run in hand. Raises `OSError`."""
        view = self._view(source)
        return view is not None and bool(view.starts) and any(map(is_being_written, self._paths[source]))

    def settle(self, store: Store, segments: Iterable[Segment], positions: dict[str, Position]) -> None:
        """Store the last word of the processes that are gone and have no ``segments``. These must have been listed
        after `see`: whoever has written something has a segment. Raises like `Store.write`, and `OSError`."""
        there = {segment.source for segment in segments}
        views: dict[str, View | None] = {}
        for source in self._paths.keys() - there:
            view = self._view(source)
            if view is None or ((settled := self._settled.get(source)) is not None and settled.view == view):
                continue
            if not any(map(is_being_written, self._paths[source])):
                views[source] = view
        views |= dict.fromkeys(self._ended.keys() - there - self._paths.keys() - self._settled.keys())
        sources = sorted(views)
        for first in range(0, len(sources), _AT_ONCE):
            self._settle(store, {source: views[source] for source in sources[first : first + _AT_ONCE]}, positions)

    def _settle(self, store: Store, views: Mapping[str, View | None], positions: dict[str, Position]) -> None:
        if unknown := views.keys() - positions:
            positions |= store.stored(unknown)
        already = store.settled(views)
        parts: list[Part] = []
        starts: list[bytes] = []
        for source, view in views.items():
            position = positions[source]
            told = 0 if view is None else sum(view.dropped.values())
            if view is not None and source not in already and not _says_something(view):
                continue  # it has recorded nothing
            is_told = view is None or (
                position.last_number >= view.numbered and sum(dropped_of(position.dropped).values()) >= told
            )
            if already.get(source) and is_told:
                continue
            parts.append(self._part(source, view, position)._replace(settled=True))
            starts += () if view is None else view.starts.values()
        if parts:
            positions |= store_accounts(store, parts, positions, starts)
        now = time.monotonic()
        self._settled |= {source: _Settled(view, now) for source, view in views.items()}
        for source in views:
            self._told.pop(source, None)

    def look(self, store: Store, segments: Iterable[Segment], positions: dict[str, Position]) -> None:
        """Store what processes dropped and wrote nothing after, and remove the pages of those that the database has had
        settled for long enough. Raises like `Store.write`, and `OSError`."""
        parts = []
        for source in {segment.source for segment in segments}.intersection(self._paths, positions):
            view, position = self._view(source), positions[source]
            if view is not None and sum(view.dropped.values()) > sum(dropped_of(position.dropped).values()):
                parts.append(self._part(source, view, position))
        if parts:
            positions |= store_accounts(store, parts, positions, [])
        long_ago = time.monotonic() - self._seconds
        due = [source for source, settled in self._settled.items() if settled.at <= long_ago]
        if not due:
            return
        has = store.settled(due)
        for source in due:
            settled = self._settled.pop(source)
            is_known = has.get(source, settled.view is None or not _says_something(settled.view))
            if not is_known or any(map(is_being_written, self._paths.get(source, ()))):
                continue  # the database has lost it, or it lives: it is settled again with the next batch
            self._ended.pop(source, None)
            self._remove(source)

    def _remove(self, source: str) -> None:
        for path in self._paths.pop(source, []):
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                self._paths.setdefault(source, []).append(path)
                self._settled[source] = _Settled(self._view(source), time.monotonic())
                self._log_once(path, exc, "remove")

    def _part(self, source: str, view: View | None, position: Position) -> Part:
        """The account of a process, without events."""
        if view is None:
            return Part(self._ended[source], position.segment, nothing_at(position))
        guess = {"host": socket.gethostname(), "pid": 0, "role": "unknown", "at": _changed(self._paths[source])}
        description = {**guess, **view.description, "source": source, "journal": self._directory.id}
        description["dropped"] = view.dropped
        return Part(description, position.segment, nothing_at(position), numbered=view.numbered)

    def _view(self, source: str) -> View | None:
        """What the pages of a process say now; None: there is none that can be read."""
        paths = self._paths.get(source, [])
        seen = self._seen.get(source)
        try:
            stamps = tuple(_stamp(path.stat()) for path in paths)
            if seen is not None and seen.is_lasting and seen.stamps == stamps:
                return seen.view
            now = time.time()
            views = [one for path in paths if (one := read(path)) is not None]
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._log_once(paths[0], exc, "read")
            return None
        if (view := merged(views)) is None:
            return None
        is_lasting = all(now - changed / 1e9 > _SURELY_OTHER for changed, _, _ in stamps)
        self._seen[source] = _Seen(stamps, is_lasting, view)
        return view

    def _log_once(self, path: Path, exc: OSError, action: str) -> None:
        if path.name not in self._logged:
            self._logged.add(path.name)
            logger.error(
                "celery-asynctask cannot %s the control page %s: %s. Make it readable, and its directory writable, for "
                "this user.",
                action,
                path,
                reason(exc),
            )


def _has_just_begun(start: bytes) -> bool:
    try:
        return 0 <= time.time_ns() // 1000 - decode(start)["at"] < _BRIEF
    except (ValueError, KeyError, TypeError):
        return False


def _says_something(view: View) -> bool:
    return bool(view.numbered or view.starts or view.dropped)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _changed(paths: Iterable[Path]) -> int:
    """When files were changed, in microseconds since the epoch."""
    for path in paths:
        try:
            return path.stat().st_mtime_ns // 1000
        except OSError:
            continue
    return 0
