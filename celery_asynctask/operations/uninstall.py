"""Removing what an installation leaves behind: our tables in the database, and the journal directory of this host.

Nothing is removed while a process still records. The tables are dropped first: the database may refuse, and the journal
is untouched until it has agreed. The file that names the directory's store is removed last, so that the next run finds
the rest wherever this one is interrupted.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection, Table, func, inspect, select, text
from sqlalchemy.schema import DropTable

from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.forking import locking
from celery_asynctask.core.text import reason
from celery_asynctask.core.url import parse, same_store
from celery_asynctask.errors import AsyncTaskError, JournalError, StoreError
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.frame import describe
from celery_asynctask.journal.names import (
    LOCKS,
    OLD_CLAIM_NAME,
    OLD_LOCK_NAME,
    OLD_UNNAMED,
    QUARANTINE,
    SEGMENTS,
    STORE_NAME,
    UNNAMED,
    is_ours,
)
from celery_asynctask.journal.place import is_made_for_a_store
from celery_asynctask.journal.survey import UNKNOWN_PID, Survey, readable
from celery_asynctask.journal.unstored import unstored
from celery_asynctask.operations.session import Writer
from celery_asynctask.store.schema import exclusive, schema_problem, schema_version
from celery_asynctask.store.tables import (
    SCHEMA_VERSION,
    async_task_source,
    async_task_version,
    metadata,
)

LOCK_SECONDS: Final = 10
"""How long dropping the tables waits for their readers."""
_TABLES: Final[tuple[Table, ...]] = (
    async_task_version,  # first: `upgrade` completes tables without a version, should MySQL be interrupted
    *(table for table in reversed(metadata.sorted_tables) if table is not async_task_version),
)
_COLUMNS: Final = {
    "async_task": "order_key",
    "async_task_attempt": "run_key",
    "async_task_audit": "outcome",
    "async_task_change": "changes",
    "async_task_identity": "identity",
    "async_task_revision": "revision",
    "async_task_session": "session",
    "async_task_source": "last_number",
    "async_task_token": "last_used_at",
    "async_task_version": "version_num",
}
"""A column by which each table is known as ours: somebody else's may have the same name."""
_ELECTIONS: Final = 20
_PAUSE: Final = 0.1

_source: Final = async_task_source.c


class JournalFiles(NamedTuple):
    """The journal directory of this host."""

    path: Path
    segments: int
    quarantines: int
    """Files with events that could not be stored."""
    size: int
    """Bytes of our files."""
    unstored: int
    """Events that are not stored yet."""
    names: tuple[str, ...]
    """Our files."""
    strangers: tuple[str, ...]
    """Other files; they stay, and the directory with them."""


class Leftovers(NamedTuple):
    """What there is to remove."""

    tables: Mapping[str, int]
    """Our tables that exist, with the number of their rows."""
    journal: JournalFiles | None
    """None: there is none on this host."""
    in_use: tuple[str, ...]
    """Processes that still record, in words."""
    elsewhere: tuple[str, ...]
    """Other hosts that have recorded into this database: their journals are not reached from here."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remove."""
        journal = self.journal
        return not self.tables and (journal is None or bool(journal.strangers and not journal.names))


class Removed(NamedTuple):
    """What was removed."""

    tables: tuple[str, ...]
    files: int
    directory: bool
    """Whether the journal directory is gone, or was never there."""


class Uninstall:
    """Removes one store and the journal directory that this host has for it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._settings = writer.settings
        self._path = writer.settings.directory

    def find(self) -> Leftovers:
        """What there is to remove. Changes nothing. Raises `StoreError` where the database cannot be read or has tables
        of a newer release, and `JournalError` where the journal directory is not ours to remove."""
        survey = self._survey()
        tables = self._tables()
        rows = {table.name: int(self._writer.read(select(func.count()).select_from(table))[0][0]) for table in tables}
        has_sources = async_task_source in tables
        with readable(self._path):
            journal = self._journal(survey, has_sources)
            in_use = tuple(self._in_use(survey, has_sources))
        return Leftovers(rows, journal, in_use, self._hosts() if has_sources else ())

    def run(self) -> Removed:
        """Remove everything. Raises as `find`, and `AsyncTaskError` if a process still records; nothing is removed
        then."""
        survey = self._survey()
        tables = self._tables()
        with self._elected(survey):
            with readable(self._path):
                refuse(tuple(self._in_use(survey, async_task_source in tables, elected=True)))
            dropped = self._drop() if tables else ()
            with readable(self._path):
                files = sum(self._remove(_list(place, survey)) for place in _places(self._path, survey))
        return Removed(dropped, files, not self._path.exists())

    def _in_use(self, survey: Survey | None, has_sources: bool, *, elected: bool = False) -> Iterator[str]:
        """Processes that still record, in words; ``elected``: this process holds the locks of the recorders."""
        if survey is not None:
            for kind, process in () if elected else (("", survey.recorder()), ("dedicated ", survey.dedicated())):
                if process is not None:
                    yield f"the {kind}recorder" + (
                        "" if process == UNKNOWN_PID else f", process {process} of this host"
                    )
            for segments in survey.by_source().values():
                with suppress(FileNotFoundError):
                    if is_being_written(segments[-1].path):
                        process_of = describe(segments[-1])
                        yield f"{process_of['role']} {process_of['pid']} on {process_of['host']}"
        if has_sources:
            yield from self._seen(survey)

    # -- the database

    def _tables(self) -> list[Table]:
        """Our tables that exist."""
        url = parse(self._settings.url)
        if url.backend == "sqlite" and not url.database.startswith("file:") and not Path(url.database).exists():
            return []  # SQLite would create the file
        with self._writer.connection() as connection:
            version = schema_version(connection)
            if version is not None and version > SCHEMA_VERSION:
                raise StoreError(f"The database {self._settings.shown_url} {schema_problem(connection)}")
            return _there(connection)

    def _drop(self) -> tuple[str, ...]:
        with self._writer.connection() as connection:
            match connection.dialect.name:
                case "postgresql":
                    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
                case "mysql" | "mariadb":
                    connection.execute(text(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}"))
            with exclusive(connection):
                tables = _there(connection)
                for table in tables:
                    connection.execute(DropTable(table))
                connection.commit()
        return tuple(table.name for table in tables)

    def _seen(self, survey: Survey | None) -> Iterator[str]:
        """Processes of other journals that a recorder has seen alive just now."""
        since = dt.datetime.now(dt.timezone.utc) - SILENT
        statement = select(_source.role, _source.pid, _source.host).where(
            _source.ended_at.is_(None), _source.last_seen_at >= since
        )
        if survey is not None:  # for its processes, locks are more exact
            statement = statement.where(_source.journal.not_in((*survey.ids, survey.old_id)))
        for row in self._writer.read(statement.order_by(_source.host, _source.pid)):
            yield f"{row.role} {row.pid} on {row.host}"

    def _hosts(self) -> tuple[str, ...]:
        statement = select(_source.host).where(_source.host != socket.gethostname()).distinct()
        return tuple(row.host for row in self._writer.read(statement.order_by(_source.host)))

    # -- the journal

    def _survey(self) -> Survey | None:
        """The journal directory, None where there is none, or one that no process has begun to use. Raises
        `JournalError`."""
        path = self._path
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise JournalError(
                f"The journal directory {path} cannot be read: {reason(exc)}. Nothing is removed: run "
                "this as the user of the workers."
            ) from exc
        if not stat.S_ISDIR(status.st_mode):
            raise JournalError(
                f"{path} is not a directory (symbolic links are not followed). Nothing is removed: correct "
                "asynctask_journal_dir."
            )
        if status.st_uid != os.geteuid():
            raise JournalError(
                f"The journal directory {path} belongs to user id {status.st_uid}, this process runs as "
                f"{os.geteuid()}. Nothing is removed: run this as that user."
            )
        with readable(path), suppress(FileNotFoundError):
            survey = Survey(path)
            if not same_store(survey.store_id, self._settings.store_id):
                raise JournalError(
                    f"The journal directory {path} belongs to the store {survey.store_id}, not to "
                    f"{self._settings.store_id}. Nothing is removed: correct asynctask_journal_dir or asynctask_url."
                )
            return survey
        return None

    def _journal(self, survey: Survey | None, has_sources: bool) -> JournalFiles | None:
        files = [found for place in _places(self._path, survey) if (found := _list(place, survey)) is not None]
        if not files:
            return None
        names = [name for found in files for name in found.names]
        return JournalFiles(
            self._path,
            sum(name.endswith(SEGMENTS) for name in names),
            sum(name.endswith(QUARANTINE) for name in names),
            sum((found.path / name).lstat().st_size for found in files for name in found.names),
            0 if survey is None else self._unstored(survey, has_sources),
            tuple(names),
            tuple(name for found in files for name in found.strangers),
        )

    def _unstored(self, survey: Survey, has_sources: bool) -> int:
        stored: dict[str, tuple[int, int]] = {}
        if has_sources:
            of_survey = _source.journal.in_((*survey.ids, survey.old_id))
            statement = select(_source.source, _source.segment, _source.position).where(of_survey)
            stored = {row.source: (row.segment, row.position) for row in self._writer.read(statement)}
        found = (
            unstored(segments, None, *stored.get(source, (0, 0))) for source, segments in survey.by_source().items()
        )
        return sum(left.events(0) for left in found if left is not None)

    @contextmanager
    def _elected(self, survey: Survey | None) -> Iterator[None]:
        """Hold the election, so that no recorder begins to work meanwhile."""
        if survey is None:
            yield
            return
        handles: list[int] = []
        try:
            with readable(self._path):
                old = ((OLD_LOCK_NAME, survey.elect_old), (OLD_CLAIM_NAME, survey.claim_old))
                locks = [survey.elect, survey.claim, *(lock for name, lock in old if (self._path / name).exists())]
                for lock in locks:
                    for _ in range(_ELECTIONS):  # a process that only tests a lock holds it for an instant
                        with locking():
                            if (handle := lock()) is not None:
                                handles.append(handle)
                                break
                        time.sleep(_PAUSE)
                    else:
                        while handles:  # or this process would be named as the recorder
                            os.close(handles.pop())
                        refuse(tuple(self._in_use(survey, has_sources=False)) or ("a recorder",))
            yield
        finally:
            for handle in handles:
                os.close(handle)

    def _remove(self, files: _Files | None) -> int:
        """Remove our files, and the directory if it is empty then. Returns the number of files. Follows no link; files
        that are new meanwhile stay."""
        if files is None:
            return 0
        path = files.path
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        removed = 0
        try:
            for name in files.names:
                if name.endswith((*SEGMENTS, UNNAMED, OLD_UNNAMED)) and is_being_written(path / name):
                    raise AsyncTaskError(
                        f"The tables are dropped, but a process began to write to {path} meanwhile ({name}). "
                        "Stop it, and run this again."
                    )
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
                    removed += 1
        finally:
            os.close(directory)
        with suppress(OSError):  # other files are there
            path.rmdir()
            if self._settings.journal_dir is None and is_made_for_a_store(path):
                path.parent.rmdir()
        return removed


def refuse(in_use: tuple[str, ...]) -> None:
    """Raises `AsyncTaskError` if a process still records."""
    if in_use:
        shown = "; ".join(in_use[:10]) + (f"; and {len(in_use) - 10:,} more" if len(in_use) > 10 else "")
        raise AsyncTaskError(
            f"Nothing is removed, because these still record: {shown}. Stop them, or restart them with "
            "asynctask_enabled = False, and run this again. A process whose journal is not here counts as stopped "
            f"{SILENT.total_seconds():.0f} s after a recorder last saw it."
        )


def _there(connection: Connection) -> list[Table]:
    """Our tables in the database, in the order in which they are dropped."""
    inspector = inspect(connection)
    names = set(inspector.get_table_names())
    return [
        table
        for table in _TABLES
        if table.name in names
        and _COLUMNS[table.name] in {column["name"] for column in inspector.get_columns(table.name)}
    ]


class _Files(NamedTuple):
    """The files in a journal directory, or in its second place."""

    path: Path
    names: tuple[str, ...]
    """Our files, in the order in which they are removed: the locks while they are held, last the one that names the
    store."""
    strangers: tuple[str, ...]
    """Other files."""


def _places(path: Path, survey: Survey | None) -> list[Path]:
    """The journal directory, after its second place: the first one says where that is."""
    return [path] if survey is None else survey.places()[::-1]


def _list(path: Path, survey: Survey | None) -> _Files | None:
    """None where there is no directory. Without a survey, the directory was never used, and nothing in it is ours."""
    names: list[str] = []
    strangers: list[str] = []
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    for entry in entries:
        is_own = survey is not None and is_ours(entry.name) and survey.is_own(entry)
        (names if is_own else strangers).append(entry.name)
    names.sort(key=lambda name: (name == STORE_NAME, name in LOCKS))
    return _Files(path, tuple(names), tuple(strangers))
