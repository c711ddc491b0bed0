"""The arrows between modules point one way, and processes that only publish stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import celery_asynctask

PACKAGE = Path(celery_asynctask.__file__).parent
PURE = {"core"}
CAPTURE = {"capture", "auto", "django"}
SQL = {"store", "operations", "migrations", "recorder.batch", "recorder.drain", "recorder.liveness", "recorder.work"}
READERS = {"queries", "operations"}
WRITERS = {"store", "migrations"}
"""Who else may use SQLAlchemy."""
SERVER = {"web", "http", "console"}
WEB = {"fastapi", "starlette", "uvicorn", "pydantic"}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of ours by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, *, at_import: bool = False) -> Iterator[str]:
    """What a module imports, in full; ``at_import`` leaves out what it imports for types, or when a function runs."""
    waiting: list[ast.AST] = [modules()[name]]
    while waiting:
        node = waiting.pop()
        if at_import and (is_for_types(node) or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def ours(name: str, *, at_import: bool = False) -> set[str]:
    """Our own modules that a module imports."""
    found = set()
    for target in imports(name, at_import=at_import):
        package, _, below = target.partition(".")
        if package != "celery_asynctask":
            continue
        while below not in modules():
            below = below.rpartition(".")[0]
        found.add(below)
    return found - {""}


def within(name: str, group: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in group)


def test_this_test_sees_the_imports() -> None:
    assert {"core.event", "core.fold", "journal.writer", "store.store"} <= modules().keys()
    assert {"journal", "journal.directory", "store", "journal.metrics"} <= ours("recorder.drain")
    assert "recorder.work" in ours("recorder.recorder")
    assert "recorder.work" not in ours("recorder.recorder", at_import=True)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: ours(name, at_import=True) - {name} for name in modules() if name}
    tuple(TopologicalSorter(graph).static_order())


def test_pure_modules_import_nothing_of_ours_but_each_other() -> None:
    for name in modules():
        if within(name, PURE):
            assert not [one for one in ours(name) if not within(one, PURE)], name


def test_capture_never_reaches_the_database() -> None:
    for name in modules():
        if within(name, CAPTURE):
            assert not [one for one in ours(name) if within(one, SQL)], name


def test_the_journal_knows_nothing_of_the_database() -> None:
    for name in modules():
        if within(name, {"journal"}):
            assert not [one for one in ours(name) if within(one, SQL | CAPTURE | {"recorder", "settings"})], name


def test_nobody_below_capture_imports_it() -> None:
    for name in modules():
        if within(name, {"core", "journal", "recorder", "store", "queries", "web"}):
            assert not [one for one in ours(name) if within(one, CAPTURE)], name


def test_only_the_api_speaks_http() -> None:
    """Whoever has not the extra can do everything else; workers and producers least of all load it."""
    for name in modules():
        web = {target for target in imports(name) if target.partition(".")[0] in WEB}
        if within(name, SERVER):
            continue
        assert not web or (name == "cli.serve" and web == {"uvicorn"}), name
        reaches = [one for one in ours(name) if within(one, SERVER)]
        assert not reaches or name in ("cli.serve", "cli.openapi"), name


def test_only_store_and_queries_speak_sql() -> None:
    for name in modules():
        if within(name, WRITERS | READERS):
            continue
        sqlalchemy = {target for target in imports(name) if target.startswith("sqlalchemy")}
        assert not sqlalchemy, name


def test_every_module_says_what_it_is_and_stays_short() -> None:
    for name, tree in modules().items():
        assert ast.get_docstring(tree), name
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_public_names_are_there_and_lazy() -> None:
    for name in celery_asynctask.__all__:
        assert getattr(celery_asynctask, name) is not None
    assert dir(celery_asynctask) == sorted(celery_asynctask.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = celery_asynctask.nothing


def loaded_after(code: str) -> set[str]:
    """Modules that a new interpreter has loaded after it ran ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return set(done.stdout.split())


PUBLISH = """
from celery import Celery
app = Celery("light", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.asynctask_flush_interval = 60

@app.task
def nothing(): pass
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import celery_asynctask", {"sqlalchemy", "celery.app.task", "celery_asynctask.capture.install"}),
        ("import celery_asynctask.capture.task", {"sqlalchemy", "alembic", *WEB}),
        (PUBLISH, {"sqlalchemy", "alembic", "celery_asynctask.store.models", *WEB}),
        (
            f"{PUBLISH}\nfrom celery_asynctask.settings import Settings\nSettings.from_app(app).directory",
            {"sqlalchemy"},
        ),
        ("import celery_asynctask.recorder.drain", {"celery_asynctask.capture.install", "alembic"}),
        (
            "import celery_asynctask.capture.worker, celery_asynctask.recorder.work",
            {"sqlalchemy.orm", "celery_asynctask.store.models", *WEB},
        ),
        ("import celery_asynctask.cli", {"sqlalchemy", "celery_asynctask.queries", "celery_asynctask.http", *WEB}),
        ("import celery_asynctask.http", {"celery_asynctask.capture.install", "uvicorn"}),
    ],
    ids=["package", "task", "app", "settings", "drain", "worker", "cli", "http"],
)
def test_what_is_not_imported(code: str, absent: set[str]) -> None:
    assert loaded_after(code) & absent == set()
