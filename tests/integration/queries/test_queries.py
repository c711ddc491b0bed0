"""Searches find the same on every database, and their messages; tasks that a reader may not see are not found."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import NamedTuple

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries import Filter, Reader, page, parse
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.search import keys
from celery_asynctask.queries.search.condition import LENGTHS, conditions
from celery_asynctask.queries.search.keys import JSON_KEYS, KEYS
from celery_asynctask.queries.task import attempts, find
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.asking import ask
from tests.integration import oracle
from tests.integration.oracle import add, row

pytestmark = pytest.mark.every_database

NOW = oracle.START.replace(day=1, month=3)

TEXTS = [
    *oracle.TEXTS[:10], "a!b", "none", "*", "?", "", " ", "50%", "ValueError", "Value%Error", "no money",
    "00000002-Aa!",
    "celery@one", "high%", "00000001-root", "00000001-Root",
]  # fmt: skip
GLOBS = [
    "shop.*", "shop?charge", "*charge*", "*", "s*e", "[*]", "*%*", "*_*", "shop_*", "shop%*", "*[ab]", "?", "*é*",
    "*ö*", "日*",
    "*!*", "*'*", "*\\*", "x?y", "a[*]b*", "0000000*", "0000000?-*", "*-Root", "celery@*", "*e", "50%_*", "??",
    "*[x]", "*\n*",
]  # fmt: skip
NUMBERS = ["42", "-5", "0", str(2**63 - 1), ">0", ">=7", "<7", "<=-5", "0..42", "1", "42,7", "*", "none"]
TIMES = [
    "2026-01-31", ">2026-01-31", ">=2026-02-01", "<2026-02-02", "<=2026-01-31", "2026-01-31..2026-02-01", ">28d",
    "30d..25d",
    "2026-01-31T12:00", "2026-01-31T12:00:00.250001", ">2026-01-31T14:11:59.250001", "*", "none",
]  # fmt: skip
SPANS = [">0s", ">=1.5s", "<=1.5s", "<1500ms", "1s..3s", ">3.000001s", "0s..0s", "*", "none"]
JSON_TEXTS = [
    "17", "17.0", "1.7e1", "17.5", "true", "false", "null", "0", "-0", "-3", "1e20", str(10**20), str(10**30),
    str(10**30 + 1),
    "1e-05", "0.00001", "0.1", "0.10000000000000001", "0.30000000000000004", "0.3", "", " ", "a b ", "a b", "A b",
    "é😀",
    "50%_*?[x]", 'q"u\\o', "[]", "{}", "[17]", str(2**53 + 1), str(2**53), str(2**63), str(-(2**63)), "1.5e300", "017",
]  # fmt: skip
PATHS = [
    "kwargs.account_id", "kwargs.order.id", "kwargs.order.lines.1", "kwargs.order.lines.0.n", "kwargs.nothing",
    "args.0",
    "args.1.0", "args.1.1.0", "args.2.0", "args.9", "args.00", "args.-1", "result", "result.0", "result.x",
    "content.17",
    "content.l.0.0", "content.l.0.0.0", "kwargs.order", "periodic",
    *("kwargs." + '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"' for key in oracle.KEYS),
]  # fmt: skip


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def bare(text: str) -> str:
    """The text as one types it: characters that would end the word are quoted."""
    return "".join(quoted(char) if char.isspace() or char in ',":\\' else char for char in text) or '""'


def values_of(key: str) -> list[str]:
    if key in ("since", "until"):
        return ["2026-02-01", "28d", "2026-01-31T12:00:00.250001"]
    by_reader = {keys.number: NUMBERS, keys.time: TIMES, keys.span: SPANS}
    if (read := KEYS[key].read) in by_reader:
        return by_reader[read]
    if key == "status":
        return ["SUCCESS", "failure,LOST", "PENDING,RECEIVED,STARTED,RETRY", "*", "none"]
    texts = [*map(quoted, TEXTS), *map(bare, GLOBS), "none", "*", '"none",shop.*']
    if key in ("id", "root", "parent"):
        texts += ["00000002", "0000000E-0000-4000*", "0000000E", "00000002-AA"]
    return texts


SEARCHES = [f"{key}:{value}" for key in KEYS if key not in JSON_KEYS for value in values_of(key)]
SEARCHES += [f"{path}:{value}" for path in PATHS for value in ("*", "none", "*7*", "a?b*", "17,true")]
SEARCHES += [
    f"{path}:{quoted(value)}"
    for path in ("kwargs.account_id", "kwargs.order.lines.1", "result", "kwargs.é", 'kwargs."q\\"u"')
    for value in JSON_TEXTS
]
SEARCHES += [
    "charge",
    "shop,münze",
    '"*"',
    "0000000e",
    "0000000E",
    "status:FAILURE name:shop.* -customer:42 retries:>0",
    "-status:SUCCESS,FAILURE -error:none",
    "kwargs.account_id:17 -kwargs.order.id:17",
    "-worker:celery@one queue:celery",
    "",
]


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


class Rows(NamedTuple):
    """The stored rows, and their reader."""

    reader: Reader
    tasks: list[AsyncTask]
    attempts: list[AsyncTaskAttempt]


@pytest.fixture(scope="module")
def varied(module_store: Store) -> Iterator[Rows]:
    tasks, runs = oracle.rows()
    with Session(module_store.engine, expire_on_commit=False) as session:
        session.add_all([*tasks, *runs])
        session.commit()
        session.expunge_all()
    reader = Reader(module_store.settings.url)
    yield Rows(reader, *oracle.rows())
    reader.close()


def by_sql(rows: Rows, session: Session, search: str) -> set[str]:
    wanted = conditions(parse(search, NOW), rows.reader.dialect)
    return set(session.scalars(select(AsyncTask.celery_task_id).where(*wanted.indexed, *wanted.scanned)))


def test_every_key_and_operator_finds_what_it_says(varied: Rows) -> None:
    wrong = []
    searches = [*SEARCHES, *(f"-{search}" for search in SEARCHES if search[:1] not in ("", "-"))]
    with varied.reader.session() as session:
        for text_ in searches:
            got = by_sql(varied, session, text_)
            expected = oracle.found(parse(text_, NOW), varied.tasks, varied.attempts)
            if got != expected:
                wrong.append((text_, sorted(got - expected)[:3], sorted(expected - got)[:3]))
    assert not wrong, f"{len(wrong)} searches: {wrong[:20]}"


def test_the_searches_tell_something(varied: Rows) -> None:
    """For each key, some search finds some rows and not others; otherwise the test above proves nothing about it."""
    telling = set()
    for search in SEARCHES:
        parsed = parse(search, NOW)
        if len(parsed.terms) == 1 and 0 < len(oracle.found(parsed, varied.tasks, varied.attempts)) < len(varied.tasks):
            telling.add(parsed.terms[0].key)
    assert telling == set(KEYS), "a key whose column has no varied values in oracle.rows()"


WORD = st.text(st.sampled_from("shop.cargeSHO*?[]%_!\\'\"-17 :,é"), min_size=1, max_size=12)


TEXT_KEYS = st.sampled_from(["name", "message", "error", "kwargs.account_id", "id", "worker", "result"])


@given(TEXT_KEYS, WORD, st.booleans())
@hypothesis.settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(varied: Rows, key: str, word: str, is_quoted: bool) -> None:
    search = f"{key}:{quoted(word) if is_quoted else bare(word)}"
    with varied.reader.session() as session:
        assert by_sql(varied, session, search) == oracle.found(parse(search, NOW), varied.tasks, varied.attempts)


def test_lengths_of_time(varied: Rows) -> None:
    with varied.reader.session() as session:
        got = session.execute(select(AsyncTask.celery_task_id, LENGTHS["wait"], LENGTHS["run"])).all()
    tasks = {task.celery_task_id: task for task in varied.tasks}
    assert len(got) == len(tasks)
    for task_id, wait, run in got:
        task = tasks[task_id]
        waited, ran = (task.created_at, task.started_at), (task.started_at, task.completed_at)
        for microseconds, (since, until) in ((wait, waited), (run, ran)):
            if since is None or until is None:
                assert microseconds is None
            else:
                assert microseconds == (until - since) / dt.timedelta(microseconds=1)


def test_one_task(varied: Rows) -> None:
    with varied.reader.session() as session:
        task = find(varied.reader, session, "00000001-Aa_")
        assert (task.name, [run.worker for run in attempts(varied.reader, session, task)]) == ("shop.Charge", [None])
        assert find(varied.reader, session, "00000001").id == task.id, "its beginning"
        uuid = "00000015-0000-4000-8000-000000000003"
        assert find(varied.reader, session, uuid.upper()).celery_task_id == uuid
        for text_ in ("00000001-aA", "00000001-Aa%", "nothing", "00000001-Aa_ "):
            with pytest.raises(NotFoundError, match=r"No task has the id .*, and none begins with it\.$"):
                find(varied.reader, session, text_)
        with pytest.raises(NotFoundError, match=f"whose number is {task.id} in the API has the id 00000001-Aa_"):
            find(varied.reader, session, str(task.id))
        for text_ in ("", "x" * 256, "a\x1b[1m", "\udc80", "a\0", "a\x9b"):
            with pytest.raises(NotFoundError, match="is not a task id"):
                find(varied.reader, session, text_)
        several = r"Several task ids begin with 000000: 00000000-.* \(shop.charge\), .*, and others"
        with pytest.raises(NotFoundError, match=several):
            find(varied.reader, session, "000000")


def test_an_id_that_others_begin_with(store: Store, reader: Reader) -> None:
    add(store, [row("a"), row("ab"), row("a\ue000"), row("a\U0001f600")])
    with reader.session() as session:
        for text_ in ("a", "ab", "a\ue000"):
            assert find(reader, session, text_).celery_task_id == text_
        with pytest.raises(NotFoundError):
            find(reader, session, "a ")


def test_tasks_of_other_customers_are_not_found(store: Store) -> None:
    add(store, [row("mine-1", customer=1), row("mine-2", customer=2), row("theirs", customer=3), row("nobodys")])
    reader = Reader(store.settings.url, scope=Scope.of([1, 2]))
    with reader.session() as session:
        for search in (
            "",
            "name:shop.charge",
            "kwargs.a:none",
            "-customer:1",
            "customer:*,none",
            "-id:x",
            "customer:3,none",
        ):
            got = {task.celery_task_id for task in page(reader, session, parse(search, NOW)).tasks}
            assert got <= {"mine-1", "mine-2"}, search
            assert bool(got) is (search != "customer:3,none"), search
        assert find(reader, session, "mine-2").customer == 2
        for text_ in ("theirs", "the", "nobodys"):
            with pytest.raises(NotFoundError, match="No task has the id"):
                find(reader, session, text_)
        with pytest.raises(NotFoundError) as caught:
            find(reader, session, "mine")
        assert "mine-1" in str(caught.value)
    reader.close()
    nobody = Reader(store.settings.url, scope=Scope.of([]))
    assert ask(page, nobody, Filter()).tasks == []
    nobody.close()
