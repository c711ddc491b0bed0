"""Running ``celery asynctask`` as an operator does: a process of its own, in a directory with a project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})
"""
SECONDS = 60


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def values(self) -> list[Any]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.lines]


class Project:
    """A directory with ``proj.py``, whose app has these settings."""

    def __init__(self, path: Path, source: str = PROJECT, **settings: Any) -> None:
        self.path = path
        (path / "proj.py").write_text(source.format(settings=settings))

    def start(self, *arguments: str, group: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """``celery -A proj asynctask <group> <arguments>``, running."""
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", "asynctask", *group, *arguments],
            cwd=self.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TZ": "UTC", **environment},
        )

    def run(self, *arguments: str, given: str = "", group: tuple[str, ...] = (), **environment: str) -> Ended:
        """The same, ended; ``given`` is what is typed. No traceback may ever be seen."""
        process = self.start(*arguments, group=group, **environment)
        out, err = process.communicate(given, timeout=SECONDS)
        assert "Traceback (most recent" not in err, err
        return Ended(process.returncode, out, err)
