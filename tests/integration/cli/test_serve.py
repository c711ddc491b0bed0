"""`celery asynctask serve`, `openapi` and `token` as an operator runs them."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import socket
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from celery_asynctask.core.tokens import hashed, read_tokens
from celery_asynctask.operations.credentials import Credentials, Use
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.commands import SECONDS, Project
from tests.integration.http.client import OURS, THEIRS, TOKENS, is_problem, tell
from tests.integration.serving import client
from tests.pace import patience
from tests.tokens import token_of
from tests.waiting import wait_for

WITHOUT = """
import sys
sys.modules["{missing}"] = None
from celery import Celery
app = Celery("proj", broker="memory://")
app.conf.update({settings!r})
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    made.prepare()
    tell(made, "ours", OURS)
    tell(made, "theirs", THEIRS)
    yield made.settings.url
    made.close()


@contextmanager
def serving(project: Project, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a running server, which is stopped if it has not ended."""
    log = project.path / "serve.log"
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "serve", "--port", "0", *arguments]
        process = subprocess.Popen(command, cwd=project.path, stdout=output, stderr=subprocess.STDOUT, encoding="utf-8")
    try:

        def address() -> Any:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return re.search(r"http://\S+:[0-9]+", log.read_text(encoding="utf-8"))

        found = wait_for(address, SECONDS, f"the server; its log is {log}")[0]
        wait_for(lambda: answers(found), SECONDS, "an answer")
        yield found, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(patience(SECONDS))


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=patience(SECONDS)).status_code > 0
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_it_serves_until_it_is_stopped(url: str, tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url=url)
    with serving(project, "--open") as (address, process), client(address) as server:
        assert address.startswith("http://127.0.0.1:")
        answer = server.get("/async-tasks")
        assert {one["celeryTaskId"] for one in answer.json()["results"]} == {"ours", "theirs"}
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        evil = server.get("/async-tasks", headers={"Host": "evil.example"})
        is_problem(evil, "forbidden", 403)
        proxied = server.get("/async-tasks", headers={"X-Forwarded-For": "127.0.0.1"})
        is_problem(proxied, "forbidden", 403)
        is_problem(server.post("/async-tasks/purge", json={"olderThan": "1d"}), "forbidden", 403)
        is_problem(server.get("/async-tasks?limit=0"), "invalid-parameter", 422, "limit")
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(SECONDS)) in (0, -signal.SIGTERM)
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert f"Console and API: {address}  (Ctrl-C stops)\nEvery user of this host can read it: --open." in log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.slow
def test_only_the_user_who_started_it_is_let_in(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a code, which `code` prints, too; programs by a token. No log has what was sent."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project = Project(tmp_path, asynctask_url=url)
    with serving(project, "--access-log") as (address, process), client(address) as server:
        log = (tmp_path / "serve.log").read_text(encoding="utf-8")
        is_problem(server.get("/async-tasks"), "unauthenticated", 401)
        bearer = re.search(r"^Token for programs, while this server runs: (asynctask_\S+)$", log, re.MULTILINE)
        assert bearer is not None
        answer = server.get("/async-tasks", headers={"Authorization": f"Bearer {bearer[1]}"})
        assert len(answer.json()["results"]) == 2
        printed = re.search(rf"^Sign in: {re.escape(address)}/console/sign-in#code=(\S+)$", log, re.MULTILINE)
        assert printed is not None
        [another] = project.run("code").lines
        link, _, code = another.partition("#code=")
        assert link == f"{address}/console/sign-in"
        assert project.run("code", "--port", "1").code == 1
        for secret in (printed[1], code):
            page = server.post("/console/sign-in", data={"token": secret})
            assert page.status_code == 200, "the overview, to which it leads"
            assert ">Errors</a>" in page.text
            server.cookies.clear()
            assert server.post("/console/sign-in", data={"token": secret}).status_code == 401, "once"
        [announced] = (tmp_path / "state" / "celery-asynctask" / "serve").iterdir()
        assert announced.stat().st_mode & 0o777 == 0o600
        assert announced.parent.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(SECONDS)) == 0
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert code not in log
    assert log.count(bearer[1]) == log.count(printed[1]) == 1
    assert not announced.parent.exists()
    ended = project.run("code")
    assert ended.code == 1
    assert "No server of this user takes codes. Start one" in ended.err


def test_open_is_for_this_host_without_credentials(url: str, tmp_path: Path) -> None:
    for tokens, arguments in ((TOKENS, ()), ({}, ("--host", "0.0.0.0"))):
        project = Project(tmp_path, asynctask_url=url, asynctask_tokens=tokens)
        ended = project.run("serve", "--port", "0", "--open", *arguments)
        assert ended.code == 2
        assert "--open is for a server on 127.0.0.1 without asynctask_tokens" in ended.err


def test_a_file_of_tokens_that_others_can_read_is_refused_at_once(url: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("{}", encoding="utf-8")
    path.chmod(0o644)
    ended = Project(tmp_path, asynctask_url=url, asynctask_tokens=str(path)).run("serve", "--port", "0")
    assert ended.code == 2
    assert f"chmod 600 {path}" in ended.err


@pytest.mark.slow
def test_with_tokens_it_listens_anywhere(url: str, tmp_path: Path) -> None:
    """And no token is in its log."""
    with (
        serving(Project(tmp_path, asynctask_url=url, asynctask_tokens=TOKENS), "--host", "0.0.0.0") as (listening, _),
        client(listening.replace("0.0.0.0", "127.0.0.1")) as server,
    ):
        is_problem(server.get("/async-tasks"), "unauthenticated", 401)
        headers = {"Authorization": f"Bearer {token_of('ours')}"}
        [task] = server.get("/async-tasks", headers=headers).json()["results"]
        assert task["celeryTaskId"] == "ours"
    log = (tmp_path / "serve.log").read_text(encoding="utf-8")
    assert "Started server process" in log
    assert token_of("ours") not in log


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_without_credentials_it_listens_to_this_host_alone(url: str, tmp_path: Path, host: str) -> None:
    ended = Project(tmp_path, asynctask_url=url).run("serve", "--port", "0", "--host", host)
    assert (ended.code, ended.out) == (2, "")
    assert f"Other hosts can reach {host or 'all addresses'}: set asynctask_tokens" in ended.err


def test_a_name_that_has_another_address_too_is_not_of_this_host_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    ended = Project(tmp_path, asynctask_url=url).run("serve", "--port", "0", "--host", "shop.example")
    assert ended.code == 2
    assert "Other hosts can reach shop.example: set asynctask_tokens" in ended.err


def test_a_port_that_is_in_use(url: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = Project(tmp_path, asynctask_url=url).run("serve", "--port", str(port))
    assert ended.code == 1
    assert f"Error: Cannot listen on 127.0.0.1, port {port}: Address already in use. Choose others" in ended.err


def test_a_host_that_there_is_not(url: str, tmp_path: Path) -> None:
    ended = Project(tmp_path, asynctask_url=url).run("serve", "--host", "no.such.host.invalid")
    assert ended.code == 1
    assert "'no.such.host.invalid' has no address" in ended.err


def test_an_access_function_that_is_not_there(url: str, tmp_path: Path) -> None:
    for command in ("serve", "openapi"):
        ended = Project(tmp_path, asynctask_url=url, asynctask_access="no.such.function").run(command)
        assert ended.code == 2
        assert "'asynctask_access' names 'no.such.function', which cannot be imported" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(url: str, tmp_path: Path, missing: str) -> None:
    source = WITHOUT.replace("{missing}", missing)
    ended = Project(tmp_path, source, asynctask_url=url).run_process("serve", "--port", "0")
    assert ended.code == 1
    assert ended.err.count("\n") == 1, ended.err
    assert (
        f"The console and the HTTP API need {missing}. Install the extra: pip install 'celery-asynctask[http]'."
        in ended.err
    )


# -- openapi


@pytest.mark.slow
def test_the_document_needs_no_database(tmp_path: Path) -> None:
    project = Project(tmp_path, asynctask_url="postgresql+psycopg://user:hunter2@127.0.0.1:9/nowhere")
    ended = project.run("openapi")
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {"/async-tasks", "/async-tasks/{id}", "/health"}
    assert "hunter2" not in ended.out
    for seed in ("1", "2"):
        assert project.run_process("openapi", PYTHONHASHSEED=seed) == ended, "always the same"
    assert {one.name for one in tmp_path.iterdir()} <= {"proj.py", "__pycache__"}, "nothing is made"


# -- token


@pytest.mark.slow
def test_a_token_works_with_the_configuration_that_it_says(url: str, tmp_path: Path) -> None:
    made = Project(tmp_path).run("token", "support", "--customer", str(OURS), "--right", "payloads")
    assert made.code == 0
    [token] = made.lines
    assert token.startswith("asynctask_")
    assert len(token) > 40
    assert token not in made.err, "what is configured is no secret"
    tokens = literal_eval(f"{{{made.err.splitlines()[1].strip()}}}")
    assert tokens["support"]["customers"] == [OURS]
    project = Project(tmp_path, asynctask_url=url, asynctask_tokens=tokens)
    with serving(project) as (address, _), client(address) as server:
        is_problem(server.get("/async-tasks"), "unauthenticated", 401)
        headers = {"Authorization": f"Bearer {token}"}
        [task] = server.get("/async-tasks", headers=headers).json()["results"]
        assert (task["celeryTaskId"], task["result"]) == ("ours", {"paid": True})
    other = Project(tmp_path).run("token", "support", "--customer", str(OURS))
    assert other.lines != [token], "no two are the same"


@pytest.mark.parametrize(
    "arguments", [("x",), ("x", "--all-customers", "--customer", "1"), ("x", "--customer", ""), ("--all-customers",),
                  ("x", "--all-customers", "--right", "everything")],
)  # fmt: skip
def test_a_token_says_whose_tasks_it_sees(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = Project(tmp_path).run("token", *arguments)
    assert (ended.code, ended.out) == (2, "")


def test_a_token_of_all_customers(tmp_path: Path) -> None:
    rights = ("--right", "payloads", "--right", "rerun", "--right", "purge")
    made = Project(tmp_path).run("token", "ops", "--all-customers", *rights)
    [grant] = literal_eval(f"{{{made.err.splitlines()[1].strip()}}}").values()
    assert (grant["customers"], grant["rights"]) == ("*", ["read", "payloads", "rerun", "purge"])
    assert os.linesep.join(made.lines).count("asynctask_") == 1


def test_a_token_that_expires(tmp_path: Path) -> None:
    made = Project(tmp_path).run("token", "ops", "--all-customers", "--expires", "90d", "--created-by", "7")
    token = read_tokens(literal_eval(f"{{{made.err.splitlines()[1].strip()}}}"))["ops"]
    assert token.created is not None
    assert token.expires == token.created + dt.timedelta(days=90)
    assert token.created_by == frozenset({"7"})
    assert "never expires" not in made.err
    assert "never expires" in Project(tmp_path).run("token", "ops", "--all-customers").err
    for age in ("soon", "90", "-1d", "200y"):
        assert Project(tmp_path).run("token", "ops", "--all-customers", "--expires", age).code == 2


def test_tokens_in_a_file_are_listed_with_their_last_use(url: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    project = Project(tmp_path, asynctask_url=url, asynctask_tokens=str(path))
    made = project.run("token", "ops", "--all-customers", "--right", "rerun", "--into", str(path))
    assert made.code == 0
    assert hashed(made.lines[0]) in path.read_text(encoding="utf-8")
    assert made.lines[0] not in made.err + path.read_text(encoding="utf-8")
    assert project.run("token", "old", "--customer", "42", "--expires", "0s", "--into", str(path)).code == 0
    assert "has a token 'ops' already" in project.run("token", "ops", "--customer", "1", "--into", str(path)).err
    credentials = Credentials(Settings(url=url))
    at = dt.datetime(2027, 1, 31, 12, tzinfo=dt.timezone.utc)
    credentials.used({hashed(made.lines[0])[:16]: Use("ops", at)})
    credentials.close()
    ops, old = project.run("tokens", "--json").values
    assert (ops["name"], ops["state"], ops["customers"], ops["rights"]) == ("ops", "valid", "*", ["read", "rerun"])
    assert ops["last_used"] == "2027-01-31T12:00:00.000000Z"
    assert (old["name"], old["state"], old["customers"], old["last_used"]) == ("old", "expired", [42], None)
    shown = project.run("tokens", "--utc")
    assert shown.code == 0
    assert re.search(r"^ops +valid +\* .*read, rerun.* 2027-01-31 12:00:00", shown.out, re.MULTILINE)
    assert hashed(made.lines[0])[:8] not in shown.out
    assert "No tokens" in Project(tmp_path, asynctask_url=url).run("tokens").err
