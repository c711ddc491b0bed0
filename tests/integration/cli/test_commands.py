"""Every command as a user starts it: a process, with the output and effect of the command in this process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click import Command, Context

import celery_asynctask
from celery_asynctask.cli.group import Commands
from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import lines, published
from tests.integration.commands import SECONDS, Ended, Project
from tests.integration.purge import record
from tests.integration.rows import stored
from tests.pace import patience
from tests.workflows import NOTIFY, SHIP, order

SOURCE = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})

@app.task(name="shop.charge")
def charge(*args, **kwargs):
    pass
"""
VARIES = (
    (r"asynctask_[\w-]{43}", "TOKEN"),
    (r"[0-9a-f]{64}", "HASH"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"\d[\d.,:TZ-]*( |m?s\b)*", "N "),
    (r" +", " "),
)
"""Parts of the output that differ in each run of commands about the present, or of commands that create something."""


class Case(NamedTuple):
    words: tuple[str, ...]
    varies: bool = False
    code: int = 0


CASES = {
    "audit": Case(("--json",)),
    "code": Case((), code=1),
    "doctor": Case((), varies=True, code=1),
    "erase": Case(("--customer", "42", "--yes")),
    "errors": Case(("--utc",)),
    "export": Case(("status:SUCCESS", "-o", "-"), varies=True),
    "import": Case(("bundle.ndjson", "--into", "sqlite:///other.db")),
    "list": Case(("status:SUCCESS", "--utc")),
    "openapi": Case(()),
    "purge": Case(("--older-than", "1d", "--yes")),
    "quarantine": Case(("replay", "--all")),
    "recorder": Case(("--once",), varies=True),
    "rerun": Case(("charged", "--yes", "--by", "Ada"), varies=True),
    "schema": Case(()),
    "show": Case((SHIP, "--utc")),
    "stats": Case(("since:2025-06-01", "until:2025-07-01")),
    "token": Case(("support", "--customer", "42"), varies=True),
    "tokens": Case(()),
    "top": Case((), varies=True),
    "tree": Case((SHIP, "--waterfall")),
    "uninstall": Case(("--dry-run",)),
    "upgrade": Case(()),
    "verify": Case(("--all",), code=1),
    "why": Case((NOTIFY,)),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """With a workflow, a task of customer 42, one event that no recorder has taken yet, and a bundle of a task."""
    path = tmp_path / "project"
    path.mkdir()
    settings = Settings(url=f"sqlite:///{path / 'rows.db'}", journal_dir=path / "journal")
    store = Store(settings)
    store.prepare()
    store.write(lines(order()))
    record(store, "success", "charged", customer=42)
    store.close()
    Directory(settings.directory, settings.store_id)
    journal = Journal(settings.directory, settings.store_id)
    journal.append(encode({**published(), "id": "waiting"}))
    journal.close()
    made = Project(path, SOURCE, asynctask_url=settings.url, asynctask_journal_dir=str(path / "journal"))
    (path / "bundle.ndjson").write_text(made.run("export", "customer:42").out, encoding="utf-8")
    return made


def told(ended: Ended, varies: bool) -> Ended:
    """The parts that can be compared."""
    texts = [ended.out, ended.err]
    for pattern, name in VARIES if varies else ():
        texts = [re.sub(pattern, name, text) for text in texts]
    return Ended(ended.code, *texts)


def tasks(path: Path) -> dict[str, dict[str, Any]]:
    """All tasks of each database of the project."""
    found = {}
    for file in sorted(path.glob("*.db")):
        store = Store(Settings(url=f"sqlite:///{file}"))
        found[file.name] = {task_id: partial.task for task_id, partial in stored(store).items()}
        store.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", CASES)
def test_a_process_does_what_is_done_in_this_one(project: Project, command: str, tmp_path: Path) -> None:
    case = CASES[command]
    shutil.copytree(project.path, tmp_path / "before")
    here = project.run(command, *case.words)
    done_here = tasks(project.path)
    shutil.rmtree(project.path)
    shutil.copytree(tmp_path / "before", project.path)
    there = project.run_process(command, *case.words)
    assert here.code == there.code == case.code, (here, there)
    assert here.out or here.err
    assert told(there, case.varies) == told(here, case.varies)
    done = tasks(project.path)
    assert {name: len(rows) for name, rows in done.items()} == {name: len(rows) for name, rows in done_here.items()}
    if command != "rerun":
        assert done == done_here


def test_every_command_is_here() -> None:
    """Except ``serve``, which goes on until it is stopped: `test_serve`."""
    assert set(Commands("asynctask").list_commands(Context(Command("asynctask")))) == {*CASES, "serve"}


PACKAGE = Path(celery_asynctask.__file__).parents[1]
NO_APP = "No app was given (celery -A APP): these are the default settings.\n"


def without_app(path: Path, *words: str, **environment: str) -> Ended:
    """``celery asynctask <words>`` in a directory, without an app."""
    known = {name: value for name, value in os.environ.items() if name not in ("APP", "CELERY_APP")}
    command = [sys.executable, "-m", "celery", *words]
    ended = subprocess.run(
        command,
        cwd=path,
        env={**known, **environment},
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=patience(SECONDS),
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_a_command_without_an_app_says_so(tmp_path: Path) -> None:
    ended = without_app(tmp_path, "asynctask", "list")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith(f"{NO_APP}Error: There is no database file {tmp_path}/asynctask.db:")


@pytest.mark.slow
def test_where_nothing_needs_to_be_said_about_the_app(project: Project, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (url,) = {Settings(url=f"sqlite:///{file}").url for file in project.path.glob("*.db")}
    for words in (("list", "--help"), ("list", "--json"), ("--url", url, "list")):
        assert NO_APP not in without_app(empty, "asynctask", *words).err
    assert NO_APP in without_app(empty, "asynctask", "recorder", "--once", XDG_STATE_HOME=str(empty)).err
    assert NO_APP not in without_app(project.path, "-A", "proj", "asynctask", "list").err
    assert NO_APP not in without_app(project.path, "asynctask", "list", CELERY_APP="proj").err
    (empty / "celeryconfig.py").write_text(f"asynctask_url = {url!r}\n", encoding="utf-8")
    configured = without_app(empty, "asynctask", "list", "status:SUCCESS", PYTHONPATH=f"{empty}:{PACKAGE}")
    assert (configured.code, configured.err) == (0, "")
