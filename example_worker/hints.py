"""What to try next: commands that work as they are printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console

_VARIABLES = ("EXAMPLE_BROKER_URL", "EXAMPLE_RESULT_BACKEND", "EXAMPLE_DATABASE_URL")
_SQL = "SELECT name, status, count(*), sum(retries) FROM async_task GROUP BY name, status"
_PYTHON = """\
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from celery_asynctask import AsyncTask
from example_worker import app

with Session(create_engine(app.conf.asynctask_url)) as session:
    for task in session.scalars(select(AsyncTask).order_by(AsyncTask.created_at.desc()).limit(10)):
        print(task.created_at, task.status, task.name, task.error_message or "")"""
_SERVERS = """\
EXAMPLE_BROKER_URL=redis://localhost:6379/0 \\
EXAMPLE_RESULT_BACKEND=redis://localhost:6379/1 \\
EXAMPLE_DATABASE_URL=postgresql+psycopg://postgres@localhost/postgres \\
"""


def show(console: Console, data_dir: Path, directory: Path) -> None:
    """Print them."""
    python = _command("python", "python3") or shlex.quote(sys.executable)
    here = _here(data_dir)
    steps = [("Look at it in a browser, at http://127.0.0.1:5556/", _celery(data_dir, "asynctask serve"))]
    if not os.environ.get("EXAMPLE_DATABASE_URL") and _command("sqlite3"):
        file = shlex.quote(str(data_dir / "records.db"))
        steps.append(("Ask in SQL", f'sqlite3 -box {file} "{_SQL}"'))
    steps.append(("Ask in Python", f"{here} {python} - <<'END'\n{_PYTHON}\nEND"))
    steps.append(("Run the worker alone", run_worker(data_dir)))
    send = f"from example_worker.tasks import take_census; print(take_census.delay({str(directory)!r}))"
    steps.append(("and send it a census from another terminal", f"{here} {python} -c {_quote(send)}"))
    steps.append(("On servers (RabbitMQ: amqp://guest:guest@localhost//)", f"{_SERVERS}{python} -m example_worker"))
    console.print("\nNext things to try", style="bold italic")
    if kept := [name for name in _VARIABLES if os.environ.get(name)]:
        console.print(f"(where {' and '.join(kept)} are set as they are for this run)", highlight=False)
    for what, command in steps:
        console.print(f"\n# {what}", style="dim", highlight=False, markup=False)
        console.print(command, highlight=False, markup=False, soft_wrap=True)


def run_worker(data_dir: Path) -> str:
    """The command that runs the worker alone."""
    return _celery(data_dir, "worker --loglevel=INFO")


def _celery(data_dir: Path, arguments: str) -> str:
    celery = _command("celery") or f"{shlex.quote(sys.executable)} -m celery"
    return f"{_here(data_dir)} {celery} -A example_worker {arguments}"


def _here(data_dir: Path) -> str:
    return f"EXAMPLE_DATA_DIR={shlex.quote(str(data_dir))}"


def _command(*names: str) -> str | None:
    """The name by which a shell finds a command; those of Python must be of the environment that runs now."""
    for name in names:
        found = shutil.which(name)
        if found and (name == "sqlite3" or Path(found).parent == Path(sys.executable).parent):
            return name
    return None


def _quote(text: str) -> str:
    """Quoted for a shell, in double quotes where that is enough."""
    return shlex.quote(text) if set(text) & set('"\\$`!') else f'"{text}"'
