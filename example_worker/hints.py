"""The commands to try next. Each works as it is printed."""

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
    """Print the commands."""
    python = _command("python", "python3") or shlex.quote(sys.executable)
    variable = _data_dir_variable(data_dir)
    steps = [("Look at the records in a browser: it prints the address", _celery(data_dir, "asynctask serve"))]
    if not os.environ.get("EXAMPLE_DATABASE_URL") and _command("sqlite3"):
        file = shlex.quote(str(data_dir / "records.db"))
        steps.append(("Query them in SQL", f'sqlite3 -box {file} "{_SQL}"'))
    steps.append(("Query them in Python", f"{variable} {python} - <<'END'\n{_PYTHON}\nEND"))
    steps.append(("Run only the worker", run_worker(data_dir)))
    send = f"from example_worker.tasks import take_census; print(take_census.delay({str(directory)!r}))"
    steps.append(("Send it a census, from another terminal", f"{variable} {python} -c {_quote(send)}"))
    steps.append(
        ("Use servers (for RabbitMQ: amqp://guest:guest@localhost//)", f"{_SERVERS}{python} -m example_worker")
    )
    console.print("\nNext steps", style="bold italic")
    if variables := [name for name in _VARIABLES if os.environ.get(name)]:
        console.print(f"(in a shell where {' and '.join(variables)} are set as for this run)", highlight=False)
    for title, command in steps:
        console.print(f"\n# {title}", style="dim", highlight=False, markup=False)
        console.print(command, highlight=False, markup=False, soft_wrap=True)


def run_worker(data_dir: Path) -> str:
    """The command that runs only the worker."""
    return _celery(data_dir, "worker --loglevel=INFO")


def _celery(data_dir: Path, arguments: str) -> str:
    celery = _command("celery") or f"{shlex.quote(sys.executable)} -m celery"
    return f"{_data_dir_variable(data_dir)} {celery} -A example_worker {arguments}"


def _data_dir_variable(data_dir: Path) -> str:
    return f"EXAMPLE_DATA_DIR={shlex.quote(str(data_dir))}"


def _command(*names: str) -> str | None:
    """The first name by which a shell finds a command. Commands of Python must be those of this environment."""
    for name in names:
        path = shutil.which(name)
        if path and (name == "sqlite3" or Path(path).parent == Path(sys.executable).parent):
            return name
    return None


def _quote(text: str) -> str:
    """The text quoted for a shell, in double quotes if that is enough."""
    return shlex.quote(text) if set(text) & set('"\\$`!') else f'"{text}"'
