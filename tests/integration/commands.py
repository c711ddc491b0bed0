"""Runs ``celery asynctask`` as an operator does, in a directory with a project: in this process, which is quick, or in
a process of its own for tests about its beginning, its end, its terminal or signals."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from celery import _state
from celery.bin.celery import celery
from click.testing import CliRunner

from tests.integration.isolation import isolated, leave
from tests.pace import patience

PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})
"""
SECONDS = 60


started: list[subprocess.Popen[str]] = []
"""Processes of the present test."""


def end_all() -> None:
    """End the processes that a failed test left, and close their pipes: otherwise the next tests fail, too."""
    while started:
        process = started.pop()
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Ended(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def values(self) -> list[Any]:
        """The objects that ``--json`` printed."""
        return [json.loads(line) for line in self.lines]


class Project:
    """A directory with ``proj.py``, whose app has these settings."""

    def __init__(self, path: Path, source: str = PROJECT, **settings: Any) -> None:
        self.path = path
        (path / "proj.py").write_text(source.format(settings=settings), encoding="utf-8")

    def start(self, *arguments: str, group: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """``celery -A proj asynctask <group> <arguments>``, running."""
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", "asynctask", *group, *arguments],
            cwd=self.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "TZ": "UTC", **environment},
        )
        started.append(process)
        return process

    def run_process(self, *arguments: str, given: str = "", group: tuple[str, ...] = (), **environment: str) -> Ended:
        """The same, after its end; ``given`` is typed into it. No traceback may ever appear."""
        process = self.start(*arguments, group=group, **environment)
        out, err = process.communicate(given, timeout=patience(SECONDS))
        assert "Traceback (most recent" not in err, err
        return Ended(process.returncode, out, err)

    def run(self, *arguments: str, given: str = "", group: tuple[str, ...] = (), **environment: str) -> Ended:
        """The same in this process, in a tenth of the time; exceptions of the command are raised."""
        words = ["-A", "proj", "asynctask", *group, *arguments]
        runner = CliRunner()
        with isolated(self.path, {"TZ": "UTC", **environment}):
            command: Any = _Command()
            ended = runner.invoke(command, words, given, catch_exceptions=False, prog_name="celery")
        assert "Traceback (most recent" not in ended.stderr, ended.stderr
        return Ended(ended.exit_code, ended.stdout, ended.stderr)


class _Command:
    """Celery's command and the end of its process, as far as `CliRunner` supports a command."""

    def main(self, **how: Any) -> None:
        before = set(_state._apps)
        with mock.patch.multiple(sys, __stdout__=sys.stdout, __stderr__=sys.stderr):  # for Celery's log
            try:
                celery.main(auto_envvar_prefix="CELERY", **how)
            finally:
                leave(set(_state._apps) - before)
