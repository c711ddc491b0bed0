"""SQLite's file: made for its owner alone, and who else may read one that is there already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

from sqlalchemy import Connection, Engine, event

_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""Of the files of a database. SQLite makes the others with the mode of the first."""
_WITHOUT_FILE: Final = ("", ":memory:")


def make_private(engine: Engine) -> None:
    """Let every connection of an SQLite engine that would create the file create it with mode 0600, whatever the umask.
    A file that is there keeps its mode: somebody may have chosen it."""
    event.listen(engine, "do_connect", _create)


def _create(_dialect: Any, _record: Any, arguments: Any, options: Any) -> None:
    path = created_file(os.fspath(arguments[0]), is_uri=bool(options.get("uri")))
    if path is None:
        return
    path = os.path.realpath(path)  # through a link to a file that is not there, nothing can be made
    try:
        # First without opening it: to close it drops the locks that another thread has taken on it meanwhile.
        os.mknod(path, stat.S_IFREG | 0o600)
    except FileExistsError:
        pass
    except OSError:  # not every file system allows that; if nothing can be made there, SQLite says it better
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def created_file(name: str, *, is_uri: bool) -> str | None:
    """The file that SQLite creates for a name, unless it is there; None: it creates none."""
    if is_uri and name.startswith("file:"):
        address, _, query = name.removeprefix("file:").partition("#")[0].partition("?")
        if parse_qs(query).get("mode", ["rwc"])[-1] != "rwc":
            return None
        name = unquote(f"/{address[2:].partition('/')[2]}" if address.startswith("//") else address)
    return None if name in _WITHOUT_FILE else name


class Readable(NamedTuple):
    """A file of the database that others than its owner may read or write."""

    path: Path
    mode: int
    by_all: bool
    """By every user of this host, not only those of the file's group."""


def readable_files(connection: Connection) -> Iterator[Readable]:
    """The files of an SQLite database that others than their owner can reach, by the modes of the files and of the
    directories above them."""
    for _, name, file in connection.exec_driver_sql("PRAGMA database_list"):
        for path in (Path(f"{file}{suffix}") for suffix in _SUFFIXES if name == "main" and file):
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(path.stat().st_mode)
                above = [parent.stat().st_mode for parent in path.parents]
                by_all = bool(mode & 0o006) and all(one & 0o001 for one in above)
                if by_all or (mode & 0o060 and all(one & 0o011 for one in above)):
                    yield Readable(path, mode, by_all)
