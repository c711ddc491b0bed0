"""Checks of the journal directory of this host: whether it can be used, and whether a recorder drains it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from celery_asynctask.core.accounting import listed, plural
from celery_asynctask.core.text import amount, reason
from celery_asynctask.core.url import same_store
from celery_asynctask.errors import StoreError
from celery_asynctask.journal.directory import NO_PLACE, is_used, max_quarantine
from celery_asynctask.journal.frame import FormatError, describe
from celery_asynctask.journal.place import is_made_for_a_store, is_nowhere, state_directory
from celery_asynctask.journal.spare import SPARE_BYTES, is_usable
from celery_asynctask.journal.survey import UNKNOWN_PID, Survey
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTaskSource

LATE_SECONDS: Final = 5.0
"""How long an event may wait beyond ``flush_interval`` before the recorder's progress is watched."""
LOOK_SECONDS: Final = 5.0
"""How long it is watched at most."""
_PAUSE: Final = 0.25
LITTLE_BYTES: Final = 100_000_000
"""Free space below which the disk counts as full."""
FULL: Final = 0.8
"""The part of ``asynctask_journal_max_bytes`` beyond which the size is worth a note."""
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gfs2", "ocfs2", "glusterfs", "virtiofs"}
)

_JOURNAL: Final = Check("journal")
_FILE_SYSTEM: Final = Check("file system")
_RECORDER: Final = Check("recorder")
_QUARANTINE: Final = Check("quarantine")
_BACKLOG: Final = Check("backlog")


def journal(settings: Settings) -> Iterator[Finding]:
    """Check the directory itself. Creates and repairs nothing."""
    path = settings.directory
    if is_nowhere(path):
        yield _JOURNAL.problem(f"{NO_PLACE}: events wait in memory, and end with a process that is killed.", _GIVE_ONE)
        return
    if settings.journal_dir is None and not is_made_for_a_store(path):
        state = state_directory(settings.store_id)
        why = "has no home directory" if state is None else f"cannot use {state}"
        yield _JOURNAL.note(
            f"The journal is in {path}, because this user {why}. It may be gone when the host or container restarts.",
            _GIVE_ONE,
        )
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        yield from _absent(path)
        return
    except OSError as exc:
        yield _JOURNAL.problem(f"{path} cannot be read: {reason(exc)}.", _AS_USER)
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _JOURNAL.problem(
            f"{path} is not a directory (symbolic links are not followed).",
            "Remove it, or set asynctask_journal_dir to a directory.",
        )
        return
    if status.st_uid != os.geteuid():
        yield _JOURNAL.problem(
            f"{path} belongs to user id {status.st_uid}; this process runs as {os.geteuid()}.", _AS_USER
        )
    elif status.st_mode & stat.S_IWOTH and os.access(path, os.R_OK | os.X_OK) and is_used(path):
        yield _JOURNAL.problem(
            f"{path} has the mode {stat.S_IMODE(status.st_mode):04o}: every user could change what is in it, so no "
            "process that starts now writes to it.",
            f"Remove what is not yours in it, and run chmod 700 {shlex.quote(str(path))}.",
        )
    elif status.st_mode & 0o077:
        yield _JOURNAL.note(
            f"{path} has the mode {stat.S_IMODE(status.st_mode):04o}: other users may "
            f"{'change' if status.st_mode & stat.S_IWGRP else 'read'} it.",
            f"Run chmod 700 {shlex.quote(str(path))}; the next process that records does so too.",
        )
    try:
        survey = Survey(path)
        if not same_store(survey.store_id, settings.store_id):
            yield _JOURNAL.problem(
                f"{path} belongs to the store {survey.store_id}, not to {settings.store_id}: processes with these "
                "settings cannot write to it.",
                "Give each store its own asynctask_journal_dir.",
            )
        size, strangers = Survey.size(path), survey.strangers()
    except FileNotFoundError:  # the file that names the store, which is created first
        yield _JOURNAL.note(f"{path} is not in use yet: the first process that records on this host begins a journal.")
        yield from _file_system(path)
        return
    except OSError as exc:
        yield _JOURNAL.problem(f"{path} cannot be read: {reason(exc)}.", _AS_USER)
        return
    if strangers:
        yield _JOURNAL.problem(
            f"In {path}, {listed([repr(name) for name in strangers])} are left out: they are no regular files of its "
            "owner.",
            "Find out who made them, and remove them.",
        )
    yield from _second_place(survey)
    yield _space(settings, size)
    yield from _file_system(path)


def _second_place(survey: Survey) -> Iterator[Finding]:
    """Whether processes write to the second place, which they do only while the first takes nothing."""
    if survey.spare is None or not is_usable(survey.spare):
        return
    segments = [segment for segment in survey.segments() if segment.path.parent == survey.spare]
    if segments:
        processes = len({segment.source for segment in segments})
        yield _JOURNAL.problem(
            f"{survey.path} took no events lately: {processes:,} {plural(processes, 'process')} wrote to memory "
            f"instead, in {survey.spare}, which has room for {amount(SPARE_BYTES)} and is gone when the host restarts.",
            "Make room on the disk of the journal, or make it writable. Events come back from there by themselves.",
        )


_GIVE_ONE: Final = "Set HOME, or asynctask_journal_dir to a directory of this user."
_START: Final = "Start a worker here, or run `celery -A APP asynctask recorder --once` as the same user."
_AS_USER: Final = (
    "Run `doctor` as the user of the workers; if it is that one, set asynctask_journal_dir to another directory."
)


def _absent(path: Path) -> Iterator[Finding]:
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        yield _JOURNAL.problem(
            f"{path} does not exist, and this user may not create it in {above}.",
            "Create it for the user of the workers, or set asynctask_journal_dir to another directory.",
        )
        return
    yield _JOURNAL.note(f"{path} does not exist yet: the first process that records on this host creates it.")
    yield from _file_system(above)


def _space(settings: Settings, size: int) -> Finding:
    path, limit = settings.directory, settings.journal_max_bytes
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    text = f"{path} has {amount(size)} of the {amount(limit)} that it may take; {amount(free)} are free on its disk."
    if size >= limit:
        return _JOURNAL.problem(
            f"{text} Events are dropped.", "See that the recorder can store, or raise asynctask_journal_max_bytes."
        )
    if free < LITTLE_BYTES:
        return _JOURNAL.problem(text, "Make room on that disk, or set asynctask_journal_dir to another one.")
    if size > FULL * limit:
        return _JOURNAL.note(text, "See that the recorder can store, or raise asynctask_journal_max_bytes.")
    if free < limit - size:
        return _JOURNAL.note(
            f"{text} The disk fills up before that limit is reached.",
            "Make room, or lower asynctask_journal_max_bytes.",
        )
    return _JOURNAL.ok(text)


def _file_system(path: Path) -> Iterator[Finding]:
    kind = file_system(path)
    if kind in _VOLATILE:
        yield _FILE_SYSTEM.note(
            f"{path} is in memory ({kind}): events that are not stored are lost when the host goes down.",
            "Set asynctask_journal_dir to a directory on a disk.",
        )
    elif kind in _REMOTE or (kind or "").startswith("fuse."):
        yield _FILE_SYSTEM.note(
            f"{path} is not on a local file system ({kind}): its locks, which elect the recorder, may not hold.",
            "Set asynctask_journal_dir to a directory on a local disk.",
        )
    elif kind is not None:
        yield _FILE_SYSTEM.ok(f"{path} is on {kind}.")


def file_system(path: Path) -> str | None:
    """The type of the file system that a path is on, as Linux calls it; None: not known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    longest, kind = "", None
    for line in lines:
        about, _, rest = line.partition(" - ")
        mounted = about.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")  # \\040 is a blank
        inside = real == mounted or real.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(longest):  # of two mounts on one place, the later one is in effect
            longest, kind = mounted, rest.split()[0]
    return kind


def recorder(settings: Settings) -> Iterator[Finding]:
    """Whether a recorder drains the directory, and what lies in quarantine."""
    try:
        survey = Survey(settings.directory)
        elected, dedicated = survey.recorder(), survey.dedicated()
        segments = survey.segments()
        quarantines, quarantined = survey.quarantines(), survey.quarantined()
    except OSError:
        return  # `journal` has a finding about it
    if elected is not None:
        kind = "The dedicated recorder" if dedicated is not None else "A recorder inside a worker or producer"
        named = "" if elected == UNKNOWN_PID else f": process {elected}"
        yield _RECORDER.ok(f"{kind} is elected{named}.")
    elif segments:
        yield _RECORDER.problem(
            f"No recorder drains {settings.directory}, which has {len(segments):,} {plural(len(segments), 'segment')}.",
            _START,
        )
    else:
        yield _RECORDER.note("None is elected, and nothing waits: no process of this host records now.")
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):
            try:
                describe(segment)
            except FormatError as exc:
                problem, _, todo = str(exc).partition(". ")
                yield _JOURNAL.problem(f"{problem}.", todo)
                break
    if quarantines:
        count = sum(quarantines.values())
        first = next(iter(quarantines))
        limit = max_quarantine(settings.journal_max_bytes)
        full = f" They have {amount(quarantined)} of at most {amount(limit)}." if quarantined > FULL * limit else ""
        yield _QUARANTINE.problem(
            f"{count:,} {plural(count, 'event')} or damaged lines could not be stored and lie in "
            f"{len(quarantines):,} {plural(len(quarantines), 'file')}, such as {first}.{full}",
            "The recorder's log says why, and `celery -A APP asynctask quarantine list` shows them. When the cause is "
            "mended, `quarantine replay` stores them; `quarantine drop` gives them up.",
        )
    else:
        yield _QUARANTINE.ok("Empty.")


def backlog(settings: Settings, reader: Reader) -> Iterator[Finding]:
    """How many events wait to be stored, and for how long. If they wait too long, watches the recorder for a while, to
    tell one that fails from one that catches up. Says nothing if the database or the journal cannot be read."""
    try:
        survey = Survey(settings.directory)
        reader.check_schema()
        ledger = completeness(reader, survey, since=dt.datetime.now(dt.timezone.utc)).ledger  # of this journal
        if not ledger.in_journal:
            yield _BACKLOG.ok("Every event in the journal is stored.")
            return
        age = time.time() - (ledger.oldest or 0) / 1_000_000
        text = (
            f"Not stored yet: {ledger.in_journal:,} {plural(ledger.in_journal, 'event')}, the oldest for {age:,.1f} s."
        )
        if age <= LATE_SECONDS + settings.flush_interval:
            yield _BACKLOG.ok(text)
            return
        if survey.recorder() is None:
            yield _BACKLOG.problem(text, _START)
            return
        before = _done(reader, survey)
        until = time.monotonic() + LOOK_SECONDS
        while not (moves := _done(reader, survey) > before) and time.monotonic() < until:
            time.sleep(_PAUSE)
    except (OSError, StoreError):
        return
    if moves:
        yield _BACKLOG.note(f"{text} The recorder catches up.")
    else:
        yield _BACKLOG.problem(
            f"{text} The recorder has stored none in {LOOK_SECONDS:.0f} s: it fails, or waits before its next try.",
            "Its log says why (a worker's own log, where the recorder runs in a worker). If statements time out there, "
            "lower asynctask_batch_size, or raise the statement timeout of the database.",
        )


def _done(reader: Reader, survey: Survey) -> int:
    """Events of this journal that are stored or in quarantine. Not from the ledger: it leaves out a process that ended
    as soon as all its events are stored."""
    handled = func.sum(AsyncTaskSource.stored + AsyncTaskSource.quarantined)
    with reader.session() as session:
        return int(session.scalar(select(handled).where(AsyncTaskSource.journal.in_(survey.ids))) or 0)
