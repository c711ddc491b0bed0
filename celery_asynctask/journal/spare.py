"""The second place of a journal: where events go while the disk of its directory takes none.

It is a directory in memory (``$XDG_RUNTIME_DIR`` or ``/dev/shm``), named after the first one, so what is in it outlives
the process, though not the host. It counts as memory of the container, so it is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from celery_asynctask.journal.claim import ENCODING
from celery_asynctask.journal.files import is_being_written, opened
from celery_asynctask.journal.names import KEPT, SUFFIX, UNNAMED, Segment, segment_of
from celery_asynctask.journal.place import SHARED_MEMORY, is_nowhere, is_safe

SPARE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of all segments in the second place, above which only a process with less than `OWN_BYTES` there begins or
continues one."""
OWN_BYTES: Final = 2 * 1024 * 1024
SEGMENT_BYTES: Final = OWN_BYTES // 4
"""Most bytes of a segment there: the recorder can only remove whole ones."""


def spare_of(path: Path, store: str) -> Path | None:
    """Where the second place of a journal directory is, or would be, by its path and its `core.url.store_id`; None:
    there is no directory in memory."""
    if is_nowhere(path):
        return None
    text = f"{os.path.realpath(path)}\n{store}"
    digest = hashlib.sha256(text.encode(*ENCODING)).hexdigest()[:16]
    for root in (os.environ.get("XDG_RUNTIME_DIR"), SHARED_MEMORY):
        if root and is_safe(Path(root)) and os.access(root, os.W_OK | os.X_OK):
            spare = Path(root).absolute() / f"celery-asynctask-{os.geteuid()}-spare-{digest}"
            if spare != path:
                return spare
    return None


def id_of(path: Path, store: str) -> str:
    """The own id of the second place of a journal directory, where that is a directory of its own because the first one
    cannot be used: whoever uses the first one again knows it."""
    return hashlib.sha256(f"{os.path.realpath(path)}\n{store}\nspare".encode(*ENCODING)).hexdigest()[:32]


def is_usable(spare: Path) -> bool:
    """Whether the second place exists, and is a private directory of this user."""
    try:
        status = spare.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def make(spare: Path) -> bool:
    """Create the second place. Returns whether it can be used."""
    with contextlib.suppress(OSError):
        spare.mkdir(mode=0o700, exist_ok=True)
    return is_usable(spare)


def make_room(spare: Path, source: str | None) -> bool:
    """Whether a process, or somebody who has no bytes of its own there (None), may write to the second place. If there
    is no room, what is only kept goes first. Raises `OSError`."""
    sizes = {path: size for path in spare.iterdir() if (size := _size(path))}
    total = sum(sizes.values())
    for path in sorted(path for path in sizes if path.suffix == KEPT):
        if total < SPARE_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= sizes.pop(path)
    if source is None or total < SPARE_BYTES:
        return total < SPARE_BYTES
    return sum(size for path, size in sizes.items() if path.name.startswith(f"{source}.")) < OWN_BYTES


def _size(path: Path) -> int:
    """Bytes of a segment, also of one that is kept; 0 for anything else."""
    if path.suffix not in (SUFFIX, KEPT):
        return 0
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def bring_home(spare: Path, home: Path, source: str | None = None) -> None:
    """Move the complete segments in the second place, or only those of one process, to the first one. Bytes and names
    stay, and so does how far they are stored. Raises `OSError`; what is not moved then stays where it is."""
    names = sorted(entry.name for entry in os.scandir(spare) if entry.name.endswith(SUFFIX))
    for segment in filter(None, (segment_of(spare / name) for name in names)):
        if (source is None or segment.source == source) and not is_being_written(segment.path):
            _move(segment, home)


def _move(segment: Segment, home: Path) -> None:
    target = home / segment.path.name
    if not target.exists():
        unnamed = target.with_suffix(UNNAMED)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with opened(segment.path) as file, os.fdopen(os.open(unnamed, flags, 0o600), "wb") as copy:
                shutil.copyfileobj(file, copy)
            unnamed.rename(target)
        except FileExistsError:  # another process is moving it
            return
        except FileNotFoundError:  # stored meanwhile
            unnamed.unlink(missing_ok=True)
            return
        except OSError:
            unnamed.unlink(missing_ok=True)
            raise
    segment.path.unlink(missing_ok=True)
