"""A command that runs on a terminal of its own: its output, and keys for it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import TracebackType

from tests.waiting import wait_for

SECONDS = 30
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
"""The beginning and the end of a full-screen view: the terminal's alternate screen."""
_OWN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Ctrl-C goes to the process that owns the terminal."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Screen:
    """``celery -A proj asynctask <arguments>`` in a directory, on a terminal of ``rows`` by ``columns``."""

    def __init__(self, path: Path, *arguments: str, rows: int = 50, columns: int = 160) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _OWN_TERMINAL,
                sys.executable,
                "-m",
                "celery",
                "-A",
                "proj",
                "asynctask",
                *arguments,
            ],
            cwd=path,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**environment, "TZ": "UTC", "TERM": "xterm-256color"},
        )
        self.shown = ""
        """All output so far."""
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def echoes(self) -> bool:
        """Whether typed keys are echoed, as on a terminal in its usual mode."""
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def read(self) -> None:
        """Read new output."""
        found = b""
        while select.select([self._ours], [], [], 0)[0]:
            found += os.read(self._ours, 65536)
        self.shown += self._decoder.decode(found)

    def wait_for(self, text: str) -> None:
        """Wait until ``text`` appears after the text of the last wait; styles do not count."""

        def is_there() -> bool:
            self.read()
            plain = _STYLE.sub("", self.shown)
            found = plain.find(text, self._at)
            assert found >= 0 or self.process.poll() is None, f"it ended: {plain}"
            self._at = found + len(text) if found >= 0 else self._at
            return found >= 0

        wait_for(is_there, SECONDS, f"{text!r} on the screen")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def ended(self) -> int:
        """The exit code, once it has ended."""

        def is_over() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_for(is_over, SECONDS, "its end")
        self.read()
        return self.process.returncode
