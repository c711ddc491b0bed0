"""A value that the database refuses is stored in another form, and takes nothing else with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import inspect, text

from celery_asynctask.core.event import Event, Kind, decode, encode
from celery_asynctask.core.marks import MARK, is_whole
from celery_asynctask.core.plainer import REFUSED, fitted, plainer
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.operations.doctor.database import database as look
from celery_asynctask.queries import Reader
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.recorder import batch as draining
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services
from tests.histories import ID, Delivery, about, failure, fold
from tests.integration.draining import MakeDrain, append, quarantined, rows, source_of, tasks
from tests.integration.rows import stored

RUN = Delivery(2)
TEXTS = {"name", "error_type", "error_message", "traceback", "worker", "queue"}
VALUES = {"task_args", "task_kwargs", "result", "content"}
EMOJI = "no \U0001f600"
ESCAPED = r"no \U0001f600"


def failed(**more: Any) -> Event:
    return RUN.whole(Kind.FAILED, 9, 3, **{**failure("no money"), **more})


def ended(**more: Any) -> Event:
    return RUN.whole(Kind.SUCCEEDED, 9, 3, **more)


def row(store: Store) -> dict[str, Any]:
    """The columns of the task and of its only attempt."""
    partial = stored(store, ID)[ID]
    [attempt] = partial.attempts.values()
    return {**attempt, **partial.task}


def unchanged(event: Event) -> dict[str, Any]:
    """What the row must have whatever was refused: all but texts and values."""
    partial = fold([event])
    [attempt] = partial.attempts.values()
    return {key: value for key, value in {**attempt, **partial.task}.items() if key not in TEXTS | VALUES}


def is_stored(store: Store, event: Event, **columns: Any) -> None:
    found = row(store)
    expected = {**unchanged(event), **columns}
    assert {key: found[key] for key in expected} == expected


# -- what every database refuses


@pytest.mark.every_database
@pytest.mark.parametrize("column", ["error_message", "error_type", "traceback", "worker", "queue", "name"])
def test_a_text_that_is_refused(store: Store, make_drain: MakeDrain, journal: Journal, column: str) -> None:
    by_task = tasks(3)
    others = [one for events in by_task.values() for one in events]
    event = failed(**{column: "no\ud800"})
    append(journal, *others[:5], event, *others[5:])
    drain = make_drain()
    drain.work()
    is_stored(store, event, **{column: r"no\ud800"}, task_args=[7, "é"])
    assert stored(store, "task-") == rows(by_task)
    assert quarantined(drain) == []
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (13, 0, 13)


@contextmanager
def refusing(store: Store, *columns: str) -> Iterator[None]:
    """Let the database refuse every row in which one of the columns has the letters ``bad``."""
    triggers = {}
    with store.engine.begin() as connection:
        for table in ("async_task", "async_task_attempt"):
            for name in {one["name"] for one in inspect(connection).get_columns(table)}.intersection(columns):
                then = f"BEGIN SELECT RAISE(ABORT, 'no bad {name}'); END"
                triggers[f"refuse_{table}_{name}"] = f"BEFORE INSERT ON {table} WHEN NEW.{name} LIKE '%bad%' {then}"
        for trigger, what in triggers.items():
            connection.execute(text(f"CREATE TRIGGER {trigger} {what}"))
    yield
    with store.engine.begin() as connection:
        for trigger in triggers:
            connection.execute(text(f"DROP TRIGGER {trigger}"))


@pytest.mark.parametrize("column", ["error_message", "traceback", "task_args", "task_kwargs", "content", "result"])
def test_a_value_that_is_refused_in_every_form(
    store: Store, make_drain: MakeDrain, journal: Journal, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By a constraint or a trigger of the user's own, which here stands for any reason."""
    key = column.removeprefix("task_")
    event = failed(**{key: "bad"}) if key in failure("") else failed(**{key: {"k": "bad"}})
    mark = REFUSED if key in failure("") else {MARK: "refused"}
    append(journal, event)
    drain = make_drain()
    with refusing(store, column):
        drain.work()
    whole = fold([event])
    [run] = whole.attempts.values()
    assert row(store) == {**run, **whole.task, column: mark}, "nothing else is missing"
    assert quarantined(drain) == []
    said = f"has stored an event of task {ID} with a mark for its {key}, because the database refuses it as it is: "
    assert f"{said}no bad {column}." in caplog.text


def test_two_values_that_are_refused(
    store: Store, make_drain: MakeDrain, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    event = failed(args=["bad"], kwargs={"k": "bad"}, content={"a": 1})
    append(journal, event)
    drain = make_drain()
    with refusing(store, "task_args", "task_kwargs"):
        drain.work()
    refused = {MARK: "refused"}
    is_stored(store, event, task_args=refused, task_kwargs=refused, content=refused, error_message=REFUSED)
    assert quarantined(drain) == []
    assert f"has stored an event of task {ID} with neither values nor the text of an error, because " in caplog.text


def test_an_event_that_is_refused_without_its_values_goes_into_quarantine(
    store: Store, make_drain: MakeDrain, journal: Journal
) -> None:
    event = failed(error_message=EMOJI, retries=2**70)
    append(journal, event)
    drain = make_drain()
    drain.work()
    assert (stored(store), quarantined(drain)) == ({}, [encode(event)])
    source = source_of(store, journal.source)
    assert (source.stored, source.quarantined, source.last_number) == (0, 1, 1)


def test_an_outage_while_another_form_is_stored(
    store: Store, make_drain: MakeDrain, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = failed(error_message="no\ud800")
    append(journal, event)
    drain = make_drain()
    write = drain.store.write
    calls: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise ConnectionResetError
        return write(*args, **kwargs)

    monkeypatch.setattr(drain.store, "write", failing)
    with pytest.raises(ConnectionResetError):
        drain.work()
    assert (stored(store), quarantined(drain)) == ({}, [])
    drain.work()
    is_stored(store, event, error_message=r"no\ud800")
    assert source_of(store, journal.source).stored == 1


def test_refusals_are_logged_a_few_times(
    store: Store,
    make_drain: MakeDrain,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(draining, "MAX_LOGGED", 3)
    append(journal, *(event for n in range(9) for event in about([failed(error_message="\ud800")], f"t{n}")))
    make_drain().work()
    assert len(stored(store)) == 9
    said = [record.getMessage() for record in caplog.records if "has stored an event of task" in record.getMessage()]
    assert len(said) == 3
    assert [one.endswith("This process logs no more events that are refused with such an error.") for one in said] == [
        *(False, False, True)
    ]


# -- the forms


def forms(event: Event) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", decode(form.event)) for form in plainer(encode(event))]


def test_each_form_is_plainer_than_the_one_before() -> None:
    event = failed(name="é" * 99, error_message=EMOJI, args=["\0"], kwargs={"ключ": 1, "a": None}, content=None)
    texts, values, *singles, refused = forms(event)
    assert [[key for key in event if single[key] != cast("Any", event)[key]] for single in singles] == [
        *(["args"], ["kwargs"], ["error_message"], ["traceback"])
    ]
    assert (texts["name"], texts["error_message"]) == ((r"\xe9" * 99)[:255], ESCAPED)
    assert texts["args"] == ["\0"]
    assert values["args"] == [{MARK: "replaced", "text": r"\x00"}]
    assert values["kwargs"] == {MARK: {MARK: "keys"}, r"\u043a\u043b\u044e\u0447": 1, "a": None}
    assert not is_whole(values["kwargs"])
    assert refused["args"] == refused["kwargs"] == {MARK: "refused"}
    assert refused["error_message"] == refused["traceback"] == REFUSED
    for form in (texts, values, refused):
        assert {key: form[key] for key in ("id", "run", "at", "started", "kind", "pid", "content")} == {
            key: cast("Any", event)[key] for key in ("id", "run", "at", "started", "kind", "pid", "content")
        }
        assert form.keys() == event.keys()


def test_marks_stay_what_they_are() -> None:
    cut = {MARK: "cut", "type": "str", "size": 9, "head": "é"}
    values, *_ = forms(failed(args=[cut, {MARK: "as", "type": "set", "value": ["é"]}, {"a": 1, MARK: cut}]))
    as_set = {MARK: "as", "type": "set", "value": [{MARK: "replaced", "text": r"\xe9"}]}
    assert values["args"] == [{**cut, "head": r"\xe9"}, as_set, {"a": 1, MARK: {**cut, "head": r"\xe9"}}]


def test_only_lacking_characters_are_replaced() -> None:
    event = failed(error_message="é\0ж", args=["ж", {"é": "x"}], kwargs={"ж": 1}, content={"a": "é"})
    latin = re.compile(r"[^\x01-\xff]")
    found: Any = decode(fitted(encode(event), latin, values=True))
    replaced = {
        "args": [{MARK: "replaced", "text": r"\u0436"}, {"é": "x"}],
        "kwargs": {MARK: {MARK: "keys"}, r"\u0436": 1},
    }
    assert found == {**event, "error_message": r"é\x00\u0436", **replaced}
    assert list(found) == list(event)
    assert decode(fitted(encode(event), latin, values=False)) == {**event, "error_message": r"é\x00\u0436"}
    for whole in (encode(failed(args=["é"])), b"no json \\u0436", rb"[" * 100_000 + rb"\u0436"):
        assert fitted(whole, latin, values=True) is whole


@pytest.mark.parametrize("data", [b"[]", b"no json", b"[" * 100_000, b'{"kind":"exploded","id":"a","name":"n","at":1}'])
def test_what_is_no_event_has_no_other_form(data: bytes) -> None:
    assert list(plainer(data)) == []


def test_what_is_plain_has_no_other_form() -> None:
    event = RUN.received()
    assert forms(event) == []
    assert forms({**event, "name": None}) == []  # type: ignore[typeddict-item]


# -- what some databases refuse


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("value", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_characters_that_postgresql_refuses(store: Store, make_drain: MakeDrain, journal: Journal, value: str) -> None:
    event = ended(args=[value, {value: 1}, "é"], result="fine")
    append(journal, event)
    make_drain().work()
    escaped = value.encode("ascii", "backslashreplace").decode().replace("\0", r"\x00")
    marks = [{MARK: "replaced", "text": escaped}, {MARK: {MARK: "keys"}, escaped: 1}]
    is_stored(store, event, task_args=[*marks, "é"], result="fine")


@pytest.mark.databases(*services.SERVERS)
def test_a_text_that_is_too_long(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    event = failed(error_type="x" * 300, queue="é" * 200)
    append(journal, event)
    drain = make_drain()
    drain.work()
    is_stored(store, event, error_type="x" * 255, queue="é" * 200, error_message="no money")
    assert quarantined(drain) == []


@pytest.mark.databases("postgresql")
def test_a_value_that_is_too_long_for_an_index_of_the_user(database: str, tmp_path: Path) -> None:
    with recorded(database, tmp_path) as (drain, journal):
        with drain.store.engine.begin() as connection:
            connection.execute(text("CREATE INDEX mine ON async_task ((task_kwargs->>'s'))"))
        event = ended(kwargs={"s": "".join(map(chr, range(200, 9_000)))}, result="fine")
        append(journal, event)
        drain.work()
        is_stored(drain.store, event, task_kwargs={MARK: "refused"}, result="fine")


@contextmanager
def recorded(url: str, tmp_path: Path) -> Iterator[tuple[Drain, Journal]]:
    """A journal, and its drain into the database."""
    settings = Settings(url=url, journal_dir=tmp_path / "journal")
    drain = Drain(Directory(settings.directory, settings.store_id), settings)
    drain.store.prepare()
    with closing(Journal(settings.directory, settings.store_id)) as journal, closing(drain):
        yield drain, journal


NARROW = {
    "utf8": "character set utf8",
    "latin1": "character set latin1",
    "LATIN1": "encoding LATIN1",
    "SQL_ASCII": "encoding SQL_ASCII",
    "WIN1252": "encoding WIN1252",
    "EUC_JP": "encoding EUC_JP",
}


@pytest.fixture
def narrow(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database, or of a connection to one, that has not all characters."""
    charset = request.param
    with ExitStack() as stack:
        if charset.isupper():
            options = f"ENCODING '{charset}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            yield stack.enter_context(services.fresh_database(services.postgresql_url(), options))
        else:
            yield f"{stack.enter_context(services.fresh_database(services.mysql_url()))}?charset={charset}"


every_narrow = pytest.mark.parametrize("narrow", NARROW, indirect=True)


@pytest.mark.database
@every_narrow
def test_characters_that_the_database_does_not_have(narrow: str, tmp_path: Path) -> None:
    with recorded(narrow, tmp_path) as (drain, journal):
        events = [failed(error_message=EMOJI, args=["plain"]), *about([ended(result=[EMOJI])], "other")]
        append(journal, *events, *about([ended(args=["plain"], result="fine")], "third"))
        drain.work()
        is_stored(drain.store, events[0], error_message=ESCAPED, task_args=["plain"], error_type="ValueError")
        assert stored(drain.store, "other")["other"].task["status"] == "SUCCESS"
        assert stored(drain.store, "other")["other"].task["result"] in ([EMOJI], [{MARK: "replaced", "text": ESCAPED}])
        assert stored(drain.store, "third")["third"].task["result"] == "fine"
        assert quarantined(drain) == []
        source = source_of(drain.store, journal.source)
        assert (source.stored, source.quarantined, source.last_number) == (3, 0, 3)
    with closing(Reader(narrow)) as reader:
        with reader.session() as session:
            assert len(session.scalars(reader.tasks()).all()) == 3
        [account] = completeness(reader, None, everything=True).accounts
        assert account.is_whole


@pytest.mark.database
@every_narrow
def test_it_is_named_once_when_a_recorder_starts_and_by_the_doctor(
    narrow: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    name = NARROW[request.node.callspec.params["narrow"]]
    with recorded(narrow, tmp_path) as (drain, journal):
        for _ in range(3):
            append(journal, ended())
            drain.work()
        [warning] = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert f"has the {name}" in warning.getMessage()
        settings = drain.settings
    with closing(Reader(narrow)) as reader:
        [found] = [one for one in look(settings, reader) if one.check == "charset"]
    assert f"celery-asynctask: {found.text} {found.remedy}" == warning.getMessage()
    assert found.remedy.startswith(("Write ?charset=utf8mb4", "Create a database with ENCODING 'UTF8'"))


HAS = {"utf8": "é€ж漢", "latin1": "é€", "LATIN1": "é", "WIN1252": "é€", "SQL_ASCII": "", "EUC_JP": ""}
"""Characters beyond ASCII that stay. In EUC_JP, whose characters are not known here, all are replaced."""


@pytest.mark.database
@every_narrow
def test_only_what_is_lacking_is_replaced(
    narrow: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    charset = request.node.callspec.params["narrow"]
    letters = "é€ж漢\U0001f600"
    shown = "".join(one if one in HAS[charset] else one.encode("ascii", "backslashreplace").decode() for one in letters)
    event = failed(error_message=letters, queue=letters, result=letters, kwargs={"plain": 1})
    many = [one for number in range(300) for one in about([event], f"t{number}")]
    with recorded(narrow, tmp_path) as (drain, journal):
        append(journal, event, *many[: 300 if charset != "EUC_JP" else 1])
        drain.work()
        expected = letters if charset.islower() else {MARK: "replaced", "text": shown}
        is_stored(drain.store, event, error_message=shown, queue=shown, result=expected, task_kwargs={"plain": 1})
        assert quarantined(drain) == []
    logged = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert bool(logged) == (charset == "EUC_JP"), "known to be lacking: not tried and refused, event by event"


@pytest.mark.database
def test_a_connection_that_cannot_read_all_characters() -> None:
    with (
        services.fresh_database(services.postgresql_url()) as url,
        closing(Reader(f"{url}?client_encoding=latin1")) as reader,
    ):
        [found] = [one for one in look(Settings(url=url), reader) if one.check == "charset"]
    assert found.text.startswith("The connection has the encoding LATIN1: ")


@pytest.mark.every_database
def test_a_database_with_all_characters_is_not_named(
    store: Store, make_drain: MakeDrain, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    event = failed(error_message=EMOJI, args=[EMOJI])
    append(journal, event)
    make_drain().work()
    is_stored(store, event, error_message=EMOJI, task_args=[EMOJI])
    assert store.narrow_charset() is None
    assert not caplog.records
