"""The OpenAPI document: valid and complete; generated clients have the `AsyncTask` that their users know."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_asynctask.core.status import SHOWN
from celery_asynctask.http import create_app
from celery_asynctask.queries.search.order import ORDERS
from tests.integration.generator import generate, run_generator
from tests.pace import patience

DATA = Path(__file__).parent / "data"
"""`AsyncTask.md` is the page of the resource in the generated client of the previous API."""


@pytest.fixture(scope="module")
def document() -> Any:
    app = Celery("document", broker="memory://", set_as_current=False)
    made = create_app(app).openapi()
    app.close()
    return made


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@pytest.fixture(scope="module")
def client(document: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the TypeScript client."""
    return generate(document, tmp_path_factory.mktemp("client"))


@pytest.mark.slow
def test_it_is_valid(document: Any, tmp_path: Path) -> None:
    """By the schema of OpenAPI 3.1 and the generator's own rules."""
    import schemathesis  # takes seconds, of all who look at this file

    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    done = run_generator("validate", "-i", str(tmp_path / "openapi.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No validation issues detected" in done.stdout
    broken = {**document, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    with pytest.raises(Exception, match="description"):
        schemathesis.openapi.from_dict(broken).validate()


@pytest.mark.slow
def test_the_page_of_the_resource(client: Path) -> None:
    """Names, types, order, descriptions and flags of the properties, to the letter."""
    assert (client / "docs" / "AsyncTask.md").read_text(encoding="utf-8") == (DATA / "AsyncTask.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_statuses_and_orders(document: Any, client: Path) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["AsyncTaskStatusEnum"]["enum"] == [status.value for status in SHOWN]
    page = (client / "docs" / "AsyncTaskStatusEnum.md").read_text(encoding="utf-8")
    assert all(f"(value: `'{status.value}'`)" in page for status in SHOWN)
    assert len(schemas["AsyncTaskOrdering"]["enum"]) == len(ORDERS)
    code = (client / "api.ts").read_text(encoding="utf-8")
    assert "createdAtDescending: '-createdAt'" in code
    assert "createdAt: 'createdAt'" in code, "not CreatedAt2"


def test_everything_is_described(document: Any) -> None:
    """Except the properties of the resource, whose descriptions stay as they were."""
    silent = [
        f"{name} {one['name']}"
        for name, operation in operations(document)
        for one in operation.get("parameters", ())
        if not one.get("description")
    ]
    silent += [name for name, one in operations(document) if not one["description"] or not one["summary"]]
    schemas = document["components"]["schemas"]
    silent += [name for name, one in schemas.items() if name != "AsyncTask" and not one.get("description")]
    silent += [
        f"{name}.{key}"
        for name, one in schemas.items()
        if name != "AsyncTask"
        for key, value in one.get("properties", {}).items()
        if not value.get("description")
    ]
    assert not silent
    assert {tag["name"] for tag in document["tags"]} == {
        tag for _, operation in operations(document) for tag in operation["tags"]
    }
    assert "description" not in schemas["AsyncTask"]


def test_every_status_is_where_it_happens(document: Any) -> None:
    always = {"401", "403", "422", "429", "503"}
    etag = {"200", "304"}
    statuses = {name: operation["responses"].keys() - always for name, operation in operations(document)}
    assert all(always <= operation["responses"].keys() for _, operation in operations(document))
    assert statuses == {
        "GET /async-tasks": etag,
        "POST /async-tasks/purge": {"200", "413"},
        "GET /async-tasks/stats": etag,
        "GET /async-tasks/{id}": {*etag, "404"},
        "GET /async-tasks/{id}/attempts": {*etag, "404"},
        "POST /async-tasks/{id}/rerun": {"200", "201", "404", "409", "413"},
        "GET /async-tasks/{id}/workflow": {*etag, "404"},
        "GET /audit": {"200"},
        "GET /health": {"200"},
    }
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert response["description"], name
            if status >= "400":
                assert response["content"] == problem, name


def test_names_read_well_in_clients(document: Any) -> None:
    """No generated title; no parameter that may be null; numbers of 64 bits have their format."""
    text = json.dumps(document)
    for word in ("Createdbyname", "Celerytaskid", "HTTPValidationError", "ValidationError", "Successful Response"):
        assert word not in text
    for name, operation in operations(document):
        for one in operation.get("parameters", ()):
            kinds = [choice["type"] for choice in one["schema"].get("anyOf", ())]
            assert kinds in ([], ["integer", "string"]), (name, one["name"])
            assert "title" not in one["schema"], (name, one["name"])
    properties = document["components"]["schemas"]["AsyncTask"]["properties"]
    assert properties["id"]["format"] == "int64"
    assert {"type": "integer", "format": "int64"} in properties["customer"]["anyOf"]
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(document: Any) -> None:
    """And every schema is used."""
    schemas = document["components"]["schemas"]

    def references(node: Any) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            if key == "$ref":
                yield value
            yield from references(value)

    used = {one.removeprefix("#/components/schemas/") for one in references(document)}
    assert used == schemas.keys()


def test_it_is_printed_the_same_by_every_process(document: Any, tmp_path: Path) -> None:
    """So that a repository can hold it and compare it."""
    (tmp_path / "proj.py").write_text(
        "from celery import Celery\napp = Celery('proj', broker='memory://')\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "celery", "-A", "proj", "asynctask", "openapi"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True, timeout=patience(60)
    )
    assert json.loads(done.stdout) == document
    assert list(json.loads(done.stdout)["paths"]) == list(document["paths"])
