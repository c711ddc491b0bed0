"""Which apps share a journal and a recorder."""

from __future__ import annotations

import ast
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import celery_asynctask
from celery_asynctask.capture import outlet
from celery_asynctask.capture.instrumentation import Instrumentation
from celery_asynctask.capture.outlet import Outlet, outlet_of
from celery_asynctask.settings import Settings
from tests.pace import patience

PACKAGE = Path(celery_asynctask.__file__).parent
OTHER: dict[str, Any] = {
    "url": "postgresql+psycopg://other@h/shop",
    "engine_options": {"pool_size": 2},
    "create_tables": False,
    "journal_dir": Path("/nowhere/else"),
    "journal_max_bytes": 2_000_000,
    "journal_keep": 5.0,
    "flush_interval": 2.0,
    "batch_size": 5,
}
"""Another value of each setting that the journal or the recorder has."""
ELSEWHERE: dict[str, Any] = {
    "enabled": False,
    "context": dict,
    "header_version": 2,
    "header_keys": (b"k" * 32,),
    "trace_url": "https://traces/{trace_id}",
    "links": {"Logs": "https://logs/"},
    "tokens": {},
    "trusted_proxies": ("127.0.0.1",),
    "access": dict,
    "retention": {},
    "audit_retention": None,
    "max_value_bytes": 1000,
    "redact": ("pin",),
    "redact_rule": dict,
    "include": ("shop.*",),
    "exclude": (),
}
"""Another value of each setting that neither has."""


def find(**settings: Any) -> Outlet:
    given = {"url": "postgresql+psycopg://u@h/shop", "journal_dir": Path("/nowhere/journal"), **settings}
    return outlet_of(Settings(**given), lambda: "producer")


def test_all_settings_are_tested() -> None:
    assert OTHER.keys() | ELSEWHERE.keys() == Settings.__dataclass_fields__.keys()
    assert not OTHER.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_apps_that_differ_in_other_settings_share(name: str) -> None:
    one = find()
    assert find(**{name: ELSEWHERE[name]}) is one


@pytest.mark.parametrize("name", OTHER)
def test_apps_whose_journal_or_recorder_would_differ_do_not(name: str) -> None:
    one, other = find(), find(**{name: OTHER[name]})
    assert other is not one
    assert find() is one
    expected = OTHER[name]
    assert getattr(other.recorder.settings, name) == expected


def test_a_relative_file_is_another_store_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        made.append(find(url="sqlite:///rows.db"))
    assert made[0] is not made[1]
    assert find(url="sqlite:///rows.db") is made[1]


def test_the_journal_and_the_recorder_read_no_other_setting() -> None:
    """It would always have its default."""
    read = set()
    for part in ("journal", "recorder", "store"):
        for path in (PACKAGE / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "settings":
                    read.add(node.attr)
    assert {"url", "engine_options", "batch_size"} <= read
    assert read & Settings.__dataclass_fields__.keys() <= OTHER.keys()


def test_none_is_kept_for_an_app_that_is_gone() -> None:
    find()
    gc.collect()
    assert outlet.outlets() == []


def test_threads_that_look_for_one_at_once_find_the_same() -> None:
    found: list[Outlet] = []
    gate = threading.Barrier(8)

    def look() -> None:
        gate.wait(patience(10))
        found.append(find())

    looking = [threading.Thread(target=look) for _ in range(8)]
    for one in looking:
        one.start()
    for one in looking:
        one.join()
    assert len(set(found)) == 1


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Outlet:
    """An outlet whose recorder only notes what it should do."""
    made = find()
    monkeypatch.setattr(made, "recorder", SimpleNamespace(start=note("start"), flush=note("flush"), end=note("end")))
    noted.clear()
    return made


noted: list[str] = []


def note(what: str) -> Callable[[], object]:
    return lambda: noted.append(what)


class User:
    before_work = None


def test_it_ends_with_its_last_user(used: Outlet) -> None:
    first, second = cast("list[Instrumentation]", [User(), User()])
    used.join(first, stores=True)
    used.join(second, stores=False)
    used.leave(first)
    assert noted == ["start", "flush"]
    used.leave(second)
    assert noted == ["start", "flush", "end"]


def test_one_that_has_ended_is_not_found(used: Outlet) -> None:
    """Whoever records into a new database must not go on with the numbers of the old one."""
    user = cast("Instrumentation", User())
    used.join(user, stores=True)
    assert find() is used
    used.leave(user)
    assert find() is not used
    assert used not in outlet.outlets()
    used.join(user, stores=True)
    assert used in outlet.outlets()


class Dying(weakref.WeakSet[Any]):
    """Counts one that is dead: between its death and its removal from the set, other threads run."""

    def __len__(self) -> int:
        return super().__len__() + 1


def test_one_that_is_just_being_collected_is_no_user(used: Outlet) -> None:
    used._users = Dying()
    user = cast("Instrumentation", User())
    used.join(user, stores=True)
    assert used.users() == [user]
    used.leave(user)
    assert noted == ["start", "end"]
