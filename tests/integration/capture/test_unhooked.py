"""Children of a fork that nobody tells Python of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select

from celery_asynctask.store.models import AsyncTask, AsyncTaskSource
from tests.integration.commands import Project
from tests.pace import patience


@pytest.mark.slow
def test_each_child_is_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.capture.unhooked", str(tmp_path)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=patience(60),
    )
    parent, *children = (json.loads(line) for line in done.stdout.splitlines())
    assert len(children) == 2, done.stderr
    assert all(child["seemed_to_run"] for child in children)
    assert [parent["is_elected"], any(child["is_elected"] for child in children)] == [True, True]
    assert done.stderr == ""

    url = f"sqlite:///{tmp_path / 'asynctask.db'}"
    project = Project(tmp_path, asynctask_url=url, asynctask_journal_dir=str(tmp_path / "journal"))
    verified = project.run("verify")
    assert verified.code == 0, verified.out
    processes, statuses = stored(url)
    assert processes.keys() == {parent["source"], *(child["source"] for child in children)}
    assert all(last == stored for last, stored, _ in processes.values()), processes
    assert processes[parent["source"]][2], "a child was taken for its parent"
    assert statuses == {"PENDING": 14, "SUCCESS": 14}


def stored(url: str) -> tuple[dict[str, tuple[int, int, bool]], dict[str, int]]:
    """Of each process, the number of its last event, how many are stored, and whether it is known to have ended; and
    the number of tasks with each status."""
    of = AsyncTaskSource
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(select(of.source, of.last_number, of.stored, of.ended_at)).all()
        statuses = connection.execute(select(AsyncTask.status, func.count()).group_by(AsyncTask.status)).all()
    engine.dispose()
    processes = {source: (last, stored, ended_at is not None) for source, last, stored, ended_at in found}
    return processes, {status.value: count for status, count in statuses}
