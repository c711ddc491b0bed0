"""The CPU time and memory of a tree of processes, read from outside. Linux only."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = 2
"""Kind of a POSIX CPU clock, for all threads of a process together (CPUCLOCK_SCHED, <linux/posix-timers.h>)."""


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found.extend(int(child) for child in (task / "children").read_text(encoding="utf-8").split())
    return found


def cpu_ns(pids: list[int]) -> int:
    """Nanoseconds of user and system time of these processes, including threads that have ended.

    It reads the kernel's own clock of each process, which is exact to the nanosecond even while the process runs;
    /proc/<pid>/stat counts in ticks of 10 ms, and /proc/<pid>/schedstat covers only living threads. The clock's id is
    what clock_getcpuclockid(3) returns, which Python does not offer.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | _SCHEDULED) for pid in pids)


def megabytes(pid: int) -> float:
    """Proportional set size of the process in MB: its own memory and its part of shared memory."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no PSS of process {pid}")
