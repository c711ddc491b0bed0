"""Sensitive values are nowhere: not in the tables, and not in the journal before that."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_asynctask import SENSITIVE_NAMES, context, current, is_whole, uninstall
from celery_asynctask.journal import Journal

SECRET = "correct horse battery staple"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every event as the journal gets it."""
    written: list[bytes] = []
    append = Journal.append

    def noting(self: Journal, data: bytes) -> bool:
        written.append(data)
        return append(self, data)

    monkeypatch.setattr(Journal, "append", noting)
    return written


def stored(app: Celery, tmp_path: Path) -> str:
    """Everything in the database, as text."""
    uninstall(app)
    connection = sqlite3.connect(tmp_path / "rows.db")
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def test_a_secret_is_nowhere(eager_app: Celery, tmp_path: Path, written: list[bytes]) -> None:
    @eager_app.task(shared=False, name="login")
    def login(user: str, password: str, options: Any = None) -> dict[str, str]:
        current().update({"apiKey": SECRET, "step": "in"})
        if user == "nobody":
            raise ValueError(f"no such user, password='{SECRET}'")
        return {"access_token": SECRET, "user": user}

    with context(content={"session-id": SECRET, "order": 7}):
        login.delay("ada", SECRET, options={"headers": [{"Authorization": f"Bearer {SECRET}"}]})
        login.delay("nobody", password=SECRET, options=f"postgresql://ada:{SECRET.replace(' ', '')}@host/db")
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert "ada" in place
        assert "no such user" in place
        for secret in (SECRET, SECRET.replace(" ", "")):
            assert secret not in place
    assert any(b'"order":7' in one for one in written)


def test_the_user_s_own_names_and_rule(tmp_path: Path, eager_app: Celery, written: list[bytes]) -> None:
    eager_app.conf.update(
        asynctask_redact=[*SENSITIVE_NAMES, "nickname"],
        asynctask_redact_rule=lambda path, value: path[-1] == "diagnosis" or value == "unlisted",
    )

    @eager_app.task(shared=False, name="visit")
    def visit(nickname: str, **about: Any) -> None: ...

    visit.delay("Lovelace", diagnosis="flu", room="unlisted", floor=3)
    assert is_whole(json.loads(written[0])["kwargs"]) is False
    text = b"\n".join(written).decode()
    assert "floor" in text
    for secret in ("Lovelace", "flu", "unlisted"):
        assert secret not in text


def test_a_rule_that_fails_redacts_and_is_logged(
    eager_app: Celery, written: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    def rule(_path: Any, _value: Any) -> bool:
        raise RuntimeError("broken rule")

    eager_app.conf.update(asynctask_redact_rule=rule)

    @eager_app.task(shared=False, name="careful")
    def careful(word: str) -> str:
        return word

    assert careful.delay("hush").get() == "hush"
    assert b"hush" not in b"\n".join(written)
    assert "broken rule" in caplog.text


def test_a_value_that_is_too_long_says_so(eager_app: Celery, written: list[bytes]) -> None:
    eager_app.conf.update(asynctask_max_value_bytes=1000)

    @eager_app.task(shared=False, name="long")
    def long(text: str) -> None: ...

    long.delay("x" * 100_000)
    [cut] = json.loads(written[0])["args"]
    assert (cut["$asynctask"], cut["size"]) == ("cut", 100_000)
    assert len(written[0]) < 3000
