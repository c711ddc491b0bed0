"""Where `serve` leaves the secret of its codes for the user who started it, and where `code` finds it: a file of that
user's alone, which is there as long as the server runs."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from celery_asynctask.journal.place import user_directory

_FOLDER = "serve"


class Running(NamedTuple):
    """A server of this user's that gives codes."""

    url: str
    port: int
    secret: bytes


@contextmanager
def announced(url: str, port: int, secret: bytes) -> Iterator[bool]:
    """While the block runs, `running` finds this server. Yields whether it does: a user without a home directory has no
    place for the file."""
    content = {"pid": os.getpid(), "url": url, "port": port, "secret": secret.hex()}
    path = _written(port, json.dumps(content))
    try:
        yield path is not None
    finally:
        if path is not None:
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()


def running() -> list[Running]:
    """The servers of this user that run on this host."""
    directory = user_directory()
    if directory is None or not _is_private(directory / _FOLDER):
        return []
    found = []
    for path in sorted((directory / _FOLDER).iterdir()):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            os.kill(content["pid"], 0)
            found.append(Running(content["url"], content["port"], bytes.fromhex(content["secret"])))
    return found


def _written(port: int, content: str) -> Path | None:
    """Where the file is; None: there is no place for it that nobody else can read or change."""
    directory = user_directory()
    if directory is None:
        return None
    path = directory / _FOLDER / str(port)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(path.parent):
            return None
        path.unlink(missing_ok=True)  # of a server that was killed
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content.encode())
    except OSError:
        return None
    return path


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_ours and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
