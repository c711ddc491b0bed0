"""The recipes of docs/http-api.md, each in a real server: users find the tasks that they sent, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, inspect, select

from celery_asynctask import AsyncTask
from tests import services
from tests.integration.documents import file
from tests.integration.serving import serving
from tests.pace import patience
from tests.waiting import wait_for

PROBLEM = "urn:problem-type:celery-asynctask:"
ADA, BOB = (42, 7, "Ada Lovelace"), (43, 8, "Bob")
"""Customer, number and name of the users."""
USERS = f"USERS = {[dict(zip(('customer', 'id', 'name'), user, strict=True)) for user in (ADA, BOB)]}"
LETTERS = 20
"""Tasks that each of them sends while the other does."""

FASTAPI = f"""
from proj import summarize

{USERS}


@web.post("/login/{{number}}")
def login(request: Request, number: int):
    request.session["user"] = USERS[number]


@web.post("/thread")
def thread():
    return {{"id": summarize.delay([1, 2]).id}}


@web.post("/loop")
async def loop():
    return {{"id": summarize.delay([1, 2]).id}}


def staff(request):
    if request.session.get("user") == USERS[1]:
        return Access(customers=None)


celery.conf.asynctask_access = staff
web.mount("/staff/record", create_app(celery))
"""
"""An extra of the FastAPI application: Bob belongs to the staff as well."""

FLASK = f"""
from proj import summarize

{USERS}


@web.post("/login/<int:number>")
def login(number):
    session["user"] = USERS[number]
    return {{}}


@web.post("/thread")
def thread():
    return {{"id": summarize.delay([1, 2]).id}}
"""

DJANGO = {
    "settings.py": """
SECRET_KEY = "a secret of yours"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "shop.middleware.WhoseTasks",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.db"}}
AUTH_USER_MODEL = "shop.User"
ROOT_URLCONF = "shop.urls"
CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
CELERY_ASYNCTASK_URL = "STORE"
""",
    "models.py": """
from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    customer = models.IntegerField()
""",
    "celery.py": """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop", task_cls="celery_asynctask.django:RecordedDjangoTask")
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task
def summarize(numbers):
    return sum(numbers)
""",
    "urls.py": f"""
from django.contrib import auth
from django.http import JsonResponse
from django.urls import path

from shop.celery import summarize
from shop.models import User

{USERS}


def login(request, number):
    auth.login(request, User.objects.get(pk=USERS[number]["id"]))
    return JsonResponse({{}})


def thread(request):
    return JsonResponse({{"id": summarize.delay([1, 2]).id}})


async def loop(request):
    return JsonResponse({{"id": summarize.delay([1, 2]).id}})


urlpatterns = [path("login/<int:number>", login), path("thread", thread), path("loop", loop)]
""",
    "wsgi.py": """
import os
from wsgiref.simple_server import make_server

from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
server = make_server("127.0.0.1", 0, get_wsgi_application())
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
""",
    "made.py": f"""
import os

import django
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()
call_command("migrate", run_syncdb=True, verbosity=0)
from shop.models import User

{USERS}
for user in USERS:
    User.objects.create_user(user["name"], pk=user["id"], customer=user["customer"])
""",
}


class Site:
    """A server that runs a recipe, and its clients."""

    record = "/record/async-tasks"

    def __init__(self, address: str, store: str) -> None:
        self.address = address
        self.store = store

    @contextmanager
    def visitor(self, number: int | None = None) -> Iterator[httpx.Client]:
        """A client with cookies of its own; ``number``: logged in as one of the users."""
        with httpx.Client(base_url=self.address, timeout=patience(30)) as client:
            if number is not None:
                client.post(f"/login/{number}").raise_for_status()
            yield client

    def send(self, visitor: httpx.Client, way: str) -> str:
        """A request that sends a task; returns its id."""
        task_id: str = visitor.post(way).raise_for_status().json()["id"]
        return task_id

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Customer, creator and name of the recorded tasks, by id."""
        engine = create_engine(self.store)
        columns = (AsyncTask.celery_task_id, AsyncTask.customer, AsyncTask.created_by, AsyncTask.created_by_name)
        try:
            if not inspect(engine).has_table(AsyncTask.__tablename__):
                return {}
            with engine.connect() as connection:
                return {row[0]: tuple(row[1:]) for row in connection.execute(select(*columns))}
        finally:
            engine.dispose()

    def wait(self, count: int) -> dict[str, tuple[Any, ...]]:
        """The `rows`, once there are that many."""

        def there() -> Any:
            found = self.rows()
            return found if len(found) >= count else None

        found: dict[str, tuple[Any, ...]] = wait_for(there, 30, f"{count} rows")
        return found


@contextmanager
def served(directory: Path, store: str, *command: str) -> Iterator[Site]:
    with serving(directory, *command) as address:
        yield Site(address, store)


def project(directory: Path, store: str) -> None:
    """The `proj.py` of the docs, with another broker and store."""
    source = file("proj.py").replace("sqlite:///asynctask.db", store)
    source = source.replace('broker_url="redis://localhost:6379/0"', 'broker_url="memory://"')
    source = source.replace('result_backend="redis://localhost:6379/0"', 'result_backend="cache+memory://"')
    assert "redis" not in source
    (directory / "proj.py").write_text(source, encoding="utf-8")


def check(site: Site, *ways: str) -> None:
    """The customer and the creator of a task are recorded and decide who sees it, even if all send at once."""
    with site.visitor(0) as ada, site.visitor(1) as bob, site.visitor() as nobody, ThreadPoolExecutor(6) as pool:
        letters = [(who, way) for _ in range(LETTERS) for way in ways for who in (ada, bob, nobody)]
        sent = list(zip(pool.map(lambda letter: site.send(*letter), letters), letters, strict=True))
        rows = site.wait(len(sent))
        whose = {ada: ADA, bob: BOB, nobody: (None, None, None)}
        assert rows == {task_id: whose[who] for task_id, (who, _) in sent}

        mine = {task_id for task_id, (who, _) in sent if who is ada}
        page = ada.get(site.record, params={"limit": 1000})
        assert {one["celeryTaskId"] for one in page.json()["results"]} == mine
        assert (
            ada.get(site.record, params={"limit": 1000}, headers={"If-None-Match": page.headers["etag"]}).status_code
            == 304
        )
        assert ada.get("/record/openapi.json").json()["servers"] == [{"url": "/record"}]
        task = f"{site.record}/{mine.pop()}"
        shown = ada.get(task).json()
        assert (shown["customer"], shown["createdBy"], shown["createdByName"]) == ADA
        assert shown["taskArgs"] == [[1, 2]]
        assert problem(bob.get(task)) == (404, "not-found")
        assert problem(nobody.get(task)) == (401, "unauthenticated")
        act(site, task, ada, bob)


def act(site: Site, task: str, ada: httpx.Client, bob: httpx.Client) -> None:
    """A user with the right reruns a task from the site's own pages."""
    again, asked = f"{task}/rerun", {"unfinished": True}
    before = len(site.rows())
    assert problem(bob.post(again, json=asked)) == (404, "not-found")
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}):
        assert problem(ada.post(again, json=asked, headers=foreign)) == (403, "cross-site")
    own = {"Sec-Fetch-Site": "same-origin", "Origin": site.address}
    done = ada.post(again, json=asked, headers=own)
    assert done.status_code == 201, done.text
    assert len(site.wait(before + 1)) == before + 1  # refused requests sent nothing
    new = ada.get(f"{site.record}/{done.json()['celeryTaskId']}").json()
    assert (new["customer"], new["content"]["rerun_by"]) == (42, "Ada Lovelace")


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"].removeprefix(PROBLEM)


@pytest.mark.database
def test_fastapi(tmp_path: Path) -> None:
    with services.new_database("postgresql", tmp_path) as store:
        project(tmp_path, store)
        (tmp_path / "fastapi_web.py").write_text(file("fastapi_web.py") + FASTAPI, encoding="utf-8")
        with served(tmp_path, store, "-m", "uvicorn", "--port", "0", "fastapi_web:web") as site:
            check(site, "/thread", "/loop")
            with site.visitor(0) as ada, site.visitor(1) as bob:
                everything = bob.get("/staff/record/async-tasks", params={"limit": 1000}).json()["results"]
                assert {one["customer"] for one in everything} == {42, 43, None}
                assert "taskArgs" not in everything[0]
                assert {one["customer"] for one in bob.get(site.record).json()["results"]} == {43}
                assert problem(ada.get("/staff/record/async-tasks")) == (401, "unauthenticated")


@pytest.mark.slow
def test_flask(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'asynctask.db'}"
    project(tmp_path, store)
    (tmp_path / "flask_web.py").write_text(file("flask_web.py") + FLASK, encoding="utf-8")
    with served(tmp_path, store, "-m", "flask", "--app", "flask_web:web", "run", "--port", "0") as site:
        check(site, "/thread")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A Django project with two users, which records into an SQLite file."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, source in DJANGO.items():
        (package / name).write_text(source.replace("STORE", f"sqlite:///{tmp_path / 'asynctask.db'}"), encoding="utf-8")
    for name in ("middleware.py", "asgi.py"):
        (package / name).write_text(file(f"shop/{name}"), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "shop.made"], cwd=tmp_path, check=True, timeout=patience(60))
    return tmp_path


@pytest.mark.slow
def test_django(shop: Path) -> None:
    store = f"sqlite:///{shop / 'asynctask.db'}"
    with served(shop, store, "-m", "uvicorn", "--port", "0", "shop.asgi:application") as site:
        check(site, "/thread", "/loop")


def test_django_under_wsgi(shop: Path) -> None:
    store = f"sqlite:///{shop / 'asynctask.db'}"
    with (
        served(shop, store, "-m", "shop.wsgi") as site,
        site.visitor(0) as ada,
        site.visitor() as nobody,
    ):
        sent = {
            site.send(who, way): whose
            for who, whose in ((ada, ADA), (nobody, (None,) * 3))
            for way in ("/thread", "/loop")
        }
        assert site.wait(len(sent)) == sent
