"""The file of tokens, and the server's view of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Semaphore
from types import SimpleNamespace
from typing import Any

import pytest

from celery_asynctask.core.tokens import Token
from celery_asynctask.errors import SettingsError
from celery_asynctask.operations.tokens import MAX_BYTES, TokenFile
from celery_asynctask.web import tokens
from celery_asynctask.web.problem import ProblemError
from celery_asynctask.web.tokens import GRACE_SECONDS, LOOK_SECONDS, SECONDS, Tokens
from tests.integration.http.client import grant
from tests.pace import patience
from tests.tokens import token_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tokens.json"
    TokenFile(made).add("admin", grant("admin"))
    return made


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Turns the clock forward."""
    now = 1000.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(tokens, "time", SimpleNamespace(monotonic=lambda: now))
    return forward


def holders(made: Tokens) -> set[str]:
    return set(asyncio.run(made.current()).by_name)


def refused(made: Tokens) -> str:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(made.current())
    assert (caught.value.kind, caught.value.status) == ("credentials-unavailable", 503)
    return caught.value.detail


# -- the file


def test_a_token_is_added_to_a_file_of_its_users_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    TokenFile(path).add("other", grant("other", [42]))
    read = TokenFile(path).read()
    assert list(read) == ["admin", "other"]
    assert read["other"].customers == frozenset({"42"})
    assert [one.name for one in path.parent.iterdir()] == ["tokens.json"]
    with pytest.raises(SettingsError, match="has a token 'other' already"):
        TokenFile(path).add("other", grant("other"))


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link.json")
    link.symlink_to(path)
    TokenFile(link).add("other", grant("other"))
    assert link.is_symlink()
    assert set(TokenFile(path).read()) == {"admin", "other"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_that_others_can_open_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(SettingsError, match="open to other users"):
        TokenFile(path).read()
    with pytest.raises(SettingsError, match="chmod 600"):
        TokenFile(path).add("other", grant("other"))


@pytest.mark.parametrize(
    ("owner", "mode", "says"),
    [(1, 0o600, "belongs to another user. Run: chown 2 "), (0, 0o640, ""), (0, 0o600, ""), (0, 0o660, "chmod 600"),
     (0, 0o644, "chmod 600"), (2, 0o600, ""), (2, 0o640, "chmod 600")],
)  # fmt: skip
def test_whose_file_is_believed(path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, says: str) -> None:
    """Root's, as in a container, or one's own."""
    real = os.fstat

    def fstat(handle: int) -> os.stat_result:
        found = list(real(handle))
        found[0], found[4] = 0o100000 | mode, owner
        return os.stat_result(found)

    monkeypatch.setattr(os, "geteuid", lambda: 2)
    monkeypatch.setattr(os, "fstat", fstat)
    if says:
        with pytest.raises(SettingsError, match=says):
            TokenFile(path).read()
    else:
        assert set(TokenFile(path).read()) == {"admin"}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(SettingsError, match="is not a file"):
        TokenFile(pipe).read()
    with pytest.raises(SettingsError, match=r"No such file.*--into"):
        TokenFile(tmp_path / "none.json").read()
    with pytest.raises(SettingsError, match="cannot be written: No such file"):
        TokenFile(tmp_path / "none" / "tokens.json").add("a", grant("a"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: Expecting value"),
        (b"[]", "It is a list, not a mapping."),
        (b'{"a": 1}', "Token 'a' must be a mapping"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "mistake"),
        (b" " * (MAX_BYTES + 1), "at most 1,000,000 bytes"),
    ],
)
def test_a_mistake_in_the_file(path: Path, content: bytes, says: str) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=says):
        TokenFile(path).read()


# -- a server that reads it


def test_a_server_learns_of_a_change_within_five_seconds(path: Path, turn: Callable[[float], None]) -> None:
    made = Tokens(path)
    assert made.is_configured
    assert holders(made) == {"admin"}
    TokenFile(path).add("other", grant("other"))
    turn(SECONDS - 0.1)
    assert holders(made) == {"admin"}
    turn(0.1)
    assert holders(made) == {"admin", "other"}
    path.write_text(json.dumps({"other": grant("other")}), encoding="utf-8")
    turn(SECONDS)
    known = asyncio.run(made.current())
    assert known.holder(token_of("admin")) is None, "revoked"
    assert known.holder(token_of("other")) is not None
    turn(SECONDS)
    assert asyncio.run(made.current()) is known, "an unchanged file is not read again"


def test_a_broken_file_lets_those_it_had_in_for_a_minute(
    path: Path, turn: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A slip locks nobody out at once; but a token that was removed with the same edit must not live on."""
    made = Tokens(path)
    content = path.read_bytes()
    assert holders(made) == {"admin"}
    path.write_bytes(b"{")
    with caplog.at_level(logging.WARNING):
        turn(3600)
        for _ in range(6):
            assert holders(made) == {"admin"}
            turn(10)
        turn(0.1)
        assert "cannot be read" in refused(made)
        assert [record.levelname for record in caplog.records] == ["ERROR"], "logged once"
        assert f"Correct a mistake in the file {path} of asynctask_tokens: line 1" in caplog.text
        path.write_bytes(content)
        turn(SECONDS)
        assert holders(made) == {"admin"}
    assert "asynctask_tokens can be read again." in caplog.text


def test_nobody_is_let_in_before_the_file_could_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Tokens(tmp_path / "none.json")
    with caplog.at_level(logging.CRITICAL):
        refused(made)
    with pytest.raises(SettingsError, match=r"none.json"):
        made.check()


def test_nobody_waits_for_a_look_that_began_in_time(turn: Callable[[float], None]) -> None:
    """A function that took three seconds held up whoever came first after five, and a place of the server with it."""
    asked, answer = Semaphore(0), Semaphore(1)

    def slow() -> Any:
        asked.release()
        assert answer.acquire(timeout=patience(20))
        return {"admin": grant("admin")}

    made = Tokens(slow)
    assert holders(made) == {"admin"}
    turn(SECONDS / 2)
    assert holders(made) == {"admin"}, "while the function is at work"
    assert asked.acquire(timeout=patience(20))
    assert asked.acquire(timeout=patience(20)), "it was called again"
    answer.release()


def test_a_function_is_called_in_a_thread(turn: Callable[[float], None]) -> None:
    given: Any = {"admin": grant("admin")}
    made = Tokens(lambda: given)
    assert holders(made) == {"admin"}
    given = {}
    turn(SECONDS)
    assert holders(made) == set()
    assert made.is_configured, "it may have tokens later"
    made.check()


def test_a_function_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[int, Any] = {}
    made = Tokens(lambda: given[1])
    refused(made)
    assert "The function of asynctask_tokens failed: KeyError: 1." in caplog.text
    with pytest.raises(SettingsError, match="KeyError"):
        made.check()


@pytest.mark.parametrize("given", [None, [], {"a": 1}, "asynctask_x"])
def test_a_function_that_returns_no_tokens(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        refused(Tokens(lambda: given))


def test_a_function_that_hangs_holds_up_one_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, calls = Event(), []

    def hang() -> dict[str, Token]:
        calls.append(1)
        go_on.wait()
        return {}

    clock = iter([float(number) for number in range(1000)])
    monkeypatch.setattr(tokens, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    made = Tokens(hang)
    with caplog.at_level(logging.ERROR):
        refused(made)
        refused(made)
    assert f"it takes more than {LOOK_SECONDS:g} s" in caplog.text
    assert calls == [1], "no second thread"
    go_on.set()


def test_a_function_that_is_not_there() -> None:
    for name in ("no.such.function", f"{__name__}.nothing"):
        with pytest.raises(SettingsError, match="asynctask_tokens"):
            Tokens(name)


def test_tokens_of_the_settings_are_not_looked_at_again() -> None:
    assert not Tokens({}).is_configured
    assert not Tokens(None).is_configured
    assert GRACE_SECONDS > SECONDS
