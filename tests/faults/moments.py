"""The moments at which a process can be killed, numbered in the order of its actions: before or after a call that
changes something outside the process, or at a line of the package's own code."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

import celery_asynctask
from tests.faults.proc import die

Body = Callable[[], None]
Way = Callable[[Body, int], Body]

CALLS: tuple[tuple[Any, str], ...] = (
    (os, "open"),
    (os, "write"),
    (os, "close"),
    (os, "ftruncate"),
    (os, "rename"),
    (os, "unlink"),
    (os, "mkdir"),
    (fcntl, "flock"),
    (DefaultDialect, "do_begin"),
    (DefaultDialect, "do_execute"),
    (DefaultDialect, "do_executemany"),
    (DefaultDialect, "do_commit"),
)
"""Python's pathlib calls `os` for its changes to files."""
_PAGE = os.sysconf("SC_PAGESIZE")
_HERE = str(Path(celery_asynctask.__file__).parent)
_TRACED = tuple(f"{_HERE}/{name}" for name in ("journal/", "recorder/drain.py", "store/store.py"))


def _at_call(before: bool) -> Way:
    def way(body: Body, moment: int) -> Body:
        def doomed() -> None:
            count = -1

            def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
                def called(*args: Any, **kwargs: Any) -> Any:
                    nonlocal count
                    if function is write and args[1] == b".":  # the test's own word
                        return write(*args)
                    count += 1
                    mine = count
                    if before and mine == moment:
                        die()
                    try:
                        return function(*args, **kwargs)
                    finally:
                        if not before and mine == moment:
                            die()

                return called

            write = os.write
            for owner, name in CALLS:
                setattr(owner, name, wrap(getattr(owner, name)))
            body()

        return doomed

    return way


def within_write(body: Body, moment: int) -> Body:
    """Kills the process in the middle of a `write`, where the kernel cuts one: it checks for a SIGKILL at page
    borders."""

    def doomed() -> None:
        count = -1
        write = os.write

        def torn(handle: int, data: bytes) -> int:
            nonlocal count
            room = _PAGE - os.fstat(handle).st_size % _PAGE
            if stat.S_ISREG(os.fstat(handle).st_mode) and len(data) > room:
                count += 1
                if count == moment:
                    write(handle, data[:room])
                    die()
            return write(handle, data)

        os.write = torn  # type: ignore[assignment] # the journal writes bytes
        body()

    return doomed


def _at_line(body: Body, moment: int) -> Body:
    def doomed() -> None:
        count = -1

        def local(_frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal count
            if event == "line":
                count += 1
                if count == moment:
                    die()
            return local

        def trace(frame: FrameType, _event: str, _argument: object) -> Any:
            return local if frame.f_code.co_filename.startswith(_TRACED) else None

        sys.settrace(trace)
        body()
        sys.settrace(None)

    return doomed


WAYS: dict[str, Way] = {"before": _at_call(True), "after": _at_call(False), "line": _at_line}
