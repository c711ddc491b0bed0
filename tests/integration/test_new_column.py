"""A new column works with a line in the registry, a migration, and the place that reads it from Celery."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import celery_asynctask
from celery_asynctask.store.tables import SCHEMA_VERSION
from tests.pace import patience

pytestmark = pytest.mark.every_database

PACKAGE = Path(celery_asynctask.__file__).parent
COLUMN = """
    Column("urgency", Type.INTEGER, Group.ORIGIN, event="urgency", search="urgency", api=Property("Of its message"),
           doc="Priority of its message; null: none."),
"""
NEXT = f"{int(SCHEMA_VERSION) + 1:04}"
MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{SCHEMA_VERSION}"

def upgrade():
    op.add_column("async_task", sa.Column("urgency", sa.Integer()))
"""
READ = """    if (urgency := info.get("priority")) is not None:
        text += f'"urgency":{urgency},'
"""
PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update({settings!r})

@app.task(name="proj.work")
def work():
    pass
"""
RECORD = "from proj import app, work; {calls}"
STORE = ("-m", "celery", "-A", "proj", "asynctask", "recorder", "--once")
LOOK = """
import httpx, json, anyio
from proj import app
from celery_asynctask.http import create_app

async def look():
    transport = httpx.ASGITransport(create_app(app, loopback=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        found = (await client.get("/async-tasks", params={"search": "urgency:>5"})).json()["results"]
        document = (await client.get("/openapi.json")).json()
    described = document["components"]["schemas"]["AsyncTask"]["properties"]["urgency"]
    print(json.dumps([[one["urgency"] for one in found], described["description"]]))

anyio.run(look)
"""


def edit(path: Path, before: str, more: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, more + before), encoding="utf-8")


def python(directory: Path, *arguments: str, package: Path = PACKAGE.parent) -> str:
    """Run Python in a directory, with the package from another directory."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(package)])},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=patience(60),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_a_new_column_takes(database: str, tmp_path: Path) -> None:
    project, changed = tmp_path / "project", tmp_path / "changed"
    project.mkdir()
    settings = {"asynctask_url": database, "asynctask_journal_dir": str(tmp_path / "journal")}
    (project / "proj.py").write_text(PROJECT.format(settings=settings), encoding="utf-8")
    python(project, "-c", RECORD.format(calls="work.apply(priority=9)"))  # the tables and a row as they are at present
    python(project, *STORE)

    copy = changed / "celery_asynctask"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    edit(copy / "core" / "columns.py", ')\n"""The columns of `AsyncTask`, in', COLUMN.lstrip("\n"))
    (copy / "migrations" / "versions" / f"{NEXT}_urgency.py").write_text(MIGRATION, encoding="utf-8")
    edit(copy / "capture" / "extract.py", '    if known("retries") or known("replaced_task_nesting")', READ)

    def asynctask(*arguments: str) -> str:
        return python(project, "-m", "celery", "-A", "proj", "asynctask", *arguments, package=changed)

    def values(text: str) -> list[Any]:
        return [json.loads(line)["urgency"] for line in text.splitlines()]

    asynctask("upgrade")
    python(project, "-c", RECORD.format(calls="work.apply(priority=7); work.apply()"), package=changed)
    python(project, *STORE, package=changed)

    assert values(asynctask("list", "urgency:7", "--json")) == [7], "search and command line"
    assert sorted(map(str, values(asynctask("list", "--json")))) == ["7", "None", "None"]
    assert json.loads(python(project, "-c", LOOK, package=changed)) == [[7], "Of its message"], "HTTP API"
    exported = project / "bundle.ndjson"
    asynctask("export", "--output", str(exported))
    other = f"sqlite:///{tmp_path / 'other.db'}"
    asynctask("import", str(exported), "--into", other)
    assert values(asynctask("--url", other, "list", "urgency:7", "--json")) == [7], "bundle"
