"""`celery asynctask uninstall` as an operator runs it: it previews, confirms, and refuses beside a running worker."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from celery_asynctask.store.tables import metadata
from tests.histories import published
from tests.integration.commands import SECONDS, Project, started
from tests.integration.purge import record
from tests.integration.store.test_migrations import tables_in
from tests.pace import patience
from tests.waiting import wait_for


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A database with two tasks, and a journal with one event."""
    settings = Settings(url=f"sqlite:///{tmp_path}/rows.db", journal_dir=tmp_path / "journal")
    store = Store(settings)
    store.prepare()
    record(store, "success", "a", "b")
    store.close()
    journal = Journal(settings.directory, settings.store_id)
    journal.append(encode(published()))
    journal.close()
    return Project(tmp_path, asynctask_url=settings.url, asynctask_journal_dir=str(settings.directory))


def is_whole(project: Project) -> bool:
    return (
        len(tables_in(f"sqlite:///{project.path}/rows.db")) == len(metadata.tables)
        and len(list(project.path.glob("journal/*"))) == 3
    )


def is_gone(project: Project) -> bool:
    return not tables_in(f"sqlite:///{project.path}/rows.db") and not (project.path / "journal").exists()


def test_it_shows_asks_and_removes(project: Project) -> None:
    shown = project.run("uninstall", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[0] for line in shown.lines] == ["database", "tables", "journal"]
    assert "async_task (2 rows), async_task_attempt (2 rows)," in shown.out
    assert f"{project.path}/journal: 1 segment, " in shown.out
    assert shown.out.endswith("1 event not stored yet\n")
    asked = project.run("uninstall")
    assert asked.code == 2
    assert "Not done: no terminal to confirm on. Check with --dry-run, then use --yes." in asked.err
    assert is_whole(project)
    done = project.run("uninstall", "--yes")
    assert (done.code, done.lines[-1]) == (0, "Removed 10 tables and 5 files of the journal.")
    assert done.err == f"The file {project.path}/rows.db stays: delete it if nothing else uses it.\n"
    assert is_gone(project)
    again = project.run("uninstall", "--yes")
    assert (again.code, again.out) == (
        0,
        f"Nothing is left in sqlite:///{project.path}/rows.db, nor in a journal on this host.\n",
    )


def test_json(project: Project) -> None:
    (project.path / "journal" / "notes.txt").touch()
    done = project.run("uninstall", "--yes", "--json")
    found, removed = done.values
    assert (found["state"], found["tables"]["async_task"], found["in_use"], found["elsewhere"]) == ("found", 2, [], [])
    assert found["journal"] | {"size": 0} == {
        "path": f"{project.path}/journal",
        "segments": 1,
        "quarantines": 0,
        "size": 0,
        "unstored": 1,
        "files": 3,
        "strangers": ["notes.txt"],
    }
    assert (removed["state"], removed["files"], removed["directory"]) == ("removed", 5, False)
    assert f"The directory {project.path}/journal stays, for what is not ours: notes.txt." in done.err


def test_a_writer_is_in_the_way(project: Project) -> None:
    journal = Journal(project.path / "journal", Settings(url=f"sqlite:///{project.path}/rows.db").store_id)
    journal.append(encode(published()))
    looked = project.run("uninstall", "--dry-run")
    assert looked.code == 0
    assert f"It would be refused now, because these still record: producer {os.getpid()} on " in looked.err
    refused = project.run("uninstall", "--yes")
    assert refused.code == 1
    assert refused.err.startswith(f"Error: Nothing is removed, because these still record: producer {os.getpid()} on ")
    assert len(tables_in(f"sqlite:///{project.path}/rows.db")) == len(metadata.tables)
    journal.close()
    assert project.run("uninstall", "--yes").code == 0
    assert is_gone(project)


def test_another_user_of_the_same_database(tmp_path: Path) -> None:
    """The app lacks this user's rights; the app's journal is removed with it."""
    url = "postgresql+psycopg://shop@127.0.0.1:9/shop"
    settings = Settings(url=url, journal_dir=tmp_path / "journal")
    Directory(settings.directory, settings.store_id)
    project = Project(tmp_path, asynctask_url=url, asynctask_journal_dir=str(settings.directory))
    ended = project.run("uninstall", "--yes", group=("--url", "postgresql+psycopg://admin:secret@127.0.0.1:9/shop"))
    assert (ended.code, ended.out) == (3, ""), "the database is away"
    assert "admin:***@127.0.0.1:9/shop cannot be written" in ended.err
    assert [path.name for path in settings.directory.iterdir()] == ["store"]


@pytest.mark.slow
def test_a_worker_is_in_the_way_until_it_ends(project: Project) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "proj",
        "worker",
        "-P",
        "solo",
        "--without-mingle",
        "-l",
        "WARNING",
    ]
    worker = subprocess.Popen(
        command,
        cwd=project.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    started.append(worker)
    lock = project.path / "journal" / "drain.lock"
    wait_for(lock.exists, SECONDS, "the worker's recorder")
    refused = project.run_process("uninstall", "--yes")
    assert refused.code == 1
    assert f"the recorder, process {worker.pid} of this host" in refused.err
    assert "Stop them, or restart them with asynctask_enabled = False" in refused.err
    assert len(tables_in(f"sqlite:///{project.path}/rows.db")) == len(metadata.tables)
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=patience(SECONDS))
    done = project.run_process("uninstall", "--yes")
    assert (done.code, done.lines[-1].startswith(f"Removed {len(metadata.tables)} tables")) == (0, True), done
    assert is_gone(project)


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_it_asks_on_a_terminal(project: Project, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "uninstall"]
    process = subprocess.Popen(command, cwd=project.path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"for good? [y/N]" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    assert process.wait(patience(SECONDS)) == code
    os.close(ours)
    assert is_gone(project) if code == 0 else is_whole(project)
