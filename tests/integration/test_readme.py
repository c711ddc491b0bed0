"""The code of the README and of docs/ runs, and their tables name the things that exist. With
``ASYNCTASK_WRITE_DOCS=1``, the test of the pages writes the present output of commands into them, instead of
failing."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import tomli
import yaml  # type: ignore[import-untyped]
from celery import Celery
from celery.bin.celery import celery as celery_command
from kombu import Connection
from packaging.requirements import Requirement
from sqlalchemy import create_engine, inspect

from celery_asynctask import AsyncTaskStatus
from celery_asynctask.cli import asynctask
from celery_asynctask.http.application import create_app
from celery_asynctask.queries.search.keys import KEYS
from celery_asynctask.settings import Settings
from celery_asynctask.web.parameters import PageSearch
from celery_asynctask.web.problem import TITLES
from tests import services
from tests.integration.documents import COLUMN, README, ROOT, ROW, Block, blocks, columns, file, pages, text
from tests.integration.serving import client, serving
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.harness import START_SECONDS, ready, stop

SERVE = ("-m", "celery", "-A", "proj", "asynctask", "serve", "--port", "0")
STORY = (
    "docs/getting-started.md",
    "docs/searching.md",
    "docs/configuration.md",
    "docs/http-api.md",
    "docs/operating.md",
    "docs/security.md",
    "docs/redaction.md",
)
"""Pages whose code is run in this order: one project, which grows."""
LAST = "docs/uninstalling.md"
"""The page whose code is run when the worker has ended."""
RECIPES = {"fastapi_web.py", "flask_web.py", "shop/asgi.py", "shop/middleware.py", "sso.py"}
"""Files that tests/integration/test_recipes.py and test_single_sign_on.py run in real servers."""
WRITE = "ASYNCTASK_WRITE_DOCS" in os.environ


# -- what is run


class Project:
    """The project that the pages build up, with a worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.queue = f"readme-{uuid.uuid4().hex[:12]}"
        self.ids: dict[str, str] = {}
        """Ids on the pages, each with the id that it stands for here."""

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={**os.environ, "XDG_STATE_HOME": str(self.directory / "state")},
            capture_output=True,
            encoding="utf-8",
            timeout=patience(60),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(self, name: str, source: str) -> None:
        path = self.directory / name
        if path.parent != self.directory:
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
        path.write_text(source, encoding="utf-8")

    def python(self, name: str) -> str:
        """Run a file; a file of a package is imported."""
        if "/" in name:
            return self.run(sys.executable, "-c", f"import {name.removesuffix('.py').replace('/', '.')}")
        return self.run(sys.executable, name)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker of `proj.py`, on the tests' broker."""
        source = file("proj.py").replace("redis://localhost:6379/0", services.redis_url(13))
        self.write("proj.py", f'{source}\napp.conf.task_default_queue = "{self.queue}"\n')
        log = self.directory / "worker.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "proj", "worker", "-c2", "-l", "INFO", "--without-mingle"],
                cwd=self.directory,
                env={**os.environ, "XDG_STATE_HOME": str(self.directory / "state")},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: ready(worker, log), START_SECONDS, f"the worker to be ready; its log is {log}")
            yield
        finally:
            stop(worker)
            with Connection(services.redis_url(13)) as connection:
                services.forget(connection, self.queue)

    def read(self, page: str) -> None:
        """Follow a page."""
        before = ""
        for block in blocks(page):
            if block.language == "python" and block.name not in RECIPES:
                if block.name != "proj.py":
                    self.write(block.name, block.text)
                    self.python(block.name)
            elif block.language == "text" and before:
                wait_for(lambda b=block, n=before: self.python(n) == b.text, 30, f"what {block} shows")  # type: ignore[misc]
            elif block.language == "console":
                self.show(block)
            before = block.name if block.language == "python" else ""

    def show(self, block: Block) -> None:
        """Each command of a block prints what the page says."""
        shown = commands(block)
        printed = ""
        for command, expected in shown:
            run = next(run for begin, run in COMMANDS.items() if command.startswith(begin))
            now = run(self, command, expected, block)
            printed += f"$ {self.here(command)}\n{now}"
        if WRITE:
            rewrite(block, public(printed))

    def here(self, command: str) -> str:
        """A command with the ids of this run."""
        return re.sub(r"\b[0-9a-f]{8}\b", lambda found: self.ids.get(found[0], found[0]), command)

    def compare(self, print_: Callable[[], str], expected: str, block: Block) -> str:
        """The output, once it is what the page says: rows may be under way."""
        printed = ""

        def same() -> bool:
            nonlocal printed
            printed = print_()
            return masked(printed) == masked(expected)

        try:
            wait_for(same, 3 if WRITE else 10, str(block))
        except AssertionError:
            assert WRITE or masked(printed) == masked(expected), block
        found = zip(re.findall(UUID, expected), re.findall(UUID, printed), strict=False)
        self.ids |= {theirs[:8]: ours[:8] for theirs, ours in found}
        return printed


def celery(project: Project, command: str, expected: str, block: Block) -> str:
    words = shlex.split(project.here(command))
    return project.compare(lambda: project.run(sys.executable, "-m", *words), expected, block)


def curl(project: Project, command: str, expected: str, block: Block) -> str:
    _curl, _s, _header, header, url = shlex.split(command)
    with serving(project.directory, *SERVE) as base, client(base) as server:
        path = url.removeprefix("http://127.0.0.1:5556")
        log = project.directory / "server.log"
        printed = wait_for(lambda: re.search(TOKEN, log.read_text(encoding="utf-8")), 5, f"the token in {log}")
        name, _, value = header.replace("$TOKEN", printed[0]).partition(": ")
        return project.compare(lambda: server.get(path, headers={name: value}).text + "\n", expected, block)


def token(project: Project, command: str, expected: str, block: Block) -> str:
    """The token that the command creates lets in, as the page says."""
    words = [sys.executable, "-m", *shlex.split(command)]
    made = subprocess.run(
        words, cwd=project.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True
    ).stdout
    project.compare(lambda: made, expected, block)
    _, grant, _, secret = made.strip().splitlines()
    path = project.directory / "proj.py"
    source = path.read_text(encoding="utf-8")
    path.write_text(f"{source}\napp.conf.asynctask_tokens = {ast.literal_eval(f'{{{grant}}}')}\n", encoding="utf-8")
    with serving(project.directory, *SERVE) as base, client(base) as server:
        assert server.get("/async-tasks").status_code == 401
        found = server.get("/async-tasks", headers={"Authorization": f"Bearer {secret}"}).json()["results"]
        assert {one["customer"] for one in found} == {42}
        assert "Ada Lovelace" in {one["createdByName"] for one in found}
    path.write_text(source, encoding="utf-8")
    return made


def uninstall(project: Project, command: str, expected: str, block: Block) -> str:
    """Run once: what it removes is not there a second time."""
    printed = project.run(sys.executable, "-m", *shlex.split(command))
    assert WRITE or masked(printed) == masked(expected), block
    return printed


COMMANDS = {
    "celery -A proj asynctask token": token,
    "celery -A proj asynctask uninstall": uninstall,
    "celery": celery,
    "curl": curl,
}
"""The ways to run commands of a console, by their beginnings."""
TOKEN = r"\basynctask_[\w-]{43}(?![\w-])"
UUID = r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+"
MASKS = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}\b", "ID"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+|Z)", "TIME"),
    (r'"id":\d+', "NUMBER"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (TOKEN, "TOKEN"),
    (r"-?[\d.]+ m?s\b", "SPAN"),
    (r"\S*proj\.py", "proj.py"),
    (r"celery@\S+, process \d+ of \S+", "WORKER"),
    (r"\d+ events of \d+", "N events of N"),
    (r"[\d.]+ (rows?|segments?|files|bytes|kB|events? not)\b", r"N \1"),
    (r"/\S+/celery-asynctask/[\w-]+", "JOURNAL"),
    (r"\b0\.\d\d$", "RATE"),
    (r" +", " "),
    (r" $", ""),
)
"""Parts of an output that differ in every run."""


def masked(printed: str) -> list[str]:
    for pattern, replacement in MASKS:
        printed = re.sub(pattern, replacement, printed, flags=re.MULTILINE)
    return printed.strip().splitlines()


def public(printed: str) -> str:
    """The output of a command, without anything of this machine."""
    printed = re.sub(r"/\S+/celery-asynctask/[\w-]+", "/home/shop/.local/state/celery-asynctask/shop", printed)
    printed = re.sub(r"\S+/proj\.py", "shop/proj.py", printed).replace(socket.gethostname(), "host")
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def rewrite(block: Block, now: str) -> None:
    """Write the present output of commands into the page, and into the README, which shows the same."""
    for page in (block.page, README):
        path = ROOT / page
        path.write_text(path.read_text(encoding="utf-8").replace(block.text, now), encoding="utf-8")


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console, each with its output."""
    begin, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not begin, f"{block} does not begin with a command"
    found = []
    for part in parts:
        command, _, printed = part.partition("\n")
        assert any(command.startswith(begin) for begin in COMMANDS), f"{block}: nobody runs {command!r}"
        found.append((command, printed))
    return found


@pytest.mark.broker
def test_the_pages_do_what_they_say(tmp_path: Path) -> None:
    """The pages of the story run, one after the other; only the broker is the tests'."""
    project = Project(tmp_path)
    with project.worker():
        for page in STORY:
            project.read(page)
            if page == "docs/configuration.md":
                beat_sends_for_its_customer(project)
    project.read(LAST)


BEAT = """
from celery.beat import Service
from celery.signals import beat_init
from schedule import app

app.finalize()
beat = Service(app, scheduler_cls="celery.beat:Scheduler")
beat_init.send(beat)
beat.scheduler.apply_async(beat.scheduler.schedule["nightly report"], advance=False)
"""
"""The work of `celery beat` when the entry is due."""


def beat_sends_for_its_customer(project: Project) -> None:
    project.write("sent_by_beat.py", BEAT)
    project.python("sent_by_beat.py")
    asked = ("-m", "celery", "-A", "proj", "asynctask", "list", 'periodic:"nightly report"', "--json")

    def customers() -> Any:
        return [json.loads(line)["customer"] for line in project.run(sys.executable, *asked).splitlines()]

    assert wait_for(customers, 30, "what beat has sent") == [42]


def test_the_readme_shows_what_getting_started_does() -> None:
    """So its code is run with that page."""
    there = {(one.language, one.text) for page in STORY[:1] for one in blocks(page)}
    for one in blocks(README):
        assert one.language == "sh" or (one.language, one.text) in there, one


SHOP_URL = """
from celery_asynctask.settings import Settings
from shop.celery import app

print(Settings.from_app(app).url)
"""


def test_django_s_settings_are_understood(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("shop/celery.py", "shop/settings.py"):
        project.write(name, file(name))
    project.write("url.py", SHOP_URL)
    assert project.python("url.py") == "postgresql+psycopg://shop:p%40ss%2Fw%3Ard@localhost/shop\n"


# -- what is read only


@pytest.mark.parametrize("page", pages())
def test_no_block_is_left_out(page: str) -> None:
    """Every block is run, or read by a tool for its language; none is of an unknown kind."""
    diagrams = page == "docs/architecture.md"
    before = ""
    for one in blocks(page):
        match one.language:
            case "python":
                assert one.name, f"{one} names no file"
                assert page in (README, *STORY, LAST), f"{one} is in a page that is not run"
                compile(one.text, one.name, "exec")
            case "console":
                assert page in (README, *STORY, LAST), f"{one} is in a page that is not run"
                commands(one)
            case "text":
                assert diagrams or before == "python", f"{one} is not what a file prints"
            case "sh":
                read_shell(one)
            case "ini":
                read_ini(one)
            case "yaml":
                assert list(yaml.safe_load_all(one.text)), one
            case "json":
                json.loads(one.text)
            case "sql":
                assert page == "docs/audit.md", f"{one} is not run"  # `operations.test_audit` runs those
            case "{toctree}":
                pass  # Sphinx reads it
            case _:
                pytest.fail(f"{one} is of a kind that no test reads")
        before = one.language


def test_the_story_has_every_page_with_code() -> None:
    """A page without code to run is not in the story, and the other way round."""
    told = {page for page in pages() if any(one.language in ("python", "console") for one in blocks(page))}
    assert told == {README, *STORY, LAST}


@pytest.mark.parametrize("page", pages())
def test_no_page_installs_us_from_an_index(page: str) -> None:
    assert not re.search(r"pip install ['\"]?celery-asynctask(?!\[[\w,]+\] @)", text(page))


def test_the_recipes_are_there() -> None:
    there = {one.name for page in pages() for one in blocks(page) if one.language == "python"}
    assert there >= RECIPES


def extras() -> set[str]:
    return set(tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def read_shell(block: Block) -> None:
    """Its syntax and its commands."""
    subprocess.run(["bash", "-n"], input=block.text, encoding="utf-8", check=True)
    for line in block.text.splitlines():
        for command in re.split(r"&&|\|(?=[^|]*$)", line):
            words = shlex.split(command.partition(">")[0] if "--" not in command else command, comments=True)
            if words:
                read_command(words, block)


def read_command(words: list[str], block: Block) -> None:
    program, arguments = Path(words[0]).name, words[1:]
    match program, arguments:
        case "pip", ["install", *given]:
            for one in given:
                read_requirement(one, block)
        case "celery", ["-A", _, "asynctask", *given]:
            read_ours(given, block)
        case "celery", ["-A", _, command, *_]:
            assert command in celery_command.commands, block
        case (("python" | "python3"), ["-m", module, *_]):
            assert importlib.util.find_spec(module), f"{block}: there is no module {module}"
        case "openapi-generator-cli", ["generate", *_]:
            pass  # tests/integration/generator.py runs it
        case _:
            pytest.fail(f"{block}: nobody knows {shlex.join(words)!r}")


def read_requirement(given: str, block: Block) -> None:
    """Our package is installed from a checkout or a repository, never by its name alone, and has the extras that are
    named."""
    if given.startswith("-") or "==" in given:
        return
    name, _, rest = given.partition("[")
    if name in (".", ""):
        found = set(rest.rstrip("]").split(",")) if rest else set()
    else:
        requirement = Requirement(given.replace("git+URL", "git+https://git.example/repository"))
        if requirement.name != "celery-asynctask":
            return
        assert requirement.url, f"{block} installs us from an index"
        found = requirement.extras
    assert found <= extras(), f"{block} names extras that are not there: {found - extras()}"


def read_ours(given: list[str], block: Block) -> None:
    """A command of ours, with its options."""
    context = click.Context(asynctask, info_name="asynctask")
    name, command, rest = asynctask.resolve_command(context, given[2:] if given[0] == "--url" else given)
    assert command is not None, f"{block}: there is no command {name}"
    command.make_context(name, list(rest), parent=context)


def read_ini(block: Block) -> None:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read_file(io.StringIO(block.text))
    if block.name.endswith(".service"):
        assert found.sections() == ["Unit", "Service", "Install"], block
        words = shlex.split(found["Service"]["ExecStart"])
        read_command(words, block)
    else:
        assert block.name == "alembic.ini", f"{block} is run by nobody"


def test_alembic_makes_the_tables(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("alembic.ini", file("alembic.ini"))
    project.run(sys.executable, "-m", "alembic", "upgrade", "head")
    engine = create_engine(f"sqlite:///{tmp_path / 'asynctask.db'}")
    assert inspect(engine).has_table("async_task")
    engine.dispose()


def test_ours_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools for shell scripts find no fault in them."""
    for wrong in (
        "pip install celery-asynctask",
        "pip install '.[nothing]'",
        "celery -A proj asynctask nothing",
        "celery -A proj asynctask list --nothing",
        "celery -A proj nothing",
        "rm -rf /",
    ):
        with pytest.raises((AssertionError, click.ClickException, pytest.fail.Exception)):
            read_shell(Block("none.md", 1, "sh", wrong))


# -- what tables say


def table(page: str, pattern: str) -> list[Any]:
    return re.findall(pattern, text(page), re.MULTILINE)


def test_every_setting_is_described() -> None:
    described = dict(table("docs/configuration.md", r"^\| `(asynctask_\w+)` \| `(.*?)` \|"))
    defaults = Settings()
    actual = {f"asynctask_{one.name}": getattr(defaults, one.name) for one in fields(Settings)}
    assert described.keys() == actual.keys()
    for key, value in actual.items():
        assert described[key] in (repr(value), str(value), repr(value).replace("'", '"')), key


def test_every_column_and_status_is_described() -> None:
    found = COLUMN.search(text(ROW))
    assert found is not None
    assert found[0] == columns(), "python -m tests.integration.documents writes the table"
    described = set(table(ROW, r"^\| `(\w+)`"))
    assert {status.value for status in AsyncTaskStatus} <= described


def test_every_search_key_is_described() -> None:
    described = {
        one for row in table("docs/searching.md", r"^\| (`\w+`(?:, `\w+`)*) \| ") for one in re.findall(r"\w+", row)
    }
    assert KEYS.keys() <= described, f"docs/searching.md, The keys: no line for {KEYS.keys() - described}"


def test_every_command_is_described() -> None:
    rows = table("docs/searching.md", r"^\| (`[a-z].*?`) \| ")
    described = {one.split()[0] for row in rows for one in re.findall(r"`(.+?)`", row)}
    there = set(asynctask.list_commands(click.Context(asynctask)))
    assert there <= described, there - described


def test_every_route_and_parameter_is_described() -> None:
    page = "docs/http-api.md"
    document = create_app(Celery(set_as_current=False)).openapi()
    actual = {f"{method.upper()} {path}" for path, one in document["paths"].items() for method in one}
    described = table(page, r"^\| `((?:GET|POST) \S+)`")
    assert sorted(described) == sorted({*actual, "GET /openapi.json", "GET /ping"})
    parameters = {one.alias or name for name, one in PageSearch.model_fields.items()}
    words = set(re.findall(r"`-?(\w+)`", text(page)))
    assert parameters <= words, parameters - words
    orders = document["components"]["schemas"]["AsyncTaskOrdering"]["enum"]
    assert {one.removeprefix("-") for one in orders} <= words


def test_every_problem_is_described() -> None:
    assert table("docs/http-api.md", r"^\| `([\w-]+)` \| \d+ \|") == list(TITLES)


def test_the_commands_are_two() -> None:
    found = table(README, r"^python3 -m venv .*$")
    assert [command.rpartition(" -m ")[2] for command in found] == ["example_worker", "pytest"]


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= 200
