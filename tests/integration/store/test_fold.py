"""The fold in Python and the fold in each database's upsert give the same rows, in any order.

Many tasks are tested at once: each permutation of a history gets a task id of its own, and the n-th batches of all of
them are written together, so thousands of permutations cost a few statements.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import customer_key, fold_all, merge
from celery_asynctask.core.time import AGO, AHEAD
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests import services
from tests.histories import HISTORIES, ID, ROOT, SOURCE, START, about, fold, lines
from tests.integration.rows import stored_rows

pytestmark = pytest.mark.every_database

Arrangement = list[list[Event]]
"""Events of one task in batches, as they reach the database."""

sampling = settings(max_examples=2, phases=[Phase.generate])
"""Few examples, because each has many tasks. Failures are printed in full; shrinking them would take minutes."""
SHORT = {name for name, events in HISTORIES.items() if len(events()) <= 5}


def check(store: Store, arrangements: Sequence[Arrangement]) -> None:
    """Write each arrangement under an id of its own, and check that every row is the fold of its events."""
    mark = uuid.uuid4().hex
    named = {
        task_id: [about(batch, task_id) for batch in arrangement]
        for task_id, arrangement in ((f"{mark}-{number}", one) for number, one in enumerate(arrangements))
    }
    for batches in itertools.zip_longest(*named.values(), fillvalue=()):
        store.write(lines(one for batch in batches for one in batch))
    rows = stored_rows(store, f"{mark}-")
    for task_id, batches in named.items():
        expected = fold_all(itertools.chain.from_iterable(batches))
        assert {identity: row for identity, row in rows.items() if identity[0] == task_id} == expected, batches


def cut(events: Sequence[Event], cuts: Sequence[bool]) -> Arrangement:
    """The events in batches; ``cuts`` are the indexes at which a new batch begins."""
    batches: Arrangement = [[]]
    for one, begins in zip(events, cuts, strict=True):
        if begins and batches[-1]:
            batches.append([])
        batches[-1].append(one)
    return batches


@st.composite
def arrangements(draw: st.DrawFn, events: Sequence[Event]) -> Arrangement:
    """The events in any order, some of them repeated, in batches of any size."""
    twice = draw(st.lists(st.sampled_from(events), max_size=3))
    shuffled = draw(st.permutations([*events, *twice]))
    return cut(shuffled, draw(st.lists(st.booleans(), min_size=len(shuffled), max_size=len(shuffled))))


@pytest.mark.parametrize("name", sorted(SHORT))
def test_every_order_of_a_short_history(shared_store: Store, name: str) -> None:
    """Event by event."""
    check(shared_store, [[[one] for one in events] for events in itertools.permutations(HISTORIES[name]())])


@pytest.mark.parametrize("name", sorted(SHORT))
def test_every_two_batches_of_a_short_history(shared_store: Store, name: str) -> None:
    """A batch folds some events, and the database joins the others, for every set of first events; then everything
    again."""
    events = HISTORIES[name]()
    halves = itertools.product([False, True], repeat=len(events))
    splits = [[chosen(events, [not late for late in half]), chosen(events, half), events] for half in halves]
    check(shared_store, [[batch for batch in batches if batch] for batches in splits])


def chosen(events: Sequence[Event], which: Sequence[bool]) -> list[Event]:
    return list(itertools.compress(events, which))


@pytest.mark.parametrize("name", sorted(HISTORIES.keys() - SHORT))
def test_any_order_of_a_long_history(shared_store: Store, name: str) -> None:
    """With duplicates, in batches of any size."""

    @sampling
    @given(st.lists(arrangements(HISTORIES[name]()), min_size=25, max_size=25))
    def sampled(sample: list[Arrangement]) -> None:
        check(shared_store, sample)

    sampled()


# -- events that need not make sense ---------------------------------------------------

RUNS = [f"{START + number:014x}a1b2c3" for number in range(3)]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
JSON = st.none() | st.booleans() | st.integers() | TEXT | st.lists(st.integers() | TEXT, max_size=2)
OBJECT = st.dictionaries(TEXT, st.integers() | st.none(), max_size=2)


FAR = (0, 2**56 - 1, START - AGO, START - AGO + 25, START + AHEAD + 25)
"""Times of creation that no event of those made here believes, or only some."""
ENDS = (Kind.RETRIED, Kind.SUCCEEDED, Kind.FAILED, Kind.IGNORED, Kind.REJECTED)


@st.composite
def anything(draw: st.DrawFn) -> list[Event]:
    """Events of one task, of any kind, with one start per attempt, and no time twice: equal keys decide which event
    wins only if they belong to one event."""
    times = draw(st.lists(st.integers(START, START + 50), min_size=1, max_size=6, unique=True))
    events = []
    started = set()
    moments = set(times)
    for at in times:
        kind = draw(st.sampled_from(Kind))
        nesting, retries = draw(st.sampled_from([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]))
        event: dict[str, Any] = {"id": ID}
        if kind not in (Kind.PUBLISHED, Kind.PLANNED, Kind.UNSENT):
            event["run"] = draw(st.sampled_from(RUNS))
        event |= {
            "kind": kind.value,
            "at": at,
            "name": f"task.{nesting}",
            "nesting": nesting,
            "retries": retries,
            "redelivered": draw(st.booleans()),
        }
        run = (nesting, retries, event["redelivered"], event.get("run"))
        if kind is Kind.STARTED and run in started:
            continue
        complete = kind in ENDS and run not in started and draw(st.booleans())
        if complete:
            event["started"] = draw(st.integers(START, START + 60).filter(lambda moment: moment not in moments))
            moments.add(event["started"])
        if complete or kind is Kind.STARTED:
            started.add(run)
            event |= draw(st.fixed_dictionaries({}, optional={"worker": TEXT, "pid": st.integers(1, 9), "queue": TEXT}))
        elif "run" in event:
            event["ran"] = draw(st.booleans())
        event |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "created": st.sampled_from([START - 9, START + 9, *FAR]),
                    "sent": st.integers(START - 9, START + 9),
                    "eta": st.integers(START, START + 9),
                    "asked": st.booleans(),
                    "root": st.sampled_from([None, ID, ROOT]),
                    "parent": st.sampled_from([None, ID, "parent"]),
                    "customer": st.sampled_from([-7, 42]),
                    "customer_key": st.sampled_from(["42", "acme"]),
                    "created_by": st.integers(-9, 9),
                    "created_by_key": TEXT,
                    "holder": st.sampled_from([SOURCE, "another"]),
                    "blind": st.booleans(),
                    "chord": st.booleans(),
                    "created_by_name": TEXT,
                    "content": OBJECT,
                    "noted": OBJECT,
                    "trace": st.sampled_from(["t1", "t2"]),
                    "span": st.sampled_from(["s1", "s2"]),
                    "args": JSON,
                    "kwargs": JSON,
                    "result": JSON,
                    "error_type": TEXT,
                    "error_message": TEXT,
                    "traceback": TEXT,
                    "outcome": st.sampled_from(["requeued", "replaced"]),
                    "delivered": st.booleans(),
                    "again": st.booleans(),
                    "inferred": st.booleans(),
                    "internal": st.booleans(),
                },
            )
        )
        events.append(cast("Event", event))
    return events


# -- a database that sorts as a language does ------------------------------------------

AA, AB = 0x6379DA09FAA12, 0x6379DA09FAB00
"""A moment and a later one. In Danish, "aa" comes after "z", so as text the first sorts after the second."""


@pytest.fixture(scope="module")
def danish_store() -> Iterator[Store]:
    options = "LOCALE_PROVIDER icu ICU_LOCALE 'da' TEMPLATE template0"
    with services.fresh_database(services.postgresql_url(), options) as url:
        made = Store(Settings(url=url))
        made.prepare()
        with made.engine.connect() as connection:
            assert connection.scalar(text("SELECT '9faa12' > '9fab00'")), "this database does not sort as Danish does"
        yield made
        made.close()


def twice(kind: Kind, first: dict[str, Any], second: dict[str, Any], run: int | None = None) -> list[Event]:
    """An event at either moment; each in a delivery of its own, or both in the delivery at ``run``."""
    same = {"id": ID, "kind": kind.value, "name": "a.task"}
    return [
        cast("Event", {**same, "run": f"{run or at:014x}a1b2c3", "at": at, **extra})
        for at, extra in ((AA, first), (AB, second))
    ]


BY_KEY: dict[str, list[Event]] = {
    "origin_key": twice(Kind.RECEIVED, {"asked": True, "args": [1]}, {"asked": True, "args": [2]}),
    "trace_key": twice(Kind.STARTED, {"trace": "t1", "span": "s1"}, {"trace": "t2", "span": "s2"}),
    "content_key": twice(Kind.NOTED, {"noted": {"done": 1}}, {"noted": {"done": 2}}, AA),
    "order_key": twice(Kind.FAILED, {"error_type": "KeyError"}, {"again": True, "outcome": "requeued"}),
    "end_key": twice(Kind.LOST, {"ran": True, "error_type": "A"}, {"ran": True, "error_type": "B"}, AA),
    "order_key of redeliveries": twice(Kind.STARTED, {"redelivered": True}, {"redelivered": True}),
}


@pytest.mark.database
@pytest.mark.parametrize("key", BY_KEY)
def test_keys_are_compared_byte_by_byte(danish_store: Store, key: str) -> None:
    """In one batch, the same event wins as in two batches, whatever the database's collation."""
    events = BY_KEY[key]
    check(danish_store, [[events], [events[::-1]], [events[:1], events[1:]], [events[1:], events[:1]]])


@settings(sampling, max_examples=5)
@given(st.lists(anything().flatmap(arrangements), min_size=12, max_size=12))
def test_any_events(shared_store: Store, sample: list[Arrangement]) -> None:
    check(shared_store, sample)


@given(st.data())
def test_join_is_commutative_associative_and_idempotent(data: st.DataObject) -> None:
    events = data.draw(anything())
    whose = customer_key(events[0])
    events = [one for one in events if customer_key(one) == whose]
    part = st.lists(st.sampled_from(events), min_size=1).map(fold)
    a, b, c = data.draw(part), data.draw(part), data.draw(part)
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    complete = fold(events)
    assert merge(complete, a) == complete
