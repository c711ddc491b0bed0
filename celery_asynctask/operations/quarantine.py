"""Events in quarantine: what they are, storing them after all, and giving them up.

A command first takes a file away from the recorder (`journal.aside`). It stores what the database takes now, gives the
other lines back, and moves the number in the ledger; only then the file is removed. Each file has a token. The
transaction that moves the number also writes an entry with it into the audit, so that after a kill the next command
knows whether it was done. Rows come before the ledger: until then it says "in quarantine", which is never too little.

The ledger has numbers only, and a file may have lines that it does not count: the recorder appends before it commits.
So a number is moved only as far as it stays at least that of the lines that are left.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from celery_asynctask.core.accounting import GIVEN_UP
from celery_asynctask.core.event import decode
from celery_asynctask.core.text import reason
from celery_asynctask.core.time import now, time_of
from celery_asynctask.errors import AsyncTaskError, StoreError
from celery_asynctask.journal import Directory
from celery_asynctask.journal.aside import Aside, append, aside_of
from celery_asynctask.journal.names import QUARANTINE
from celery_asynctask.operations.audit import Entry as AuditEntry
from celery_asynctask.operations.audit import Outcome
from celery_asynctask.operations.session import Writer
from celery_asynctask.store import Store
from celery_asynctask.store.tables import async_task_audit, async_task_source

KEPT_BYTES: Final = 4096
"""Bytes that the recorder keeps of an event at least."""
BATCH: Final = 500
"""Events that are stored in one transaction, if the database takes them together."""
_FRAME: Final = re.compile(rb"[0-9a-f]{8} [0-9]+ ")
_source: Any = async_task_source.c
_raw_decode = json.JSONDecoder().raw_decode


class State(str, enum.Enum):
    """What is left of an event."""

    WHOLE = "whole"
    CUT = "cut"
    """It was larger than what is kept of one."""
    UNREADABLE = "unreadable"
    """A damaged line of the journal, or no event that this version knows."""


class Entry(NamedTuple):
    """An entry in quarantine."""

    source: str
    line: bytes
    state: State
    known: Mapping[str, Any]
    """What can be read of the event: all of it, or its first keys."""

    def text(self, key: str) -> str | None:
        """A text of the event; None: it has none."""
        value = self.known.get(key)
        return value if isinstance(value, str) else None

    @property
    def at(self) -> Any:
        """When it happened; None: not known."""
        at = self.known.get("at")
        with contextlib.suppress(OverflowError):
            return time_of(at) if type(at) is int else None
        return None


class Replayed(NamedTuple):
    """What became of the entries of one process."""

    stored: int = 0
    left: int = 0
    """Entries that stay, because they are not whole or refused again."""
    refusals: tuple[tuple[str, str], ...] = ()
    """Task id and reason of those that were refused again."""


def entry_of(source: str, line: bytes) -> Entry:
    """The entry in one line."""
    try:
        return Entry(source, line, State.WHOLE, {**decode(line)})
    except (ValueError, RecursionError):
        cut = line.startswith(b"{") and len(line) >= KEPT_BYTES
        return Entry(source, line, State.CUT if cut else State.UNREADABLE, _beginning(line))


def _beginning(line: bytes) -> dict[str, Any]:
    """The first keys of an event that is cut or damaged, as far as they can be read."""
    frame = _FRAME.match(line)
    text = line[frame.end() if frame else 0 :].decode("utf-8", "replace")
    known: dict[str, Any] = {}
    at = 0
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        while text[at : at + 1] in ("{", ","):
            key, at = _raw_decode(text, at + 1)
            value, at = _raw_decode(text, at + 1)
            if text[at : at + 1]:  # else it may be cut itself
                known[key] = value
    return known


class Quarantine:
    """The quarantine of one journal directory and of its store. Raises `StoreError` for what the database refuses, and
    `OSError`."""

    def __init__(self, directory: Directory, writer: Writer) -> None:
        self._directory = directory
        self._writer = writer
        self._store = Store(writer.settings)
        self._fits = False

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands away. Raises `AsyncTaskError` if one is at work."""
        handle = os.open(self._directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AsyncTaskError(
                    f"Another command works on the quarantine in {self._directory.path}. Wait until it has ended, "
                    "and run this again."
                ) from None
            yield
        finally:
            os.close(handle)

    def entries(self) -> dict[str, list[Entry]]:
        """The entries of each process, in the order in which they came."""
        by_source: dict[str, dict[bytes, None]] = {}
        for file in self._files():
            by_source.setdefault(file.source, {}).update(dict.fromkeys(file.lines()))
        return {source: [entry_of(source, line) for line in lines] for source, lines in sorted(by_source.items())}

    def counted(self, sources: Collection[str] = ()) -> dict[str, int]:
        """What the ledger has in quarantine, by process: of the processes of this journal, or of these."""
        mine = (
            _source.source.in_(sources)
            if sources
            else _source.journal.in_((*self._directory.ids, self._directory.old_id))
        )
        statement = sa.select(_source.source, _source.quarantined).where(mine, _source.quarantined > 0)
        return {row.source: row.quarantined for row in self._writer.read(statement)}

    def is_being_stored(self, source: str) -> bool:
        """Whether the first events of a process are not in the ledger yet, so that what it has in quarantine cannot be
        counted either."""
        if all(segment.source != source for segment in self._directory.segments()):
            return False
        return not self._writer.read(sa.select(_source.source).where(_source.source == source))

    def replay(self, source: str, by: AuditEntry, advance: Callable[[int], None] = lambda _count: None) -> Replayed:
        """Store the entries of a process that are whole. Those that the database refuses again stay."""
        self._forget(source)
        entries = self.entries().get(source, [])
        advance(sum(entry.state is not State.WHOLE for entry in entries))
        if self.is_being_stored(source) or all(entry.state is not State.WHOLE for entry in entries):
            return Replayed(left=len(entries))
        taken = self._take(source)
        lines = dict.fromkeys(line for file in taken for line in file.lines())
        whole = [line for line in lines if entry_of(source, line).state is State.WHOLE]
        refused = self._write(whole, advance)
        stored = [line for line in whole if line not in refused]
        kept = set(stored)
        self._give_back(taken, [line for line in lines if line not in kept])
        if stored:
            self._account(source, by, taken, stored)
        _remove(taken)
        ids = tuple((entry_of(source, line).text("id") or "", why) for line, why in refused.items())
        return Replayed(len(stored), len(lines) - len(stored), ids)

    def drop(self, source: str, by: AuditEntry) -> int:
        """Remove the entries of a process, and count as given up what the ledger has of it in quarantine, also what was
        not kept. Returns how many events those are."""
        self._forget(source)
        if self.is_being_stored(source):
            return 0
        taken = self._take(source)
        given_up = self._account(source, by, taken, None)
        _remove(taken)
        return given_up

    # -- files

    def _files(self, source: str | None = None) -> list[Aside]:
        """The files of all processes, or of one: first what was taken away."""
        files = map(aside_of, self._directory.paths(QUARANTINE))
        return sorted(
            (file for file in files if source in (None, file.source)),
            key=lambda file: (file.source, not file.token, file.token),
        )

    def _take(self, source: str) -> list[Aside]:
        files = []
        for file in self._files(source):
            with contextlib.suppress(FileNotFoundError):
                files.append(file if file.token else file.take())
        return files

    def _give_back(self, taken: Sequence[Aside], lines: Sequence[bytes]) -> None:
        """Let lines stand in the file of the recorder again: before the others are counted, so that they are in none of
        the files at no moment."""
        if not lines:
            return
        first = taken[0]
        path = first.path.with_name(f"{first.source}{QUARANTINE}")
        there = set(aside_of(path).lines())
        if missing := [line for line in lines if line not in there]:
            append(path, b"\n".join(missing), durable=True)

    def _forget(self, source: str) -> None:
        """Remove what a command has handled that was killed before it could."""
        left = [file for file in self._files(source) if file.token]
        if left:
            with self._writer.connection() as connection:
                done = _noted(connection, left)
            _remove([file for file in left if file.token in done])

    # -- the database

    def _write(self, lines: Sequence[bytes], advance: Callable[[int], None]) -> dict[bytes, str]:
        """Store events. Returns those that the database refuses, each with the reason."""
        if not self._fits:
            with self._writer.guarded():
                self._store.narrow_charset()
            self._fits = True
        refused: dict[bytes, str] = {}
        waiting = [list(lines[first : first + BATCH]) for first in range(0, len(lines), BATCH)]
        again: list[bytes] = []
        while waiting:
            part = waiting.pop()
            try:
                self._store.write(part)
            except StoreError:
                raise
            except Exception as exc:  # noqa: BLE001 - whatever it is: the entry stays, with the reason
                self._writer.batch(_nothing)  # raises if it is the database that refuses, whatever it gets
                if len(part) > 1:
                    middle = len(part) // 2
                    waiting += [part[:middle], part[middle:]]
                    continue
                if part != again:  # it may have met a lock
                    again = part
                    waiting.append(part)
                    continue
                refused[part[0]] = reason(exc)
            advance(len(part))
        return refused

    def _account(self, source: str, by: AuditEntry, taken: Sequence[Aside], stored: Sequence[bytes] | None) -> int:
        """Move the number of events in the ledger from those in quarantine: to the stored ones or, with None, to those
        given up. Returns the number."""

        def work(connection: Connection) -> int:
            columns = (_source.stored, _source.quarantined, _source.dropped)
            # The recorder has this row locked from before it appends to the file until its commit.
            row = connection.execute(sa.select(*columns).where(_source.source == source).with_for_update()).first()
            if _noted(connection, taken):  # since `_forget`
                raise AsyncTaskError(
                    f"A command that was killed has changed the quarantine of {source} just now. Run this again."
                )
            moved = 0
            if row is not None:
                moved = self._movable(source, row.quarantined, taken, stored)
                values: dict[str, Any] = {"quarantined": row.quarantined - moved}
                if stored is not None:
                    values["stored"] = row.stored + moved
                elif moved:
                    dropped = row.dropped or {}
                    values["dropped"] = {**dropped, GIVEN_UP: dropped.get(GIVEN_UP, 0) + moved}
                connection.execute(sa.update(async_task_source).where(_source.source == source).values(values))
            notes = [_note(by, source, file, moved if file is taken[0] else 0) for file in taken]
            if notes:
                connection.execute(sa.insert(async_task_audit).inline(), notes)
            return moved

        return self._writer.batch(work)

    def _movable(self, source: str, counted: int, taken: Sequence[Aside], stored: Sequence[bytes] | None) -> int:
        tokens = {file.token for file in taken}
        left = {line for file in self._files(source) if file.token not in tokens for line in file.lines()}
        left.difference_update(stored or ())
        return max(0, counted - len(left) if stored is None else min(len(stored), counted - len(left)))


def _noted(connection: Connection, files: Sequence[Aside]) -> set[str]:
    """The tokens of the files that have an entry in the audit."""
    column = async_task_audit.c.operation
    tokens = [file.token for file in files]
    return set(connection.scalars(sa.select(column).where(column.in_(tokens)))) if tokens else set()


def _note(by: AuditEntry, source: str, file: Aside, moved: int) -> dict[str, Any]:
    """The row in the audit that says that a file is handled."""
    return {
        "at": time_of(now()),
        "actor": ascii(by.actor)[1:-1],
        "origin": ascii(by.origin)[1:-1],
        "action": by.action.value,
        "target": source,
        "outcome": Outcome.DONE.value,
        "detail": f"{moved:,} in the ledger",
        "operation": file.token,
    }


def _nothing(_connection: Connection) -> None:
    """An empty change."""


def _remove(files: Sequence[Aside]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)


def directory_of(path: Path, store_id: str) -> Directory | None:
    """The journal directory at ``path``; None: there is none. Raises `JournalError` if it is another store's or
    user's."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Directory(path, store_id)
