"""The example application, run as a user runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt, AsyncTaskStatus
from celery_asynctask.core.status import TERMINAL
from tests.integration.serving import client
from tests.pace import patience
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
DEADLINE = 60


def start_example(cwd: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """``python -m example_worker`` in ``cwd``, on its embedded broker, result backend and database."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EXAMPLE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "example_worker", *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for its end; if it hangs, it is killed and the test fails."""
    try:
        out, err = process.communicate(timeout=patience(DEADLINE))
    except subprocess.TimeoutExpired:
        process.terminate()  # it stops its worker
        process.communicate(timeout=patience(DEADLINE))
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_example(cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start it and wait for its end."""
    return finish(start_example(cwd, *arguments, **variables))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two packages: a good file and one of Python 2; a file in Latin-1 that does not say so."""
    root = tmp_path / "tree"
    (root / "shapes").mkdir(parents=True)
    (root / "words").mkdir()
    (root / "shapes" / "good.py").write_text(
        'class Circle:\n    """Round."""\n\n    def area(self):\n        return 3\n', encoding="utf-8"
    )
    (root / "shapes" / "broken.py").write_text('x = 1\nprint "no"\n', encoding="utf-8")
    (root / "words" / "legacy.py").write_bytes('def café():\n    return "été"\n'.encode("latin-1"))
    return root


def test_records_a_census_with_a_failure_and_a_retry(tmp_path: Path, tree: Path) -> None:
    done = run_example(tmp_path, str(tree))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""

    data = tmp_path / "example_worker_data" / "run-1"
    assert data.stat().st_mode & 0o077 == 0, "it has what tasks were given"
    engine = create_engine(f"sqlite:///{data / 'records.db'}")
    with Session(engine) as session:
        tasks = session.scalars(select(AsyncTask)).all()
        attempts = session.scalars(select(AsyncTaskAttempt).order_by(AsyncTaskAttempt.run_key)).all()
    engine.dispose()
    names = sorted(task.name.removeprefix("example_worker.tasks.") for task in tasks)
    assert names == ["add_up", "measure", "measure", "parse", "quote", "summarize", "summarize", "take_census"]
    by_name = {task.name.rpartition(".")[2]: task for task in tasks}
    root = by_name["take_census"]
    assert {task.root_task_id for task in tasks} == {root.celery_task_id}
    assert all(task.status in TERMINAL and task.completed_at for task in tasks)

    (failed,) = (task for task in tasks if task.status != AsyncTaskStatus.SUCCESS)
    assert (failed.status, failed.name) == (AsyncTaskStatus.FAILURE, by_name["parse"].name)
    assert failed.error_type == "SyntaxError"
    assert "(broken.py, line 2)" in (failed.error_message or "")
    assert failed.task_kwargs["file"]["path"] == "shapes/broken.py"
    assert (by_name["quote"].parent_task_id, by_name["quote"].result) == (failed.celery_task_id, 'print "no"')

    (retried,) = (task for task in tasks if task.retries)
    assert (retried.status, retried.retries, retried.task_kwargs["package"]) == (AsyncTaskStatus.SUCCESS, 1, "words")
    runs = [one for one in attempts if one.celery_task_id == retried.celery_task_id]
    assert [one.outcome for one in runs] == ["retried", "succeeded"]
    assert "legacy.py" in (runs[0].error_message or "")

    assert by_name["add_up"].result["total"] == {
        "files": 2,
        "lines": 7,
        "functions": 2,
        "classes": 1,
        "documented": 1,
        "longest": {"name": "shapes/good.py:area", "lines": 2},
    }
    for shown in (
        "8 rows in async_task",
        "SyntaxError",
        "legacy.py",
        "├── ",
        "9 of 9 attempts have a span",
        str(data.relative_to(tmp_path)),
    ):
        assert shown in done.stdout
    assert "\x1b" not in done.stdout
    overview, cause = in_the_browser(tmp_path, done.stdout, failed.celery_task_id)
    assert failed.name in overview
    assert "SyntaxError" in cause
    assert "broken.py" in cause


def in_the_browser(cwd: Path, shown: str, failed: str) -> tuple[str, str]:
    """The page to which the address leads that the example's command `asynctask serve` prints, and the page behind its
    link to the failure."""
    found = re.search(r"^# Look .*\nEXAMPLE_DATA_DIR=(\S+) (.* asynctask serve)$", shown, re.MULTILINE)
    assert found, shown
    data_dir, command = found.groups()
    log = cwd / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*shlex.split(command), "--port", "0"],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "EXAMPLE_DATA_DIR": data_dir},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        ready = wait_for(
            lambda: re.search(r"^Sign in: (http://[^/]+)(\S+)#code=(\S+)$", log.read_text(encoding="utf-8"), re.M),
            DEADLINE,
            f"{log}: a server",
        )
        with client(ready[1]) as asked:
            overview = asked.post(ready[2], data={"token": ready[3]})
            link = re.search(rf'href="([^"]*/tasks/{failed})"', overview.raise_for_status().text)
            assert link, overview.text
            return overview.text, asked.get(link[1]).raise_for_status().text
    finally:
        server.terminate()
        server.wait(patience(DEADLINE))


def test_leaves_no_process_behind(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    assert run_example(tmp_path, str(tree), EXAMPLE_DATA_DIR=str(data)).returncode == 0
    log = (data / "worker.log").read_text(encoding="utf-8")
    assert "Warm shutdown" in log
    assert not list((data / "broker").iterdir())
    assert not list((data / "journal").glob("*.events"))


def test_stops_the_worker_on_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    process = start_example(tmp_path, sysconfig.get_paths()["stdlib"], EXAMPLE_DATA_DIR=str(tmp_path))
    wait_for(lambda: log.exists() and "received" in log.read_text(encoding="utf-8"), DEADLINE, "the first task")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "example_worker: stopped")
    assert "Traceback" not in done.stderr
    assert "Warm shutdown" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_refuses_a_directory_without_python_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run_example(tmp_path, name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("example_worker: ")
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / name) in done.stderr


def test_says_in_one_line_which_server_is_away(tmp_path: Path, tree: Path) -> None:
    done = run_example(tmp_path, str(tree), EXAMPLE_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("example_worker: the database of the records cannot be used, check EXAMPLE_DATABASE")
    assert done.stderr.count("\n") == 1
