"""Reasons why a disk takes nothing, and whether this machine allows the real ones.

A root user can mount a small file system for one forked child, in a mount namespace that ends with it. Elsewhere,
patched functions raise the same errors; with ASYNCTASK_SKIP_NOTHING, that counts as a failure.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.processes import at_once

_CLONE_NEWNS = 0x00020000
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10
"""Of `chattr`: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL."""
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


def mend(disk: Path) -> None:
    """What the causes do at their end, for a process that was killed before."""
    _mount("-o", "remount,rw", str(disk))
    for filler in disk.glob("filler*"):
        filler.unlink()


def on_small_disk(directory: Path, megabytes: int = 1) -> None:
    """Mount a file system of so many MiB and 40 inodes on the directory, for this process only."""
    directory.mkdir(parents=True, exist_ok=True)
    _namespace()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m,nr_inodes=40,mode=0700", "tmpfs", str(directory))


class Disk:
    """A file system of its own, which can be full or read-only for all processes that this one starts afterwards."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        self.directory = directory
        directory.mkdir()
        image = directory.with_suffix(".image")
        with image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
        _namespace()
        _mount("-o", "loop", str(image), str(directory))

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """No byte is free, and what becomes free is taken at once."""
        filler = self.directory / "filler"
        is_over = threading.Event()

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                while not is_over.is_set():
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        is_over.wait(0.01)

        thread = threading.Thread(target=fill)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be created, changed or removed. A file system cannot be remounted while files are open for
        writing, so files that are opened from now on are on a read-only mount, and the others are immutable."""
        beneath = os.open(self.directory, os.O_RDONLY)
        aside = self.directory.with_suffix(".aside")
        aside.mkdir(exist_ok=True)
        try:
            _mount("--bind", str(self.directory), str(aside))
            _mount("-o", "remount,bind,ro", str(aside))  # not there, where somebody may open a file before
            _mount("--move", str(aside), str(self.directory))
            _set_immutable(beneath, True)
            yield
        finally:
            _set_immutable(beneath, False)
            os.close(beneath)
            subprocess.run(["umount", "--lazy", str(self.directory)], check=True)


def _set_immutable(directory: int, is_immutable: bool) -> None:
    """Make all files below an opened directory immutable, or changeable again."""
    for _path, _directories, files, at in os.fwalk(".", dir_fd=directory):
        for name in files:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at)
            flags = array.array("l", [0])
            fcntl.ioctl(handle, _GET_FLAGS, flags)
            flags[0] = flags[0] | _IMMUTABLE if is_immutable else flags[0] & ~_IMMUTABLE
            fcntl.ioctl(handle, _SET_FLAGS, flags)
            os.close(handle)


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
    with no_new_files(disk):
        yield


@contextmanager
def no_new_files(disk: Path) -> Iterator[None]:
    """No inode is free."""
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
