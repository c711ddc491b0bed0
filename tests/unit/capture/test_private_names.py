"""The private names of Celery, kombu and billiard: only one module has them, and it reports missing ones."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import billiard
import celery
import pytest
from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.beat import Scheduler
from celery.loaders.base import BaseLoader
from celery.worker.consumer import Consumer
from celery.worker.request import Request

import celery_asynctask
from celery_asynctask.capture import celery_private, publish
from celery_asynctask.capture.private_name import Name

PACKAGE = Path(celery_asynctask.__file__).parent
PRIVATE = frozenset(
    [
        "amqp_cls",
        "send_task_message",
        "on_task_init",
        "build_tracer",
        "__trace__",
        "_tasks",
        "_task_stack",
        "_get_current_object",
        "request_dict",
        "_context",
        "_already_revoked",
        "time_start",
        "acknowledged",
        "_success_was_stored",
        "on_decode_error",
        "_parent_pid",
        "_get_exec_options",
        "__header__",
        "filter_hidden_settings",
        "scheduler",
        "should_stop",
        "should_terminate",
        "Strategy",
    ]
)
ALLOWED = {
    ("capture/headers.py", "request_dict"),
    ("capture/own_tracer.py", "request_dict"),  # also an attribute of a request of celery-batches
    ("capture/worker.py", "request_dict"),
    ("capture/publish.py", "amqp_cls"),  # sets it
}
NOT_DOCUMENTED = {"celery._state", "celery.app.trace", "celery.worker.request", "celery.utils", "billiard.process"}


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("check", broker="memory://", set_as_current=False)
    yield made
    made.close()


# -- no other module has them


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "capture/celery_private.py":
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_no_other_module_touches_a_private_name() -> None:
    """As an attribute of something else, or in a text that is a complete name."""
    used = set()
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                used.add((name, node.attr))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
                used.update((name, str(one.value)) for one in node.args if isinstance(one, ast.Constant))
    assert {(name, one) for name, one in used if one in PRIVATE} == ALLOWED


def test_no_other_module_imports_a_private_name() -> None:
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                package, *parts = target.split(".")
                if package in ("celery", "kombu", "billiard"):
                    assert not [part for part in parts if part.startswith("_")], f"{name}: {target}"
                    assert not [one for one in NOT_DOCUMENTED if f"{target}.".startswith(f"{one}.")], (
                        f"{name}: {target}"
                    )


# -- are all there?


def test_nothing_is_missing(app: Celery) -> None:
    assert celery_private.missing(app) == []


def test_each_name_is_looked_for(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what is lost, in words that continue the sentence."""
    for one in celery_private._NAMES:
        assert one.is_there(app) or celery.VERSION[:2] < one.since, one.name
        assert one.lost[0].islower() or one.lost.startswith("`"), one.name
        assert not one.lost.endswith("."), one.name
    monkeypatch.setattr(celery_private, "_NAMES", [Name("x.y", "z is lost", lambda _: 1 / 0)])
    [gone] = celery_private.missing(app)
    assert str(gone) == f"Celery {celery.__version__} has no x.y: z is lost"


@pytest.mark.parametrize(
    ("owner", "name", "shown"),
    [
        (AMQP, "send_task_message", "amqp.send_task_message"),
        (BaseLoader, "on_task_init", "loader.on_task_init"),
        (Request, "_context", "Request._context"),
        (Consumer, "on_decode_error", "Consumer.on_decode_error"),
        (Scheduler, "apply_async", "Scheduler.apply_async"),
        (Task, "_get_exec_options", "Task._get_exec_options"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_one_that_is_gone_is_found(
    app: Celery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    name: str,
    shown: str,
) -> None:
    monkeypatch.delattr(owner, name)
    monkeypatch.setattr(celery_private, "_logged", set())
    [gone] = celery_private.missing(app)
    assert (gone.name, gone.library) == (shown, f"Celery {celery.__version__}")
    for _ in range(2):
        celery_private.log_missing(app)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("celery_asynctask", "WARNING")
    message = record.getMessage()
    assert f"Celery {celery.__version__} has no {shown}: {gone.lost}. Everything else is recorded." in message


def test_a_name_of_billiard_s_is_not_celery_s(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_private, "current_process", object)
    [gone] = celery_private.missing(app)
    assert str(gone).startswith(
        f"billiard {billiard.__version__} has no billiard.process.current_process()._parent_pid:"
    )


def test_beat_says_what_is_missing_too(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(Scheduler, "apply_async")
    monkeypatch.setattr(celery_private, "_logged", set())
    publish.on_beat_init(SimpleNamespace(app=app, scheduler=None))
    assert "has no Scheduler.apply_async" in caplog.text


def test_what_came_later_is_not_missed_before(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Request, "_success_was_stored", raising=False)
    monkeypatch.setattr(celery, "VERSION", celery.VERSION._replace(major=5, minor=6))
    assert celery_private.missing(app) == []
    monkeypatch.setattr(celery, "VERSION", celery.VERSION._replace(major=5, minor=7))
    assert [one.name for one in celery_private.missing(app)] == ["Request._success_was_stored"]


def test_beat_is_not_loaded_for_it(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Scheduler, "apply_async")
    monkeypatch.delitem(sys.modules, "celery.beat")
    assert celery_private.missing(app) == []
    assert "celery.beat" not in sys.modules
