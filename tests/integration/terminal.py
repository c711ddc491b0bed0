"""Runs a command on a pseudo terminal, as a person does."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path


def on_terminal(path: Path, *arguments: str, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Exit code and terminal output of ``celery -A proj asynctask <arguments>``."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "proj", "asynctask", *arguments],
        cwd=path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TZ": "UTC", "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            data = os.read(ours, 65_536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        sent += data
    os.close(ours)
    return process.wait(), sent.decode().replace("\r\n", "\n")
