"""The README's code runs, and its tables name what is there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import uuid
from dataclasses import fields
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection

from celery_asynctask import AsyncTaskStatus
from celery_asynctask.core.columns import TASK, Type
from celery_asynctask.http.application import create_app
from celery_asynctask.settings import Settings
from celery_asynctask.web.parameters import PageSearch
from celery_asynctask.web.problem import TITLES
from tests import services
from tests.integration.serving import client, serving
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.harness import START_SECONDS, ready, stop

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SERVE = ("-m", "celery", "-A", "proj", "asynctask", "serve", "--port", "0")


def block(language: str, first_line: str = "") -> str:
    """The fenced block of the README that begins with ``first_line``."""
    found: list[str] = re.findall(rf"```{language}\n({re.escape(first_line)}.*?)```", README, re.DOTALL)
    assert len(found) == 1, f"{len(found)} {language} blocks begin with {first_line!r}"
    return found[0]


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "XDG_STATE_HOME": str(directory / "state")},
        capture_output=True,
        encoding="utf-8",
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(directory: Path, script: str) -> str:
    return run(directory, sys.executable, script)


MASKS = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}\b", "ID"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+", "TIME"),
    (r'"id":\d+', "NUMBER"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (r"\basynctask_[\w-]{43}$", "TOKEN"),
    (r"-?[\d.]+ m?s\b", "SPAN"),
    (r"\S*proj\.py", "proj.py"),
    (r"celery@\S+, process \d+ of \S+", "WORKER"),
    (r"\d+ events of \d+", "N events of N"),
    (r"\b0\.\d\d$", "RATE"),
    (r" +", " "),
)
"""What is another in every run."""


def masked(text: str) -> list[str]:
    for pattern, replacement in MASKS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip().splitlines()


def commands(first: str) -> list[list[str]]:
    """The commands of the console block that begins with ``first``, each with what it prints."""
    return [part.split("\n", 1) for part in re.split(r"^\$ ", block("console", first), flags=re.MULTILINE)[1:]]


def tour(directory: Path) -> None:
    """Each command of the tour prints what the README says."""
    ids: dict[str, str] = {}
    shown = commands("$ celery -A proj asynctask list")
    assert len(shown) == 5
    for command, expected in shown:
        words = command.replace("celery", f"{sys.executable} -m celery", 1).split()
        printed = run(directory, *(ids.get(word, word) for word in words))
        assert masked(printed) == masked(expected), command
        found = zip(re.findall(UUID, expected), re.findall(UUID, printed), strict=False)
        ids |= {theirs[:8]: ours[:8] for theirs, ours in found}


def http_tour(directory: Path) -> None:
    """What `curl` gets is what the README says."""
    shown = commands("$ curl")
    assert len(shown) == 2
    with serving(directory, *SERVE) as base, client(base) as server:
        for command, expected in shown:
            _curl, _s, url = shlex.split(command)
            got = server.get(url.removeprefix("http://127.0.0.1:5556"))
            assert masked(got.text) == masked(expected), command


def token_tour(directory: Path) -> None:
    """The token that the README's command makes lets in, and shows what the README says."""
    ((command, expected),) = commands("$ celery -A proj asynctask token")
    words = [sys.executable, "-m", *shlex.split(command)]
    made = subprocess.run(
        words, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True
    )
    assert masked(made.stdout) == masked(expected)
    _, grant, _, token = made.stdout.strip().splitlines()
    with (directory / "proj.py").open("a", encoding="utf-8") as file:
        file.write(f"\napp.conf.asynctask_tokens = {ast.literal_eval(f'{{{grant}}}')}\n")
    with serving(directory, *SERVE) as base, client(base) as server:
        assert server.get("/async-tasks").status_code == 401
        found = server.get("/async-tasks", headers={"Authorization": f"Bearer {token}"})
        assert [(one["customer"], one["createdByName"]) for one in found.json()["results"]] == [(42, "Ada Lovelace")]


UUID = r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+"


@pytest.mark.broker
def test_switching_on(tmp_path: Path) -> None:
    """The app, the worker, what is sent and what is printed, as the README has it; only the broker is the tests'."""
    for name in ("proj.py", "send.py", "look.py", "private.py", "whose.py", "progress.py"):
        source = block("python", f"# {name}\n").replace("redis://localhost:6379/0", services.redis_url(13))
        (tmp_path / name).write_text(source, encoding="utf-8")
    queue = f"readme-{uuid.uuid4().hex[:12]}"
    with (tmp_path / "proj.py").open("a", encoding="utf-8") as file:
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
        tour(tmp_path)
        http_tour(tmp_path)
        python(tmp_path, "whose.py")
        check = tmp_path / "check.py"
        check.write_text(
            block("python", "# look.py\n").replace(
                "print(task.name, task.status", "print(task.customer, task.created_by_name"
            ),
            encoding="utf-8",
        )
        wait_for(lambda: "42 Ada Lovelace" in python(tmp_path, "check.py"), 30, "the customer of whose.py")
        token_tour(tmp_path)
    finally:
        stop(worker)
        with Connection(services.redis_url(13)) as connection:
            services.forget(connection, queue)


def test_every_setting_is_described() -> None:
    described = dict(re.findall(r"^\| `(asynctask_\w+)` \| `(.*?)` \|", README, re.MULTILINE))
    defaults = Settings()
    actual = {f"asynctask_{one.name}": getattr(defaults, one.name) for one in fields(Settings)}
    assert described.keys() == actual.keys()
    for key, value in actual.items():
        assert described[key] in (repr(value), str(value), repr(value).replace("'", '"')), key


KINDS = {
    **dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), "integer"),
    Type.BOOLEAN: "boolean",
    Type.TEXT: "text",
    Type.TIME: "time",
    Type.STATUS: "enum",
    Type.JSON: "JSON",
}
"""What the README calls types; any other is a string."""


def test_every_column_and_status_is_described() -> None:
    table = README[README.index("## The row") : README.index("## When things fail")]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)
    assert rows == [(one.name, KINDS.get(one.type, "string"), one.doc.replace("``", "`")) for one in TASK]
    described = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert {status.value for status in AsyncTaskStatus} <= described


def section(first: str, last: str) -> str:
    """The README from one heading to another."""
    return README[README.index(f"\n{first}\n") : README.index(f"\n{last}\n")]


def test_every_route_and_parameter_is_described() -> None:
    over_http = section("## Over HTTP", "### Who may see what")
    document = create_app(Celery(set_as_current=False)).openapi()
    actual = {f"{method.upper()} {path}" for path, one in document["paths"].items() for method in one}
    described = re.findall(r"^\| `((?:GET|POST) \S+)`", over_http, re.MULTILINE)
    assert sorted(described) == sorted({*actual, "GET /openapi.json"})
    parameters = {one.alias or name for name, one in PageSearch.model_fields.items()}
    words = set(re.findall(r"`-?(\w+)`", over_http))
    assert parameters <= words, parameters - words
    orders = document["components"]["schemas"]["AsyncTaskOrdering"]["enum"]
    assert {one.removeprefix("-") for one in orders} <= words


def test_every_problem_is_described() -> None:
    described = re.findall(r"^\| `([\w-]+)` \| \d+ \|", section("### When it says no", "### Clients"), re.MULTILINE)
    assert described == list(TITLES)


def test_the_commands_are_two() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert [command.rpartition(" -m ")[2] for command in commands] == ["example_worker", "pytest"]
