"""Reasons why a disk takes nothing, and whether this machine allows the real ones.

A root user can mount a small file system for one forked child, in a mount namespace that ends with it. Elsewhere,
patched functions raise the same errors; with ASYNCTASK_SKIP_NOTHING, that counts as a failure.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.processes import at_once

_CLONE_NEWNS = 0x00020000
Cause = Callable[[Path], AbstractContextManager[None]]


def _namespace() -> None:
    """From now on, mounts of this process are visible only to itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("--make-rprivate", "/")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@cache
def can_mount() -> bool:
    """Whether this user may mount a tmpfs. A child tries it."""

    def try_it(_number: int) -> None:
        _namespace()
        _mount("-t", "tmpfs", "tmpfs", "/mnt")

    try:
        at_once(1, try_it)
    except AssertionError:
        if "ASYNCTASK_SKIP_NOTHING" in os.environ:
            raise
        return False
    return True


def on_small_disk(directory: Path) -> None:
    """Mount a file system of 1 MiB and 40 inodes on the directory, for this process only."""
    directory.mkdir(parents=True, exist_ok=True)
    _namespace()
    _mount("-t", "tmpfs", "-o", "size=1m,nr_inodes=40,mode=0700", "tmpfs", str(directory))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
    yield
    filler.unlink()


@contextmanager
def no_inodes(disk: Path) -> Iterator[None]:
    """No file can be created. Open files can still be written to, so the segment is deleted as well."""
    for segment in disk.glob("journal/*.events"):
        segment.unlink()
    made: list[Path] = []
    try:
        while True:
            made.append(disk / f"filler{len(made)}")
            made[-1].touch()
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        made.pop()
    yield
    for one in made:
        one.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """The state of a file system after an error of its disk. Files opened then fail with EROFS. Files opened before
    fail with EBADF instead, because a file system that is being written to cannot be remounted."""
    _stop_writing(disk)
    _mount("-o", "remount,ro", str(disk))
    yield
    _mount("-o", "remount,rw", str(disk))


def _stop_writing(disk: Path) -> None:
    """Replace this process's own descriptors on the disk by read-only ones."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        target = Path("/proc/self/fd") / name
        if target.is_symlink() and str(target.readlink()).startswith(f"{disk}/"):
            handle = os.open(target, os.O_RDONLY)
            os.dup2(handle, int(name))
            os.close(handle)


@contextmanager
def file_too_large(disk: Path) -> Iterator[None]:
    """A limit on the size of this process's files (RLIMIT_FSIZE): real, and possible without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def patched(number: int, *functions: str) -> Cause:
    """Functions of `os` that raise an error, for machines on which nothing can be mounted."""

    @contextmanager
    def cause(_disk: Path) -> Iterator[None]:
        originals = {name: getattr(os, name) for name in functions}

        def refuse(*_arguments: Any, **_options: Any) -> Any:
            raise OSError(number, os.strerror(number))

        for name in functions:
            setattr(os, name, refuse)
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    return cause


REAL: dict[str, Cause] = {"full": full, "no inodes": no_inodes, "read-only": read_only}
PATCHED: dict[str, Cause] = {
    "full": patched(errno.ENOSPC, "write"),
    "no inodes": patched(errno.ENOSPC, "write", "open"),
    "read-only": patched(errno.EROFS, "write", "open"),
}
