"""The members of a workflow, found from any of them with few queries, on each kind of database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from sqlalchemy import insert

from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.time import time_of
from celery_asynctask.errors import NotFoundError
from celery_asynctask.queries import Reader, diagnosis
from celery_asynctask.queries.diagnosis import evidence
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.task import find
from celery_asynctask.queries.workflow import members as queries
from celery_asynctask.queries.workflow import tree
from celery_asynctask.queries.workflow.members import Workflow, attempts_of, workflow
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTaskSource
from tests.histories import (
    HISTORIES,
    ID,
    ROOT,
    SOURCE,
    Delivery,
    about,
    asked,
    lines,
    ms,
    never_sent,
    published,
    variant,
)
from tests.histories import event as happened
from tests.integration.oracle import START
from tests.integration.statements import statements_of
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, later_step, of, order, ran

pytestmark = pytest.mark.every_database


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    made = Reader(store.settings.url)
    yield made
    made.close()


def members(reader: Reader, task_id: str) -> set[str]:
    return {one.celery_task_id for one in workflow_from(reader, task_id).members}


def workflow_from(reader: Reader, task_id: str) -> Workflow:
    with reader.session() as session:
        return workflow(reader, session, find(reader, session, task_id))


@contextmanager
def statements(reader: Reader) -> Iterator[list[str]]:
    """The SELECTs that are sent meanwhile."""
    with statements_of(reader.engine) as sent:
        yield sent


def test_all_members_from_any_of_them(store: Store, reader: Reader) -> None:
    store.write(lines([*order(), *of("other", ran("shop.other", 0, 1, 2), "other")]))
    for one in (CHECKOUT, CHARGE, SHIP, NOTIFY, INVOICE):
        assert members(reader, one) == {CHECKOUT, CHARGE, SHIP, NOTIFY, INVOICE}
    assert members(reader, "other") == {"other"}
    placed = tree.lineage(workflow_from(reader, SHIP).members)
    assert [(one.member.celery_task_id, one.depth, one.critical) for one in placed] == [
        (CHECKOUT, 0, True),
        (CHARGE, 1, True),
        (SHIP, 2, True),
        (NOTIFY, 3, False),
        (INVOICE, 1, False),
    ]
    assert (placed[3].member.unsent, placed[3].member.status) == (True, AsyncTaskStatus.FAILURE)


def test_a_body_of_a_chord_whose_header_tasks_are_roots(store: Store, reader: Reader) -> None:
    """The body has the root of the header task that finished last, and so have the steps behind it."""
    store.write(
        lines(
            [
                *of("head-1", ran("shop.count", 0, 1, 2), "head-1"),
                *of("head-2", ran("shop.count", 0, 1, 9), "head-2"),
                *of("body", ran("shop.total", 9, 10, 11), "head-2", "head-2"),
                *of("behind", ran("shop.tell", 11, 12, 13), "head-2", "body"),
            ]
        )
    )
    for one in ("head-2", "body", "behind"):
        assert members(reader, one) == {"head-2", "body", "behind"}
    assert members(reader, "head-1") == {"head-1"}, "no row says that they belong together"


def test_members_with_another_root_or_none(store: Store, reader: Reader) -> None:
    store.write(
        lines(
            [
                *of("top", ran("a", 0, 1, 2), "top"),
                *of("rootless", ran("b", 3, 4, 5), None, "top"),
                *of("below", ran("c", 6, 7, 8), None, "rootless"),
                *of("elsewhere", ran("d", 6, 7, 8), "elsewhere", "below"),
                *of("with-it", ran("e", 9, 10, 11), "elsewhere", "elsewhere"),
                *of("orphan", ran("f", 9, 10, 11), "purged", "purged-too"),
            ]
        )
    )
    everything = {"top", "rootless", "below", "elsewhere", "with-it"}
    for one in everything:
        assert members(reader, one) == everything
    assert members(reader, "orphan") == {"orphan"}


def test_tasks_that_are_each_others_parents(store: Store, reader: Reader) -> None:
    store.write(lines([*of("a", ran("a", 1, 2, 3), "a", "b"), *of("b", ran("b", 0, 2, 3), "a", "a")]))
    assert members(reader, "b") == {"a", "b"}
    store.write(lines([*of("c", ran("c", 1, 2, 3), None, "d"), *of("d", ran("d", 0, 2, 3), None, "c")]))
    assert members(reader, "d") == {"c", "d"}


def test_tasks_that_may_not_be_seen_are_not_followed(store: Store, reader: Reader) -> None:
    def task_events(task_id: str, parent: str | None, customer: int) -> list[Event]:
        sent = cast("Event", {**published(customer=customer), "name": "x"})
        return of(task_id, [sent], None, parent)

    store.write(
        lines(
            [
                *task_events("a", None, 1),
                *task_events("b", "a", 2),
                *task_events("c", "b", 1),
                *task_events("d", "a", 1),
            ]
        )
    )
    assert members(reader, "a") == {"a", "b", "c", "d"}
    scoped = Reader(store.settings.url, scope=Scope.of([1]))
    try:
        assert members(scoped, "a") == {"a", "d"}
        assert members(scoped, "c") == {"c"}
        with pytest.raises(NotFoundError):
            members(scoped, "b")
    finally:
        scoped.close()


def test_a_thousand_members_take_a_few_queries(store: Store, reader: Reader) -> None:
    events = of("root", ran("shop.start", 0, 1, 2), "root")
    for number in range(999):
        events += of(
            f"m-{number:04}", ran("shop.part", 2, 3, 4), "root", "root" if number % 3 else f"m-{number - 1:04}"
        )
    store.write(lines(events))
    with reader.session() as session:
        task = find(reader, session, "m-0500")
        with statements(reader) as sent:
            complete = workflow(reader, session, task)
            assert len(complete.members) == 1000
            assert not complete.bounded
            attempts = attempts_of(session, complete.members)
        assert len(sent) <= 5
        assert sum("async_task_attempt" in one for one in sent) == 1
    assert len(attempts) == 1000
    assert attempts["m-0000", ""][0].worker == "celery@one"
    assert len(tree.lineage(complete.members)) == 1000


def test_more_members_than_are_looked_at(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members created first, and the member that the search began with; exactly at the bound, nothing is bounded
    yet."""
    events = [one for number in range(12) for one in of(f"m-{number:02}", later_step("shop.part", number), "m-00")]
    store.write(lines(events))
    monkeypatch.setattr(queries, "MAX_MEMBERS", 12)
    assert not workflow_from(reader, "m-11").bounded
    monkeypatch.setattr(queries, "MAX_MEMBERS", 5)
    complete = workflow_from(reader, "m-11")
    assert complete.bounded
    assert {one.celery_task_id for one in complete.members} == {"m-00", "m-01", "m-02", "m-03", "m-11"}


def test_roots_that_lead_to_roots_without_end(store: Store, reader: Reader) -> None:
    events = [
        one
        for number in range(60)
        for one in of(f"r-{number:02}", ran("x", 0, 1, 2), f"r-{number:02}", f"r-{number - 1:02}")
    ]
    store.write(lines(events))
    with statements(reader) as sent:
        complete = workflow_from(reader, "r-00")
    assert complete.bounded
    assert len(sent) < 80


def test_attempts_are_bounded_and_in_order(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(lines(order()))
    with reader.session() as session:
        members = [one for one in workflow_from(reader, CHARGE).members if one.celery_task_id in (CHARGE, SHIP)]
        attempts = attempts_of(session, [*members, members[0]._replace(celery_task_id="nobody")])
        charged, shipped = members[0].identity, members[1].identity
        assert charged[0] == CHARGE
        assert [(one.retries, one.outcome) for one in attempts[charged]] == [(0, "retried"), (1, "succeeded")]
        assert set(attempts) == {charged, shipped}
        monkeypatch.setattr(queries, "MAX_ATTEMPTS", 2)
        assert sum(map(len, attempts_of(session, members).values())) == 2


# -- the evidence for `why`


def why(reader: Reader, task_id: str) -> list[str]:
    """The ids of the tasks in the evidence, the first cause last."""
    with reader.session() as session:
        reasons = evidence(reader, session, find(reader, session, task_id))
    chain = [reasons]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    return [one.task.celery_task_id for one in chain]


def test_a_step_that_was_not_sent_leads_to_the_task_that_failed(store: Store, reader: Reader) -> None:
    store.write(lines(order()))
    assert why(reader, NOTIFY) == [NOTIFY, SHIP]
    assert why(reader, SHIP) == [SHIP]
    with reader.session() as session:
        reasons = evidence(reader, session, find(reader, session, CHARGE))
    assert reasons.last is not None
    assert (reasons.attempts, dict(reasons.earlier), reasons.last.outcome) == (2, {"TimeoutError": 1}, "succeeded")


@pytest.mark.parametrize("name", ["released", "received_and_released"])
def test_the_process_that_has_or_had_the_message(store: Store, reader: Reader, name: str) -> None:
    store.write(lines(HISTORIES[name]()))
    with store.engine.begin() as connection:
        known = {"host": "web1", "pid": 7, "role": "worker", "journal": "j", "started_at": START, "last_seen_at": START}
        numbers = dict.fromkeys(("segment", "position", "last_number", "stored", "quarantined"), 0)
        names = [{"source": one, **known, **numbers} for one in (SOURCE, "another")]
        connection.execute(insert(AsyncTaskSource), names)
    with reader.session() as session:
        reasons = evidence(reader, session, find(reader, session, ID))
    assert reasons.holder is not None
    assert reasons.holder.source == (SOURCE if name == "released" else "another")
    waits = reasons.task.status in (AsyncTaskStatus.PENDING, AsyncTaskStatus.RETRY)
    assert waits == (name == "released")


def test_the_cause_is_the_customer_s_own(store: Store, reader: Reader) -> None:
    """Two customers use the same ids in their workflows; each step leads to the failure of its own."""
    for customer in ("acme", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d", "42"):
        events = [variant(one, customer_key=customer) for one in order()]
        store.write(
            lines(variant(one, error_message=f"no {customer}") if "error_message" in one else one for one in events)
        )
        with reader.session() as session:
            step = find(reader, session, NOTIFY, customer)
            reasons = evidence(reader, session, step)
            assert step.customer_key == customer
            assert reasons.cause is not None
            assert reasons.cause.task.customer_key == customer
            members = workflow(reader, session, step).members
            assert {one.customer_key for one in members} == {customer}
            assert len(members) == len({one["id"] for one in order()})
            assert {one.above[1] for one in tree.lineage(members) if one.above is not None} == {customer}


def test_an_id_of_many_customers_is_one_id(store: Store, reader: Reader) -> None:
    """Its beginning is not ambiguous because several customers use it, and does not hide another id."""
    for number in range(9):
        store.write(lines([variant(one, customer=number) for one in about([published(number, number)], "nightly")]))
    with reader.session() as session:
        assert find(reader, session, "night").customer == 8, "the newest"
        assert find(reader, session, "night", "3").customer == 3
        with pytest.raises(NotFoundError, match="No task of customer 9 has the id night"):
            find(reader, session, "night", "9")
    store.write(lines(about([published(1)], "nightly-2")))
    with reader.session() as session:
        assert find(reader, session, "nightly").customer == 8
        with pytest.raises(NotFoundError, match=r"Several task ids begin with night: nightly .*nightly-2"):
            find(reader, session, "night")
        assert find(reader, session, "night", "").celery_task_id == "nightly-2"


def test_a_step_whose_cause_has_no_row(store: Store, reader: Reader) -> None:
    store.write(lines(never_sent()))
    assert why(reader, ID) == [ID]


def test_a_later_step_leads_to_the_one_it_waits_for(store: Store, reader: Reader) -> None:
    run = Delivery(2, "shop.first")
    events = [
        *of("first", [published(), run.started(3)], "first"),
        *of("second", later_step("shop.second", 0), "first", "first"),
        *of("third", later_step("shop.third", 0), "first", "second"),
        *of("body", later_step("shop.body", 0), "first"),
    ]
    store.write(lines(events))
    assert why(reader, "third") == ["third", "first"]
    with reader.session() as session:
        body = evidence(reader, session, find(reader, session, "body"))
    assert (body.cause, [one.celery_task_id for one in body.open]) == (None, ["first"])


def test_how_many_wait_before_it(store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [one for number in range(3) for one in of(f"w-{number}", [published(number, number)], ROOT)]
    planned = happened(Kind.PLANNED, 0, created=ms(0), **asked())
    store.write(lines([*events, *of("planned", [planned], ROOT), *of("done", ran("x", 0, 1, 2), ROOT)]))
    with reader.session() as session:
        ahead = [evidence(reader, session, find(reader, session, f"w-{number}")).ahead for number in range(3)]
        assert ahead == [0, 1, 2]
        assert evidence(reader, session, find(reader, session, "done")).ahead is None
        monkeypatch.setattr(diagnosis, "MAX_AHEAD", 2)
        bounded = [evidence(reader, session, find(reader, session, f"w-{number}")) for number in range(2)]
        # The planned step is one of the two tasks before w-1 that are looked at, and is not counted.
        assert [(one.ahead, one.ahead_is_bounded) for one in bounded] == [(0, False), (1, True)]


def test_hosts_where_it_may_have_ended_without_anybody_knowing(store: Store, reader: Reader) -> None:
    """Processes of which nobody knows what they did last, if they were not silent before the task was created."""
    store.write(lines([variant(published(), id="open"), *about(HISTORIES["success"](), "over")]))
    created = time_of(ms(0))
    shared = {"pid": 7, "role": "worker", "journal": "j", "started_at": created, "numbered": 3, "dropped": None}
    shared |= dict.fromkeys(("segment", "position", "last_number", "stored", "quarantined"), 0)
    shared |= {"ended_at": None, "settled_at": None, "given_up_at": None}
    second = dt.timedelta(seconds=1)
    processes: dict[str, dict[str, Any]] = {
        "silent": {"host": "far", "last_seen_at": created + second},
        "silent-first": {"host": "far", "last_seen_at": created},
        "just-before": {"host": "near", "last_seen_at": created - SILENT},
        "silent-before": {"host": "a", "last_seen_at": created - SILENT - second},
        "settled": {"host": "b", "last_seen_at": created + second, "settled_at": created + second},
        "given-up": {"host": "c", "last_seen_at": created + second, "given_up_at": created + second},
        "heard": {"host": "d", "last_seen_at": dt.datetime.now(dt.timezone.utc)},
        "old": {"host": "e", "last_seen_at": created, "ended_at": created + second, "numbered": None},
    }
    with store.engine.begin() as connection:
        rows = [{"source": source, **shared, **about} for source, about in processes.items()]
        connection.execute(insert(AsyncTaskSource), rows)
    with reader.session() as session:
        reasons = evidence(reader, session, find(reader, session, "open"))
        assert list(reasons.unheard.items()) == [("far", created + second), ("near", created - SILENT)]
        assert evidence(reader, session, find(reader, session, "over")).unheard == {}


def test_the_process_of_an_attempt_is_found(store: Store, reader: Reader) -> None:
    run = Delivery(2)
    store.write(lines([published(), run.started(3)]))
    with reader.session() as session:
        reasons = evidence(reader, session, find(reader, session, ID))
        assert reasons.last is not None
        assert (reasons.last.source, reasons.source) == (SOURCE, None)
