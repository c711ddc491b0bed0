"""Customer, creator and content, given around a publish and by a function; tasks run eagerly, so in this process."""

from __future__ import annotations

import datetime as dt
import json
import logging
import types
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, ContextError, context, current, errors, install, is_whole, uninstall
from celery_asynctask.capture import publish
from celery_asynctask.capture.context import MAX_CONTENT, sound, to_header
from celery_asynctask.capture.instrumentation import instrumentation_of
from celery_asynctask.capture.payload import OVERRUN, Encoder
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.capture.task import RecordedTask

COLUMNS = (AsyncTask.customer, AsyncTask.created_by, AsyncTask.created_by_name, AsyncTask.content)
Make = Callable[..., Celery]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Celery] = []

    def make(**conf: Any) -> Celery:
        app = Celery("whose", broker="memory://", set_as_current=False, task_cls=RecordedTask)
        app.conf.update(
            task_always_eager=True,
            asynctask_url=f"sqlite:///{tmp_path / 'rows.db'}",
            asynctask_journal_dir=tmp_path / "journal",
            **conf,
        )
        install(app)
        made.append(app)
        return app

    yield make
    for app in made:
        uninstall(app)


def stored(app: Celery) -> dict[str, tuple[Any, ...]]:
    """Customer, creator, name and content by task name, once everything is stored."""
    url = app.conf.asynctask_url
    uninstall(app)
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            return {row[0]: tuple(row[1:]) for row in session.execute(select(AsyncTask.name, *COLUMNS))}
    finally:
        engine.dispose()


def test_the_inner_block_wins_field_by_field(make: Make) -> None:
    app = make()

    @app.task(shared=False, name="inner")
    def inner() -> None: ...

    @app.task(shared=False, name="outer")
    def outer() -> None:
        with context(customer=2, content={"b": 2}):
            inner.delay()

    with context(customer=1, created_by=7), context(created_by_name="Ada Lovelace"):
        outer.delay()
    assert stored(app) == {
        "outer": (1, 7, "Ada Lovelace", None),
        "inner": (2, 7, "Ada Lovelace", {"b": 2}),
    }


def test_a_running_task_reads_its_own(make: Make) -> None:
    app = make()
    seen: list[Any] = []

    @app.task(shared=False, name="reads", bind=True)
    def reads(self: Any) -> None:
        note = self.asynctask
        seen.extend([note.customer, note.created_by, note.created_by_name, note.content, current().customer])

    with context(customer=5, created_by=6, created_by_name="Grace", content={"x": 1}):
        reads.delay()
    reads.delay()
    assert seen == [5, 6, "Grace", {"x": 1}, 5, None, None, None, {}, None]


@pytest.mark.parametrize("size", [256, 2_000, 65_536])
def test_what_a_task_says_of_itself_is_bounded_in_all(make: Make, size: int) -> None:
    """However often it updates its content, the initial content and the newest values stay."""
    app = make(asynctask_max_value_bytes=size)
    seen: list[Any] = []

    @app.task(shared=False, name="talks", bind=True)
    def talks(self: Any) -> None:
        note = self.asynctask
        note.update({"state": "begun"})
        for number in range(400):
            note.update({f"line {number}": "x" * 300, "log": "y" * 50 * number})
        note.progress(1, 400)
        note.update({"state": "all lines were read"})
        note.progress(400, 400)
        seen.append(note.content)

    with context(content={"rerun_of": "one", "invoice": 17}):
        talks.delay()
    content = stored(app)["talks"][3]
    assert content == seen[0]
    assert len(json.dumps(content)) <= size + OVERRUN
    assert not is_whole(content)
    assert content["$asynctask"] == {"$asynctask": "cut", "type": "dict"}
    assert (content["rerun_of"], content["invoice"]) == ("one", 17)
    assert content["progress"] in ({"done": 400, "total": 400, "message": None}, {"$asynctask": "cut", "type": "dict"})
    if size > 1_000:
        assert content["progress"] == {"done": 400, "total": 400, "message": None}
        assert content["state"] == "all lines were read"


def test_a_task_may_say_more_at_once_than_a_message_carries(make: Make) -> None:
    app = make()
    seen: list[Any] = []

    @app.task(shared=False, name="reports", bind=True)
    def reports(self: Any) -> None:
        self.asynctask.update({"report": "z" * 20_000})
        self.asynctask.content["report"] += "not updated"
        self.asynctask.update({"pages": [1, 2]})
        self.asynctask.content["pages"].append(3)
        seen.append(self.asynctask.content)

    reports.delay().get()
    assert stored(app) == {"reports": (None, None, None, {"report": "z" * 20_000, "pages": [1, 2]})}
    assert seen == [{"report": "z" * 20_000, "pages": [1, 2]}]


def test_the_function_of_the_configuration(make: Make) -> None:
    """It is called for every publish; a block and the sending task take precedence."""
    answers = iter([{"customer": 10, "created_by": 1}, {"customer": 11}, None])
    app = make(asynctask_context=lambda: next(answers))

    @app.task(shared=False, name="one")
    def one() -> None: ...

    @app.task(shared=False, name="two")
    def two() -> None: ...

    @app.task(shared=False, name="three")
    def three() -> None: ...

    one.delay()
    with context(customer=99):
        two.delay()
    three.delay()
    assert stored(app) == {
        "one": (10, 1, None, None),
        "two": (99, None, None, None),
        "three": (None, None, None, None),
    }


class Own(Mapping[str, Any]):
    """A mapping of the user's own."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("it was asked")

    __iter__ = __len__ = __getitem__  # type: ignore[assignment]


MAPPINGS: list[Any] = [
    types.MappingProxyType({"x": 1}),
    UserDict({"x": 1}),
    ChainMap({"x": 1}, {"x": 2}),
    OrderedDict(x=1),
    defaultdict(int, x=1),
    Counter("x"),
    {type("Text", (str,), {})("x"): 1},
]


@pytest.mark.parametrize("content", MAPPINGS, ids=lambda one: type(one).__name__)
def test_content_is_any_mapping_of_the_standard_library(make: Make, content: Any) -> None:
    app = make(asynctask_context=lambda: {"content": content})

    @app.task(shared=False, name="updates", bind=True)
    def updates(self: Any) -> None:
        assert self.asynctask.content == {"x": 1}
        self.asynctask.update({"x": 3, "y": 2})
        self.asynctask.update(content)

    @app.task(shared=False, name="given")
    def given() -> None: ...

    @app.task(shared=False, name="in a header")
    def in_a_header() -> None: ...

    updates.delay().get()
    with context(content=content):
        given.delay()
    in_a_header.apply_async(headers={"asynctask": types.MappingProxyType({"content": content, "customer": 7})})
    assert stored(app) == {
        "updates": (None, None, None, {"x": 1, "y": 2}),
        "given": (None, None, None, {"x": 1}),
        "in a header": (7, None, None, {"x": 1}),
    }


@pytest.mark.parametrize("content", [[("x", 1)], "x", b"x", 7, Own(), types.MappingProxyType(Own()), {1: 2}])
def test_what_is_no_content_is_refused_where_it_is_said(make: Make, content: Any) -> None:
    app = make()
    refused: list[str] = []

    @app.task(shared=False, name="says", bind=True)
    def says(self: Any) -> None:
        for one in (content, None):
            with pytest.raises(ContextError, match=r"'content' is .* must be a mapping with string keys") as error:
                self.asynctask.update(one)
            refused.append(str(error.value))
        with pytest.raises(ContextError), context(content=content):
            pytest.fail("it went on")

    says.delay().get()
    assert len(refused) == 2
    assert stored(app) == {"says": (None, None, None, None)}


@pytest.mark.parametrize("content", [[("x", 1)], "", 7, Own()])
def test_invalid_content_of_a_function_is_logged(make: Make, content: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Once, with the task's id; everything else is recorded."""
    errors.failures.clear()
    app = make(asynctask_context=lambda: {"content": content, "customer": 7})

    @app.task(shared=False, name="runs")
    def runs() -> None: ...

    first = runs.delay().id
    runs.delay()
    assert errors.failures == {"the context (asynctask_context): ContextError": 2}
    [message] = [record.getMessage() for record in caplog.records if "asynctask_context" in record.getMessage()]
    assert first in message
    assert "must be a mapping with string keys" in message
    assert stored(app) == {"runs": (7, None, None, None)}


def test_the_fault_of_a_given_header_is_reported(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """As in an entry of beat's schedule."""
    errors.failures.clear()
    app = make()
    app.conf.task_always_eager = False
    app.send_task("half right", headers={"asynctask": {"customer": " 42", "created_by": 7}})
    sent = app.send_task("wrong", headers={"asynctask": "a header of somebody else's"})
    assert errors.failures == {"the header asynctask: ContextError": 2}
    assert "Field 'customer' is of type str; it must be" in caplog.text
    assert sent.id not in caplog.text
    assert stored(app) == {"half right": (None, 7, None, None), "wrong": (None, None, None, None)}


@pytest.mark.parametrize(
    "answer", [{"customer": 1.5}, {"nonsense": 1}, "no mapping", 1 / 3, "", [], False, [("customer", 1)]]
)
def test_a_function_that_fails_is_logged_and_the_task_runs(
    make: Make, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    errors.failures.clear()
    app = make(asynctask_context=lambda: answer)

    @app.task(shared=False, name="runs")
    def runs() -> str:
        return "ran"

    assert runs.delay().get() == "ran"
    assert "asynctask_context" in caplog.text
    assert list(errors.failures.values()) == [1]
    assert stored(app) == {"runs": (None, None, None, None)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"customer": "acme "}, "'customer' is 'acme ' of type str; it must be a whole number of at most 64 bits"),
        ({"customer": ""}, "a text of 1 to 64 characters"),
        ({"created_by": "x" * 65}, "a text of 1 to 64 characters"),
        ({"created_by": "a\nb"}, "without spaces at its ends and line breaks"),
        ({"customer": True}, "'customer' is True of type bool"),
        ({"customer": 2**63}, "at most 64 bits"),
        ({"created_by": 1.0}, "'created_by' is 1.0 of type float"),
        ({"created_by_name": 7}, "'created_by_name' is of type int; it must be a string"),
        ({"created_by_name": "x" * 256}, "at most 255 characters"),
        ({"content": [1]}, "'content' is of type list; it must be a mapping"),
        ({"content": {1: 2}}, "with string keys"),
        ({"content": {"x": ["y" * 1000] * 20}}, "must be at most 16384"),
    ],
)
def test_a_wrong_type_is_refused_before_anything_is_sent(fields: dict[str, Any], message: str) -> None:
    reached = False
    with pytest.raises(ContextError, match=message), context(**fields):
        reached = True
    assert not reached


def test_content_that_no_broker_carries_is_sent_as_json(make: Make) -> None:
    """A publish must not fail because of its context."""
    app = make()

    @app.task(shared=False, name="odd")
    def odd() -> None: ...

    with context(created_by_name="lone \ud800 surrogate", content={"when": dt.date(2026, 1, 2), "big": 2**70}):
        odd.delay()
    assert stored(app) == {"odd": (None, None, "lone ? surrogate", {"when": "2026-01-02", "big": 2**70})}


def test_content_that_grows_on_its_way_arrives(make: Make) -> None:
    """The mark for a secret is longer than the secret, and beat adds the name of its entry."""
    app = make()

    @app.task(shared=False, name="hides")
    def hides() -> None: ...

    token = publish._entry.set("tick")
    try:
        with context(content={f"password {number}": "x" for number in range(1000, 1600)}):
            hides.delay()
    finally:
        publish._entry.reset(token)
    content = stored(app)["hides"][3]
    assert content.pop("periodic_task_name") == "tick"
    assert content.pop("$asynctask") == {"$asynctask": "cut", "type": "dict", "size": 601}
    assert len(content) > 300
    assert set(map(json.dumps, content.values())) == {'{"$asynctask": "redacted"}'}


@pytest.mark.parametrize(
    "header", ['{"password": "SECRET"}', {"content": "SECRET"}, {"content": {"SECRET": {1}, 2: 3}}]
)
def test_a_wrong_header_is_not_quoted(header: Any, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    errors.failures.clear()
    app = make()
    app.conf.task_always_eager = False
    app.send_task("wrong", headers={"asynctask": header})
    assert sum(errors.failures.values()) == 1
    assert "the header asynctask" in caplog.text
    assert "SECRET" not in caplog.text


def test_content_that_was_given_as_text_is_redacted_here(make: Make) -> None:
    """Who made it may know less of what to redact; what it redacted is known to be."""
    app = make(asynctask_redact=["password", "diagnosis"])

    @app.task(shared=False, name="odd")
    def odd() -> None: ...

    @app.task(shared=False, name="says", bind=True)
    def says(self: Any) -> None:
        self.request.asynctask["content"] = json.dumps(content)  # as another process sends it
        current().update({"more": 1})

    content = {"password": "x", "user": {"diagnosis": "flu", "url": "s3://ada:flu@host", "token": REDACTED}, "n": [1]}
    shown = {
        "password": REDACTED,
        "user": {"diagnosis": REDACTED, "url": {**REDACTED, "text": "s3://***@host"}, "token": REDACTED},
        "n": [1],
    }
    for task in odd, says:
        task.apply_async(headers={"asynctask": {"content": json.dumps(content)}})
    instrumentation = instrumentation_of(app)
    assert instrumentation is not None
    sent = to_header({"content": json.dumps(content), "customer": 5}, instrumentation.encoder)
    assert {**sent, "content": json.loads(sent["content"])} == {"content": shown, "customer": 5}
    assert [row[3] for _, row in sorted(stored(app).items())] == [shown, {**shown, "more": 1}]


def test_content_that_grows_where_more_is_redacted_is_still_heard() -> None:
    content = json.dumps({f"id {number}": "x" for number in range(1200)})
    sent = to_header({"content": content}, Encoder(redaction=Redaction(["id"])))
    assert 10_000 < len(sent["content"]) <= MAX_CONTENT + OVERRUN
    assert sound(sent) == sent
    assert to_header(sent, Encoder(redaction=Redaction(["id"]))) == sent


REDACTED = {"$asynctask": "redacted"}


@pytest.mark.parametrize("content", ["", "null", "[]", "[" * 16_000, "{" * 9, json.dumps({"x": "y" * 30_000}), [1], 7])
def test_content_of_a_header_that_anybody_made_is_left_out(content: Any) -> None:
    assert sound({"content": content, "customer": 7}) == {"customer": 7}


def test_outside_a_task_nothing_is_recorded_and_an_error_says_so(caplog: pytest.LogCaptureFixture) -> None:
    note = current()
    with caplog.at_level(logging.ERROR):
        note.update({"a": 1})
        note.progress(1, 2)
    assert (note.customer, note.content) == (None, {})
    assert [record.message for record in caplog.records if "outside of a task" in record.message]
