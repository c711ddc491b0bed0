"""A plain model of the journal's ledger: the fate of every event, from every byte that was written.

The model keeps each segment as it was last seen, with the number of the event that each byte belongs to. So after any
damage it knows for each event whether it is intact, hidden in a damaged line, or gone without a trace. An event is
accepted when ``append`` was called with it, and so is the torn line of a process that is killed while it writes. Events
in the memory of a killed process were never in the journal: they are `Source.lost`. Of these, the ledger knows the
numbers, from the process's control page, once the process is settled; so it does of those that a process dropped when
it ended, after its page was closed.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from celery_asynctask.core.event import decode
from celery_asynctask.journal import Journal, frame
from celery_asynctask.journal.names import KEPT, SUFFIX
from celery_asynctask.store import Position

GARBAGE = -1
"""Owner of a byte that no process wrote; 0 is the description of the segment."""


@dataclass
class Scan:
    """Bytes at the beginnings of segments."""

    whole: dict[int, bytes] = field(default_factory=dict)
    """Undamaged frames by number; 0 is the description."""
    damaged: list[bytes] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    """Numbers of the events that have at least a byte in a damaged line."""
    extra: int = 0
    """Damaged lines beyond one for each hidden event: garbage, descriptions, halves."""
    joined: int = 0
    """Hidden events beyond one for each damaged line: their line breaks are gone."""


class Image:
    """A segment as it was last seen."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.data = b""
        self.owners: list[int] = []
        self.dropped: dict[str, int] = {}
        """Its description, as it is or was before it was damaged."""
        self.drained = False
        """Whether the recorder has removed it."""
        self.removed = False
        """Whether somebody else has."""

    def grow(self, data: bytes, torn: int) -> None:
        """The writer has appended complete frames and, where it was killed, a part of the frame numbered ``torn``."""
        assert data.startswith(self.data), f"{self.path.name} has changed below its end"
        *lines, rest = data[len(self.data) :].split(b"\n")
        for line in lines:
            number, content = frame.unpack(line)
            if number == 0:
                self.dropped = json.loads(content)["dropped"]
            self.owners += [number] * (len(line) + 1)
        assert torn or not rest, f"{self.path.name} ends in the middle of a frame"
        self.owners += [torn] * len(rest)
        self.data = data

    def scan(self, end: int, into: Scan) -> bool:
        """Count what lies before ``end``. Returns whether the description is still there, at the beginning."""
        at, described = 0, False
        *lines, rest = self.data[:end].split(b"\n")
        for line in [*lines, rest] if rest else lines:
            try:
                number, content = frame.unpack(line if at + len(line) < end else b"")  # the last is cut
            except ValueError:
                into.damaged.append(line)
                owners = {owner for owner in self.owners[at : at + len(line)] if owner > 0}
                into.extra += len(owners & into.hidden) + (not owners)
                into.joined += max(0, len(owners) - 1)
                into.hidden |= owners
            else:
                assert number not in into.whole or not number, f"event {number} is in the journal twice"
                into.whole[number] = content
                described |= number == 0 and at == 0
            at += len(line) + 1
        return described


def flip(data: bytes, end: int, rng: Random) -> tuple[int, int, bytes]:
    """Which bytes behind ``end`` are replaced, and by which; the next three do the same."""
    at = rng.randrange(end, len(data))
    return at, at + 1, bytes([data[at] ^ rng.randint(1, 255)])


def cut(data: bytes, end: int, rng: Random) -> tuple[int, int, bytes]:
    return rng.randrange(end, len(data)), len(data), b""


def delete_line(data: bytes, end: int, rng: Random) -> tuple[int, int, bytes]:
    at = data.rfind(b"\n", end, rng.randrange(end, len(data))) + 1 or end
    return at, data.find(b"\n", at) + 1 or len(data), b""


def insert(data: bytes, end: int, rng: Random) -> tuple[int, int, bytes]:
    at = rng.randint(end, len(data))
    at = rng.choice([at, data.rfind(b"\n", end, at) + 1 or end, end])
    return at, at, rng.choice([rng.randbytes(rng.randint(1, 20)), b"\n", b"garbage\n", b"0\nmore\n\n"])


DAMAGES = (flip, cut, delete_line, insert)


@dataclass
class Source:
    """A process, and the fate of all events that it accepted."""

    name: str
    journal: Journal
    alive: bool = True
    sent: dict[int, bytes] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    """Events without any byte left: their lines or segments were removed before they were drained."""
    refused: int = 0
    """Events that it dropped; they have no number."""
    lost: set[int] = field(default_factory=set)
    """Events that were in its memory when it was killed."""
    hidden: set[int] = field(default_factory=set)
    """Events of which only damaged lines are left."""
    abandoned: int = 0
    """Events in its memory when it ended, which had a number until then."""
    closed: bool = False
    """Whether it has closed its journal, and its page with it, once."""
    settled: int = 0
    """The number of its last event when it was settled."""
    torn: int = 0
    """The event that it was writing when it was killed."""
    has_no_place: bool = False
    """Whether it was killed when it had closed its journal, and could not open it again: nobody knew what it did."""

    def waiting(self) -> set[int]:
        return {frame.unpack(line[:-1])[0] for line in self.journal._kept} if self.alive else set()

    def append(self, data: bytes) -> bool:
        handle = self.journal._handle if not self.journal._trouble else None
        unlinked = handle is not None and not os.fstat(handle).st_nlink
        number, before = len(self.sent) + 1, sum(self.journal.dropped.values())
        written = self.journal.append(data)
        if sum(self.journal.dropped.values()) > before:
            self.refused += 1
            return False
        self.sent[number] = data
        if unlinked and written:  # it notices that its segment was deleted, at the cost of one event
            if not self._has(number):  # it may have moved to the second place before
                self.deleted.add(number)
            assert self.journal._trouble or (self.journal._handle and os.fstat(self.journal._handle).st_nlink)
        return written

    def _has(self, number: int) -> bool:
        """Whether an event is in one of its segments."""
        away = self.journal._away or self.journal.path
        files = [path for place in {away, self.journal.path} for path in place.glob(f"{self.name}.*{SUFFIX}")]
        return any(number in frame.scan(path.read_bytes(), sys.maxsize).numbers for path in files)

    def abandon(self) -> None:
        """It ends, and the events in its memory are dropped."""
        for number in self.waiting():
            del self.sent[number]
            self.refused += 1
            self.abandoned += 1
        self.journal.abandon()


class Ledger:
    """All processes of one journal directory, compared with their rows in the database."""

    def __init__(self, directory: Path, second: Path, let_go: set[str]) -> None:
        self.directory = directory
        self.second = second
        self.let_go = let_go
        """Names, without suffix, of the kept segments that made room on a full disk."""
        self.sources: dict[str, Source] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        """The rows of `AsyncTaskSource`, as they are now."""
        self.poison: set[bytes] = set()
        """Events that no database takes."""
        self.again = False
        """A batch has failed, so entries may be in quarantine twice or too early."""

    def see(self) -> None:
        """Look at the segments, which only their writers have changed."""
        for source, image, end in list(self.images(drained=True)):
            if end < len(image.data) and image.path.stem in self.let_go and not self._is_there(image):
                self._cut(source, image)  # after a failover that the recorder had not noticed
        for path in self._files(f"*{SUFFIX}"):
            name, _, number = path.name.removesuffix(SUFFIX).rpartition(".")
            source = self.sources[name]
            image = source.images.setdefault(int(number), Image(path, int(number)))
            if not image.drained and path.stat().st_size != len(image.data):
                image.grow(path.read_bytes(), source.torn)

    def _files(self, pattern: str) -> Iterator[Path]:
        for place in (self.second, self.directory):
            yield from place.glob(pattern)

    def path_of(self, image: Image) -> Path:
        """Where a segment is, or would be."""
        second = self.second / image.path.name
        return second if second.exists() else self.directory / image.path.name

    def removed(self) -> list[Image]:
        """The segments that somebody has removed, and of which something is stored."""
        return [image for source in self.sources.values() for image in source.images.values() if image.removed]

    def fail_over(self) -> None:
        """The database has lost what it stored last, and so is what nobody else has any more."""
        self.again = True
        for source in self.sources.values():
            for image in list(source.images.values()):
                if image.removed or (image.drained and not self._is_there(image)):
                    self._cut(source, image)

    def _is_there(self, image: Image) -> bool:
        """Whether a segment is there or kept."""
        stem = image.path.name.removesuffix(SUFFIX)
        return any(self._files(f"{stem}{SUFFIX}")) or any(self._files(f"{stem}{KEPT}"))

    def _cut(self, source: Source, image: Image) -> None:
        end = self._end(source, image)
        source.deleted |= {owner for owner in set(image.owners).difference(image.owners[:end]) if owner > 0}
        image.data, image.owners, image.drained, image.removed = image.data[:end], image.owners[:end], True, True
        if not end:
            del source.images[image.number]

    def images(self, drained: bool) -> Iterator[tuple[Source, Image, int]]:
        """Segments with the place up to which they are stored: those that the recorder has removed, or those that
        exist."""
        for source in self.sources.values():
            for image in source.images.values():
                if image.drained == drained:
                    yield source, image, self._end(source, image)

    def _end(self, source: Source, image: Image) -> int:
        row = self.rows.get(source.name, {"segment": 0, "position": 0})
        if image.number < row["segment"]:
            return len(image.data)
        return row["position"] if image.number == row["segment"] else 0

    def see_drained(self) -> None:
        """Note which segments the recorder has removed; it never removes one that is being written to."""
        there = {path.name for path in self._files(f"*{SUFFIX}")}
        for source, image, _ in self.images(drained=False):
            if image.path.name not in there:
                image.drained = True
                handle = source.journal._handle
                written_to = source.alive and handle is not None and image is source.images.get(source.journal._segment)
                assert not written_to, f"{image.path.name} was removed while its process lives"

    def undrained(self) -> list[tuple[Source, Image, int]]:
        """Segments that are not stored completely."""
        return [one for one in self.images(drained=False) if one[2] < len(one[1].data)]

    def hurt(self, source: Source, image: Image, first: int, last: int, new: bytes) -> None:
        """Somebody changes a segment. A byte that is changed in place still belongs to its event."""
        owners = image.owners[first:last] if len(new) == last - first else [GARBAGE] * len(new)
        owners = image.owners[:first] + owners + image.owners[last:]
        data = image.data[:first] + new + image.data[last:]
        source.deleted |= {owner for owner in set(image.owners).difference(owners) if owner > 0}
        image.data, image.owners = data, owners
        self.path_of(image).write_bytes(data)

    def remove(self, source: Source, image: Image) -> None:
        """Somebody deletes a segment. Its stored part stays in the account."""
        self.path_of(image).unlink()
        self._cut(source, image)

    def check(self) -> list[bytes]:
        """Check that every event of every process is accounted for. Returns the stored events."""
        found = [event for source in self.sources.values() for event in self._check(source)]
        assert set(self.rows) <= set(self.sources)
        return found

    def check_answer(self, *, complete: bool, has_host: bool = True) -> None:
        """Check that nothing is lost and nothing refused if the record is said to be complete; without its host, that
        all is stored."""
        for source in self.sources.values() if complete else ():
            if source.has_no_place or not any(self._files(f"{source.name}.page")):
                continue  # there was no place for any file: nobody can know
            if not has_host and (source.name not in self.rows or source.closed):
                continue  # nobody has heard of it, or of what it did after its end
            whole = Scan()
            for image in source.images.values():
                image.scan(len(image.data) if has_host else self._end(source, image), whole)
            # What it was writing when it was killed was not accepted; a child with its lock may seem to write it still.
            known = {*whole.whole, source.torn} | (source.waiting() if has_host else set())
            assert source.sent.keys() <= known, f"{source.name}: complete without {source.sent.keys() - known}"
            assert not source.refused, f"{source.name}: complete, though it dropped {source.refused}"

    def early(self) -> set[str]:
        """Tasks with events that may be stored but not counted: a batch with poison stores its other events before it
        counts them. If it then fails, and they are damaged before the next batch, nobody counts them."""
        numbers = {source.name: source.deleted | source.hidden for source in self.sources.values() if self.again}
        found = [self.sources[name].sent[number] for name in numbers for number in numbers[name]]
        return {decode(event)["id"] for event in found if event not in self.poison}

    def _check(self, source: Source) -> list[bytes]:
        there = Scan()
        for image in source.images.values():
            image.scan(len(image.data), there)
        there.whole.pop(0, None)
        for number, content in there.whole.items():
            assert content == source.sent[number]
        # accepted = in segments, stored or not + waiting + dropped (+ deleted, + lost with a killed process)
        source.hidden = there.hidden
        known = set(there.whole) | source.hidden | source.waiting() | source.deleted | source.lost
        assert set(source.sent) == known, f"{set(source.sent) - known} vanished from the journal"
        assert source.refused == sum(source.journal.dropped.values())

        # The row counts everything below the high-water mark.
        below = Scan()
        told: list[dict[str, int]] = [{}]
        for _, image in sorted(source.images.items()):
            end = self._end(source, image)
            if image.scan(end, below):
                told = [image.dropped]
            elif end:
                told.append(image.dropped)  # the drain may have read it before it was damaged
        below.whole.pop(0, None)
        bad = [content for content in below.whole.values() if content in self.poison]
        self._check_quarantine(source, Counter([*bad, *below.damaged]))
        row = self.rows.get(source.name)
        if row is None:
            assert not below.whole
            assert not below.damaged
            return []
        row_dropped = row["dropped"] or {}
        position = Position(**{**{key: row[key] for key in Position._fields}, "dropped": row_dropped})
        good = [content for content in below.whole.values() if content not in self.poison]
        assert position.stored == len(good), "stored"
        last = max(below.whole, default=0)
        most = max(last, *below.hidden, 0) + below.extra
        if row["settled_at"] is not None:
            source.settled = max(source.settled, source.journal.numbered + source.abandoned)
            assert source.closed or position.last_number >= source.journal.numbered, "numbers in the page"
        most = max(most, source.settled)  # which it may be no more: its segment was removed while it lived
        assert last <= position.last_number <= most, f"last_number: {last}..{most}, not {position}"
        counted = source.journal.dropped
        assert row_dropped in told or row_dropped.items() <= {  # the page says it earlier than the next segment
            (reason, number) for reason in counted for number in range(counted[reason] + 1)
        }, f"dropped: {row_dropped}, not {told} or a part of {counted}"
        if row["settled_at"] is not None and not source.closed:
            assert sum(row_dropped.values()) >= counted.total() - source.abandoned, "dropped, of a settled process"
        # Lines that damage has joined, or that belong to no event, may count as one event or as none. And in a damaged
        # line, nobody can tell whether an event that left no trace was in it.
        gone = source.deleted | source.lost
        if source.settled:  # a process that closes its journal is taken for gone, and may write what waits later
            gone |= source.waiting() | (there.whole.keys() - below.whole.keys() - below.hidden)
        unstored = [number for number in gone if number < max(last, position.last_number + 1)]
        dropped = max(0, min(source.abandoned, position.last_number - source.journal.numbered))
        beside = len(unstored) + dropped if below.hidden else 0
        low, high = len(below.hidden) - below.joined, len(below.hidden) + below.extra + beside
        assert low <= position.quarantined - len(bad) <= high, (
            f"quarantined: {low}..{high} + {len(bad)}, not {position}"
        )
        if not below.extra and not below.joined and not beside:
            missing = len(unstored) + dropped
            assert position.missing == missing, f"missing: {missing}, not {position}"
        return good

    def _check_quarantine(self, source: Source, expected: Counter[bytes]) -> None:
        files = self._files(f"{source.name}.quarantine")
        found = Counter(line for path in files for line in path.read_bytes().split(b"\n")[:-1])
        assert found >= expected, f"not in quarantine: {expected - found}"
        if not self.again:
            assert found == expected, f"too much in quarantine: {found - expected}"
