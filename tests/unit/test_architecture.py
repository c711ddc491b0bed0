"""The imports between parts go one way, and processes that only publish load little."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import celery_asynctask

PACKAGE = Path(celery_asynctask.__file__).parent
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "journal": {"core"},
    "store": {"core"},
    "recorder": {"core", "journal", "store"},
    "capture": {"core", "journal", "recorder"},
    "queries": {"core", "journal", "store"},
    "operations": {"core", "journal", "store", "queries", "capture"},
    "present": {"core", "queries"},
    "web": {"core", "journal", "store", "queries", "operations", "present"},
    "console": {"core", "journal", "store", "queries", "operations", "present", "web"},
    "http": {"core", "journal", "store", "queries", "operations", "present", "web", "console"},
    "cli": {"capture", "core", "journal", "store", "queries", "operations", "present", "recorder", "http"},
    "migrations": {"store"},
    "auto": {"capture"},
    "django": {"capture"},
    "settings": {"core", "journal", "rules"},
    "rules": {"core"},
    "errors": {"core"},
}
"""The parts of the package that each part may import, whether on import, for types, or inside a function. All may
import `errors` except core, and `settings` except core, the journal and what presents."""
NARROW = {
    ("capture", "recorder"): {"recorder"},
    ("operations", "capture"): {"capture.celery_private", "capture.context", "capture.install"},
    ("cli", "capture"): {"capture.celery_private"},
    ("cli", "recorder"): {"recorder"},
    ("cli", "http"): {"http", "http.server"},
    ("http", "console"): {"console"},
}
"""Parts of which another part may import only a few modules."""
ONLY_BY = {
    ("capture", "recorder"): {"capture.outlet"},
    ("cli", "capture"): {"cli"},
    ("cli", "recorder"): {"cli.recorder"},
    ("cli", "http"): {"cli.serve"},
    ("http", "console"): {"http.application"},
}
"""The modules that alone may do so."""
SQL = {"store", "queries", "operations", "migrations"}
"""Parts that may use SQLAlchemy."""
SERVER = {"web", "http", "console"}
WEB = {"fastapi", "starlette", "uvicorn", "pydantic"}
CELERY = {"celery", "kombu", "billiard"}
WITHOUT_CELERY = {"core", "journal", "recorder", "store", "queries", "present"}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(name: str, *, at_import: bool = False) -> Iterator[str]:
    """The imports of a module, with full names; ``at_import`` leaves out those for types and those inside functions."""
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
    """Modules of the package that a module imports; a public name of the package's root stands for its home."""
    found = set()
    for target in imports(name, at_import=at_import):
        package, _, below = target.partition(".")
        if package != "celery_asynctask":
            continue
        below = celery_asynctask._HOME.get(below, below)
        while below not in modules():
            below = below.rpartition(".")[0]
        found.add(below)
    return found - {""}


def within(name: str, group: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in group)


def test_this_test_sees_the_imports() -> None:
    assert {"core.event", "core.fold", "journal.writer", "store.store"} <= modules().keys()
    assert {"journal", "journal.directory", "store", "journal.metrics"} <= ours("recorder.drain")
    assert "recorder.drain" in ours("recorder.recorder")
    assert "recorder.drain" not in ours("recorder.recorder", at_import=True)


def test_the_map_of_the_package_names_its_modules() -> None:
    names = re.findall(r"`([a-z][a-z_.]*)`", celery_asynctask.__doc__ or "")
    assert {"capture.publish", "store.fold", "web.answer"} <= set(names)
    assert set(names) - modules().keys() <= {"migrations", "doctor"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: ours(name, at_import=True) - {name} for name in modules() if name}
    tuple(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_arrows(name: str) -> None:
    part = name.partition(".")[0]
    common = {"errors", "settings"} - ({"settings"} if part in ("journal", "present") else set())
    allowed = ARROWS[part] | (set() if part == "core" else common)
    for target in sorted(ours(name) - {name}):
        other = target.partition(".")[0]
        assert other == part or other in allowed, f"{name} -> {target}"
        if known := NARROW.get((part, other)):
            assert target in known, f"{name} -> {target}"
            assert name in ONLY_BY.get((part, other), {name}), f"{name} -> {target}"


def test_of_the_root_only_public_names_and_the_version_are_imported() -> None:
    for name in modules():
        of_root = {
            target for target in imports(name) if target.count(".") < 2 and target.startswith("celery_asynctask")
        }
        known = {f"celery_asynctask.{one}" for one in (*celery_asynctask._HOME, "__version__", *ARROWS)}
        assert of_root <= known, (name, of_root - known)


@pytest.mark.parametrize("name", sorted(name for name in modules() if within(name, WITHOUT_CELERY)))
def test_what_knows_nothing_of_celery(name: str) -> None:
    assert not {target for target in imports(name) if target.partition(".")[0] in CELERY}


def test_nobody_uses_a_private_name_of_another_module() -> None:
    for name, tree in modules().items():
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery_asynctask")
            for alias in node.names
        }
        used = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
            if node.attr.startswith("_") and not node.attr.startswith("__") and node.value.id[0].islower()
        }
        used |= {alias for alias in aliases if alias.startswith("_") and not alias.startswith("__")}
        assert not used, (name, used)


def test_only_the_api_speaks_http() -> None:
    """Without an extra, everything else works; workers and producers must never load it."""
    for name in modules():
        web = {target for target in imports(name) if target.partition(".")[0] in WEB}
        if within(name, SERVER):
            continue
        assert not web or (name == "cli.serve" and web == {"uvicorn"}), name
        reaches = [one for one in ours(name) if within(one, SERVER)]
        assert not reaches or name == "cli.serve", name


def test_only_some_parts_use_sqlalchemy() -> None:
    for name in modules():
        if not within(name, SQL):
            assert not {target for target in imports(name) if target.startswith("sqlalchemy")}, name


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
    """Modules that a new interpreter has loaded after running ``code``."""
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
            "import celery_asynctask.capture.worker, celery_asynctask.recorder.drain",
            {"sqlalchemy.orm", "celery_asynctask.store.models", *WEB},
        ),
        ("import celery_asynctask.cli", {"sqlalchemy", "celery_asynctask.queries", "celery_asynctask.http", *WEB}),
        ("import celery_asynctask.http", {"celery_asynctask.capture.install", "uvicorn"}),
    ],
    ids=["package", "task", "app", "settings", "drain", "worker", "cli", "http"],
)
def test_what_is_not_imported(code: str, absent: set[str]) -> None:
    assert loaded_after(code) & absent == set()
