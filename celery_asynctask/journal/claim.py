"""The file of a journal directory that says whose it is: the store, the directory's own id, the database's identity."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from celery_asynctask.core.forking import locking
from celery_asynctask.core.url import same_store
from celery_asynctask.errors import JournalError
from celery_asynctask.journal.files import open_if_read_only
from celery_asynctask.journal.names import STORE_NAME

ENCODING = ("utf-8", "surrogateescape")
"""Encoding and error handler of the file, independent of a process's locale."""


class Claim(NamedTuple):
    """What the file says, a line each."""

    store: str
    """The store that the directory belongs to, as its `core.url.store_id`."""
    old_id: str
    """The directory's own id, by which the ledger knows the processes of earlier versions."""
    identity: str = ""
    """The identity of the database that it was stored in last; empty: none yet."""

    @property
    def id(self) -> str:
        """The directory's id for all other processes. A recorder of an earlier version does not see their files, and
        would take them for gone."""
        return hashlib.sha256(f"2 {self.old_id}".encode(*ENCODING)).hexdigest()[:32]


def read_claim(handle: int) -> Claim:
    """What the file says, from its descriptor. Raises `OSError`."""
    lines = [line.strip() for line in os.pread(handle, 4096, 0).decode(*ENCODING).split("\n")]
    store, old_id, identity = (*lines, "", "", "")[:3]
    return Claim(store, old_id, identity)


def claim(directory: Path, store_id: str, new_id: str = "") -> Claim:
    """Make a directory this store's, or check that it is. ``new_id``: the own id of a directory that is new; empty: a
    random one. Raises `JournalError`, `OSError`."""
    path = directory / STORE_NAME
    with locking():
        handle = open_if_read_only(path, 0)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise JournalError(
                    f"The file {path} is no regular file of this user. Remove it, or set asynctask_journal_dir to "
                    "another directory."
                )
            if not status.st_size:  # new: whoever locks it first claims the directory
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not os.fstat(handle).st_size:
                    _write(handle, Claim(store_id, new_id or secrets.token_hex(16)))
            claimed = read_claim(handle)
            if claimed.store != store_id and same_store(claimed.store, store_id):  # as an earlier version wrote it
                fcntl.flock(handle, fcntl.LOCK_EX)
                claimed = read_claim(handle)._replace(store=store_id)
                _write(handle, claimed)
        finally:
            os.close(handle)
    if claimed.store != store_id:
        raise JournalError(
            f"The journal directory {directory} belongs to the store {claimed.store}, not to {store_id}. Give each "
            "store its own asynctask_journal_dir."
        )
    return claimed


def know_identity(directory: Path, identity: str) -> None:
    """Remember the identity of the database that the directory is stored in. Raises `OSError`."""
    with locking():
        handle = os.open(directory / STORE_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _write(handle, read_claim(handle)._replace(identity=identity))
        finally:
            os.close(handle)


def _write(handle: int, claimed: Claim) -> None:
    data = "".join(f"{line}\n" for line in claimed if line).encode(*ENCODING)
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))  # afterwards: whoever reads meanwhile reads these lines
