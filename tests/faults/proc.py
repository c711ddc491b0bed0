"""Facts of the kernel about processes, and ways to end exactly the processes that a test started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from tests.pace import patience
from tests.waiting import wait_for

DEATH_SECONDS = 10
"""Longer than the kernel takes to end a killed process on a machine that swaps."""


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``, without ``pid`` itself. Processes that end meanwhile may be missing."""
    below: list[int] = []
    for task in _listing(Path(f"/proc/{pid}/task")):
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text(encoding="utf-8").split()):
                below += [child, *descendants(child)]
    return below


def session_of(leader: int) -> list[int]:
    """All processes of the session that ``leader`` began, including orphans."""
    below = []
    for entry in _listing(Path("/proc")):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[3]) == leader:
                    below.append(int(entry.name))
    return below


def send(pids: Iterable[int], signum: int) -> None:
    """Signal processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def kill_tree(pid: int) -> list[int]:
    """Kill a process and everything below it, the process first so that it starts no others. Returns the ids."""
    send([pid], signal.SIGSTOP)
    pids = [pid, *descendants(pid)]
    send(pids, signal.SIGKILL)
    return pids


def is_alive(pid: int) -> bool:
    """Whether the process runs. A zombie, which waits for its parent, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1]
    except OSError:
        return False
    return state not in ("Z", "X")


def wait_gone(pids: Iterable[int]) -> None:
    """Wait until none of them runs."""
    waiting = list(pids)
    wait_for(lambda: not any(map(is_alive, waiting)), DEATH_SECONDS, f"{waiting} to be gone")


def holder(path: Path) -> int | None:
    """The process that holds the flock of a file, as the kernel lists it; None: no process."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        major, minor, inode = fields[5].split(":")
        file = os.makedev(int(major, 16), int(minor, 16)), int(inode)
        if fields[1] == "FLOCK" and file == (status.st_dev, status.st_ino):
            return int(fields[4])
    return None


def fork(body: Callable[[], Any]) -> int:
    """Run ``body`` in a forked child, which then ends without any clean-up. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    except BaseException:  # noqa: BLE001 - the child must not come back into the test
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def reap(pid: int, seconds: float = 30) -> int:
    """Wait for a forked child and return its exit code, as `os.waitstatus_to_exitcode` gives it. A child that takes too
    long is killed, and that is a failure."""
    limit = patience(seconds)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"child {pid} did not end within {limit:.0f} s")


def die() -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived")


def _listing(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
