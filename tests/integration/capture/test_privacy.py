"""Sensitive values are nowhere: not in the tables, and not in the journal before that."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from celery import Celery
from celery.exceptions import Reject
from sqlalchemy import Engine, create_engine, text

from celery_asynctask import SENSITIVE_NAMES, context, current, is_whole, uninstall
from celery_asynctask.capture.payload import Encoder
from celery_asynctask.capture.payload.inspection import Calls
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.errors import failures
from celery_asynctask.journal import Journal

SECRET = "correct horse battery staple"
OTHER = "hunter2 of ours"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every event as the journal gets it."""
    written: list[bytes] = []
    append = Journal.append

    def noting(self: Journal, data: bytes, slot: int | None = None) -> bool:
        written.append(data)
        return append(self, data, slot)

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


@contextlib.contextmanager
def engine_for(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


class Login(pydantic.BaseModel):
    user: str
    password: str = pydantic.Field(max_length=3)


def fail(how: str, secret: str) -> Any:
    """Say the secret without its name."""
    if how == "reject":
        raise Reject(f"not {secret}", requeue=False)
    if how == "invalid":
        Login(user="ada", password=secret)
    if how == "chained":
        try:
            int(secret)
        except ValueError as exc:
            vars(exc)["__notes__"] = [f"it was {secret!r}"]
            raise KeyError(base64.b64encode(f"ada:{secret}".encode())) from exc
    if how == "result":
        return {secret: [secret, secret.encode(), {"said": f"I am {secret}"}]}
    raise KeyError(urllib.parse.quote(secret))


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize("how", ["result", "error", "chained", "invalid", "reject", "retry"])
def test_a_redacted_argument_is_in_nothing_that_its_task_says(
    how: str, propagates: bool, eager_app: Celery, tmp_path: Path, written: list[bytes]
) -> None:
    eager_app.conf.task_eager_propagates = propagates

    @eager_app.task(shared=False, name="say", bind=True, max_retries=1, default_retry_delay=0)
    def say(self: Any, password: str, how: str, *, login: dict[str, str]) -> Any:
        secret = login["token"] if propagates else login.pop("token")  # as code that reads forms does
        current().progress(1, 2, f"logging in with {secret}")
        current().update({"first": password})
        if how == "retry":
            raise self.retry(exc=KeyError(f"{password}, {secret}"), args=(password, how), kwargs={"login": {}})
        return fail(how, password), fail(how, secret)

    with contextlib.suppress(Exception):
        say.apply((SECRET, how), {"login": {"token": OTHER}})
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert "logging in with ***" in place
        assert {"result": '"said"', "reject": "not ***", "invalid": "string_too_long"}.get(how, "KeyError") in place
        for secret in (SECRET, OTHER):
            for form in (secret, secret.replace(" ", "%20"), base64.b64encode(f"ada:{secret}".encode()).decode()):
                assert form not in place


@pytest.mark.every_database
def test_a_unique_violation_does_not_quote_a_redacted_argument(
    database: str, eager_app: Celery, tmp_path: Path, written: list[bytes]
) -> None:
    @eager_app.task(shared=False, name="keep")
    def keep(token: str) -> None:
        with engine_for(database) as engine, engine.begin() as connection:
            connection.execute(text("CREATE TABLE session (word varchar(50) PRIMARY KEY)"))
            for _ in range(2):
                connection.execute(text("INSERT INTO session VALUES (:word)"), {"word": token})

    keep.delay(SECRET)
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert "IntegrityError" in place
        assert "***" in place
        assert SECRET not in place


def test_values_that_were_redacted_by_the_user_s_rule_are_scrubbed_too(
    eager_app: Celery, tmp_path: Path, written: list[bytes]
) -> None:
    eager_app.conf.update(asynctask_redact_rule=lambda path, _: path[:2] == ("args", "diagnosis"))

    @eager_app.task(shared=False, name="treat", asynctask_record_args=False)
    def treat(diagnosis: dict[str, str], room: str) -> None:
        raise ValueError(f"no cure for {diagnosis['name']} in {room}")

    treat.delay({"name": "hay fever"}, "room 101")
    dump = stored(eager_app, tmp_path)
    assert "no cure for *** in room 101" in dump
    assert "hay fever" not in dump
    assert b"hay fever" not in b"\n".join(written)


def test_an_attempt_that_says_no_secret_is_written_as_ever(eager_app: Celery, written: list[bytes]) -> None:
    @eager_app.task(shared=False, name="plain", bind=True)
    def plain(self: Any, user: str) -> dict[str, str]:
        return {"user": user, "kept": [key for key in self.request.__dict__ if "secret" in key]}  # type: ignore[dict-item]

    assert plain.delay("ada lovelace").get() == {"user": "ada lovelace", "kept": []}
    assert json.loads(written[-1])["result"] == {"user": "ada lovelace", "kept": []}


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
    def rule(_path: Any, value: Any) -> bool:
        raise ValueError(f"no number: {value}")

    failures.clear()
    eager_app.conf.update(asynctask_redact_rule=rule)

    @eager_app.task(shared=False, name="careful")
    def careful(word: str) -> str:
        return word

    assert careful.delay("hush").get() == "hush"
    assert b"hush" not in b"\n".join(written)
    assert "(asynctask_redact_rule) of task (unknown): ValueError, whose text" in caplog.text
    assert caplog.text.count(", in rule\n") == 1
    assert "hush" not in caplog.text.replace("careful", "")


def test_the_arguments_of_mapped_tasks_are_judged_as_in_a_direct_call(
    eager_app: Celery, tmp_path: Path, written: list[bytes]
) -> None:
    paths = set()

    def rule(path: Any, value: Any) -> bool:
        assert not type(value).__module__.startswith("celery_asynctask")
        paths.add(path)
        return bool(path[:2] == ("args", "medical"))

    eager_app.conf.update(asynctask_redact_rule=rule)

    @eager_app.task(shared=False, name="login")
    def login(user: Any, password: str = "", medical: Any = None) -> str:
        return f"{user} said {password}, {medical and medical['has']}"

    item = ("ada", SECRET, {"has": OTHER})
    login.starmap([item]).apply_async()
    login.chunks([item], 1).apply_async()
    login.map([{"token": SECRET}, "bob"]).apply_async()
    for kwargs in {}, {"it": [item]}:
        args = (login.s(),) if kwargs else (login.s(), [item])
        eager_app.tasks["celery.starmap"].apply(args, kwargs)
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert '["ada",{"$asynctask":"redacted"},{"$asynctask":"redacted"}]' in place
        assert "ada said ***, ***" in place
        assert '[{"token":{"$asynctask":"redacted"}},"bob"]' in place
        for secret in (SECRET, OTHER):
            assert secret not in place
    assert {("kwargs", "it"), ("kwargs", "it", 0), ("args", "it"), ("args", "user"), ("args", "medical")} <= paths


def test_what_a_mapped_task_leaves_out_is_left_out_and_scrubbed(
    eager_app: Celery, tmp_path: Path, written: list[bytes]
) -> None:
    @eager_app.task(shared=False, name="silent", asynctask_record_args=False, asynctask_record_result=False)
    def silent(user: str, password: str) -> str:
        return f"{user} {password}"

    @eager_app.task(shared=False, name="loud", asynctask_record_args=False)
    def loud(form: dict[str, str]) -> str:
        if form["user"] == "nobody":
            raise ValueError(f"no {form['password']}")
        return form["password"]

    silent.starmap([("private", SECRET)]).apply_async()
    eager_app.tasks["celery.starmap"].apply((silent.s(), [("private", SECRET)]))
    for user in "ada", "nobody":
        loud.map([{"user": user, "password": SECRET}]).apply_async()
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert "no ***" in place
        assert '"text":"***"' in place
        for left_out in (SECRET, "private", '"it"'):
            assert left_out not in place


@pytest.mark.parametrize("it", [{"ada": 1}, "ada", [{"ada"}], [iter("ada")]])
def test_mapped_arguments_that_cannot_be_told_apart_are_hidden(it: Any) -> None:
    parts = Calls(it, ("user", "password"), starred=True)
    assert "ada" not in json.dumps(Encoder(redaction=Redaction()).arguments((parts,), {}))
    assert "ada" not in json.dumps(Encoder(redaction=Redaction((), lambda *_: False)).arguments((parts,), {}))
    assert Encoder(redaction=Redaction()).arguments((Calls(None, ("password",), starred=True),), {}) == ([None], {})


def test_the_content_of_a_step_is_redacted(eager_app: Celery, tmp_path: Path, written: list[bytes]) -> None:
    eager_app.conf.task_always_eager = False

    @eager_app.task(shared=False, name="step")
    def step() -> None: ...

    for content in {"password": SECRET, "when": dt.date(2026, 1, 2)}, json.dumps({"password": SECRET, "n": 1}):
        later = step.si().set(headers={"asynctask": {"content": content, "customer": 5}})
        (step.si() | later).apply_async()
    dump = stored(eager_app, tmp_path)
    for place in (dump, b"\n".join(written).decode()):
        assert '{"password":{"$asynctask":"redacted"},"when":"2026-01-02"}' in place
        assert '{"password":{"$asynctask":"redacted"},"n":1}' in place
        assert SECRET not in place


def test_a_value_that_is_too_long_says_so(eager_app: Celery, written: list[bytes]) -> None:
    eager_app.conf.update(asynctask_max_value_bytes=1000)

    @eager_app.task(shared=False, name="long")
    def long(text: str) -> None: ...

    long.delay("x" * 100_000)
    [cut] = json.loads(written[0])["args"]
    assert (cut["$asynctask"], cut["size"]) == ("cut", 100_000)
    assert len(written[0]) < 3000
