"""The README's code runs, and its tables name what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from celery_asynctask import AsyncTask, AsyncTaskStatus
from celery_asynctask.settings import Settings
from tests import services
from tests.waiting import wait_for
from tests.workers.harness import START_SECONDS, ready, stop

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, first_line: str = "") -> str:
    """The fenced block of the README that begins with ``first_line``."""
    found = re.findall(rf"```{language}\n({re.escape(first_line)}.*?)```", README, re.DOTALL)
    assert len(found) == 1, f"{len(found)} {language} blocks begin with {first_line!r}"
    return found[0]


def python(directory: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, script],
        cwd=directory,
        env={**os.environ, "XDG_STATE_HOME": str(directory / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_switching_on(tmp_path: Path) -> None:
    """The app, the worker, what is sent and what is printed, as the README has it; only the broker is the tests'."""
    for name in ("proj.py", "send.py", "look.py", "private.py", "whose.py", "progress.py"):
        source = block("python", f"# {name}\n").replace("redis://localhost:6379/0", services.redis_url(13))
        (tmp_path / name).write_text(source)
    queue = f"readme-{tmp_path.name}"
    with (tmp_path / "proj.py").open("a") as file:
        file.write(f'\napp.conf.task_default_queue = "{queue}"\n')
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", "worker", "-c2", "-l", "INFO", "--without-mingle"],
            cwd=tmp_path,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: ready(worker, log), START_SECONDS, f"the worker to be ready; its log is {log}")
        for name in ("private.py", "progress.py"):
            python(tmp_path, name)
        python(tmp_path, "send.py")
        expected = block("text")
        wait_for(lambda: python(tmp_path, "look.py") == expected, 30, "the rows that the README shows")
        python(tmp_path, "whose.py")
        check = tmp_path / "check.py"
        check.write_text(
            block("python", "# look.py\n").replace(
                "print(task.name, task.status", "print(task.customer, task.created_by_name"
            )
        )
        wait_for(lambda: "42 Ada Lovelace" in python(tmp_path, "check.py"), 30, "the customer of whose.py")
    finally:
        stop(worker)


def test_every_setting_is_described() -> None:
    described = dict(re.findall(r"^\| `(asynctask_\w+)` \| `(.*?)` \|", README, re.MULTILINE))
    defaults = Settings()
    actual = {f"asynctask_{one.name}": getattr(defaults, one.name) for one in fields(Settings)}
    assert described.keys() == actual.keys()
    for key, value in actual.items():
        assert described[key] in (repr(value), str(value), repr(value).replace("'", '"')), key


def test_every_column_and_status_is_described() -> None:
    table = README[README.index("## The row") : README.index("## When things fail")]
    described = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    columns = set(AsyncTask.__table__.columns.keys())
    assert columns <= described, columns - described
    assert {status.value for status in AsyncTaskStatus} <= described


def test_the_commands_are_two() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rpartition(" -m ")[2] for command in commands] == ["example_worker", "pytest"]
