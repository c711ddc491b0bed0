"""Where the journal directory of a store is: below the user's state directory, or else in a directory that outlives the
process, though perhaps not the host. Only looks; `Directory` creates."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Final

_FOLDER: Final = "celery-asynctask"
_NOWHERE: Final = Path(os.devnull)
_NAME_CHARACTERS: Final = 40
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - `is_safe`
_TEMPORARY: Final = "/tmp"  # noqa: S108
_TRUSTED: Final = 0
"""Root's user id."""


def default_directory(store: str) -> Path:
    """The directory of a store, by its `core.url.store_id`, where none is configured: the first that this user has or
    may create of `state_directory`, and one in ``$XDG_RUNTIME_DIR``, ``/dev/shm`` and ``$TMPDIR``. If there is none, a
    path that can never be created (`is_nowhere`): recording goes on in memory then."""
    state = state_directory(store)
    if state is not None and _is_ours(state):
        return state
    for root in (os.environ.get("XDG_RUNTIME_DIR"), SHARED_MEMORY, os.environ.get("TMPDIR") or _TEMPORARY):
        if root and is_safe(Path(root)):
            path = Path(root).absolute() / f"{_FOLDER}-{os.geteuid()}-{_name(store)}"
            if _is_ours(path):
                return path
    return _NOWHERE


def state_directory(store: str) -> Path | None:
    """The directory of a store below ``$XDG_STATE_HOME`` or ``~/.local/state``; None: this user has no home
    directory."""
    state = user_directory()
    return None if state is None else state / _name(store)


def user_directory() -> Path | None:
    """The directory of all that is this user's, whatever the store."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # no $HOME, and no entry of this user in the password database
        return None
    return state.absolute() / _FOLDER


def configured_directory(path: Path) -> Path:
    """The directory that is used where ``path`` is configured: a directory of this user's inside of it if it is root's,
    as a volume of a container is, and this user may write there while not everybody else may; otherwise itself."""
    try:
        status = path.lstat()
    except OSError:
        return path
    is_others = stat.S_ISDIR(status.st_mode) and status.st_uid != os.geteuid()
    if is_others and is_safe(path) and os.access(path, os.W_OK | os.X_OK):
        return path / f"{_FOLDER}-{os.geteuid()}"
    return path


def is_nowhere(path: Path) -> bool:
    """Whether there is no place for a journal; see `default_directory`."""
    return path.is_relative_to(_NOWHERE)


def is_made_for_a_store(path: Path) -> bool:
    """Whether the directory above ``path`` has nothing but our directories."""
    return path.parent.name == _FOLDER


def _name(store: str) -> str:
    """The beginning of the store's name, as far as it can be in a path, and a hash of all of it."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", store).strip("-")[:_NAME_CHARACTERS].strip("-").lower()
    digest = hashlib.sha256(store.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{readable}-{digest[:8]}"


def _is_ours(path: Path) -> bool:
    """Whether a directory belongs to this user, or can be created."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _can_have(path.parent)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(path, os.W_OK | os.X_OK)


def _can_have(path: Path) -> bool:
    """Whether this user may create something in a directory, which may have to be created as well."""
    for place in (path, *path.parents):
        if place.exists():
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False


def is_safe(path: Path) -> bool:
    """Whether what this user creates in a directory, its own or root's, cannot be replaced by everybody else."""
    try:
        status = path.stat()
    except OSError:
        return False
    is_shared = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (_TRUSTED, os.geteuid()) and not is_shared
