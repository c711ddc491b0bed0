"""The recipe of docs/security.md: a proxy signs people in and says in headers who they are, and `serve` believes that
proxy alone."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from celery_asynctask.core.event import Kind
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import ID, Delivery, failure, lines, published
from tests.integration.documents import file
from tests.integration.serving import serving
from tests.integration.test_recipes import problem, project
from tests.pace import patience

PASSWORD = "the-password-of-the-proxy"
PROXY = f"""
import base64
import os

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

USERS = {{"ada": "oncall,everybody", "sue": "support", "bob": "everybody"}}
IDENTITY = {{"authorization", "x-forwarded-user", "x-forwarded-email", "x-forwarded-groups"}}
client = httpx.AsyncClient(base_url=os.environ["UPSTREAM"])


async def forward(request):
    user = request.cookies.get("session")
    if user not in USERS:
        return RedirectResponse("/oauth2/sign_in", 302)
    email, groups = f"{{user}}@example.com", USERS[user]
    headers = [(name, value) for name, value in request.headers.items() if name not in IDENTITY]
    secret = base64.b64encode(f"{{email}}:{PASSWORD}".encode()).decode()
    headers += [("authorization", f"Basic {{secret}}"), ("x-forwarded-email", email), ("x-forwarded-groups", groups)]
    path = request.scope["raw_path"].decode() + ("?" + request.url.query if request.url.query else "")
    answer = await client.request(request.method, path, headers=headers, content=await request.body())
    return Response(answer.content, answer.status_code, headers=dict(answer.headers))


app = Starlette(routes=[Route("/{{path:path}}", forward, methods=["GET", "POST"])])
uvicorn.run(app, port=0)
"""


class Site:
    def __init__(self, proxy: str, upstream: str) -> None:
        self.proxy = proxy
        self.upstream = upstream

    def get(self, path: str, person: str = "", **headers: str) -> httpx.Response:
        """As a person who has signed in at the proxy."""
        cookies = {"session": person} if person else {}
        return httpx.get(f"{self.proxy}{path}", cookies=cookies, headers=headers, timeout=patience(10))

    def post(self, path: str, person: str, **headers: str) -> httpx.Response:
        url, cookies = f"{self.proxy}{path}", {"session": person}
        return httpx.post(url, cookies=cookies, headers=headers, json={"dryRun": True}, timeout=patience(10))

    def directly(self, *headers: tuple[str, str]) -> httpx.Response:
        """A request that went around the proxy."""
        return httpx.get(f"{self.upstream}/async-tasks", headers=headers, timeout=patience(10))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """For the processes that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The proxy in front of `serve`, over a record with one task that failed."""
    directory = tmp_path_factory.mktemp("site")
    behind = directory / "proxy"
    behind.mkdir()
    store = Store(Settings(url=f"sqlite:///{directory / 'asynctask.db'}"))
    store.prepare()
    run = Delivery(2)
    store.write(lines([published(), run.started(3), run.ended(Kind.FAILED, 9, **failure("the reason"))]))
    store.close()
    project(directory, f"sqlite:///{directory / 'asynctask.db'}")
    (directory / "sso.py").write_text(file("sso.py"), encoding="utf-8")
    (behind / "proxy.py").write_text(PROXY, encoding="utf-8")
    serve = ("-m", "celery", "-A", "sso", "asynctask", "serve", "--port", "0")
    with (
        environment(PROXY_PASSWORD=PASSWORD),
        serving(directory, *serve) as upstream,
        environment(UPSTREAM=upstream),
        serving(behind, "proxy.py") as proxy,
    ):
        yield Site(proxy, upstream)


def test_a_stranger_is_sent_to_sign_in(site: Site) -> None:
    answer = site.get("/console/")
    assert (answer.status_code, answer.headers["location"]) == (302, "/oauth2/sign_in")


def test_groups_are_roles(site: Site) -> None:
    task = f"/async-tasks/{ID}"
    seen = site.get(task, "ada").json()
    assert (seen["errorMessage"], seen["taskArgs"]) == ("the reason", [7, "é"])
    seen = site.get(task, "sue").json()
    assert seen["errorMessage"] == "the reason"
    assert "taskArgs" not in seen
    assert site.get("/console/", "sue").status_code == 200
    assert problem(site.post(f"{task}/rerun", "sue")) == (403, "forbidden")
    assert problem(site.post(f"{task}/rerun", "ada")) == (409, "refused"), "she may, but no such task is known here"
    assert problem(site.get(task, "bob")) == (401, "unauthenticated"), "he is in no group that has a role"


def test_a_person_cannot_choose_their_groups(site: Site) -> None:
    for headers in ({"X-Forwarded-Groups": "oncall"}, {"X_Forwarded_Groups": "oncall"}):
        assert problem(site.get("/async-tasks", "bob", **headers)) == (401, "unauthenticated")
        assert "taskArgs" not in site.get(f"/async-tasks/{ID}", "sue", **headers).json()


def test_only_the_proxy_is_believed(site: Site) -> None:
    who, groups = ("X-Forwarded-Email", "ada@example.com"), ("X-Forwarded-Groups", "oncall")
    assert site.directly(basic("ada@example.com", PASSWORD), who, groups).status_code == 200
    forged = (
        (who, groups),
        (basic("ada@example.com", "wrong"), who, groups),
        (basic("sue@example.com", PASSWORD), who, groups),
        (basic("", PASSWORD), ("X-Forwarded-Email", ""), groups),
        (basic("ada@example.com", PASSWORD), who, ("X-Forwarded-Groups", "support"), groups),
        (basic("ada@example.com", PASSWORD), who, who, groups),
    )
    for headers in forged:
        assert problem(site.directly(*headers)) == (401, "unauthenticated"), headers


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    """As a variable that is not set gives one in Compose."""
    project(tmp_path, f"sqlite:///{tmp_path / 'asynctask.db'}")
    (tmp_path / "sso.py").write_text(file("sso.py"), encoding="utf-8")
    with environment(PROXY_PASSWORD=""):
        ended = subprocess.run([sys.executable, "-c", "import sso"], cwd=tmp_path, capture_output=True, check=False)
    assert (ended.returncode, b"is empty" in ended.stderr) == (1, True)


def basic(user: str, password: str) -> tuple[str, str]:
    return "Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
