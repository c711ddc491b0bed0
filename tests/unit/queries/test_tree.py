"""Members of a workflow get their places, whatever parents their rows have."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_asynctask.core.fold import project
from celery_asynctask.core.keys import is_unsent
from celery_asynctask.core.status import FAILED, AsyncTaskStatus
from celery_asynctask.queries.workflow.tree import (
    Member,
    Placed,
    failed_branches,
    lineage,
)
from tests import workflows

START = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)
RAN, PLANNED, UNSENT, SENT = (f"{'0' * 21}{stage}{'0' * 36}" for stage in "4012")


def at(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else START + dt.timedelta(seconds=seconds)


def member(
    task_id: str,
    parent: str | None = None,
    root: str | None = "a",
    status: str = "SUCCESS",
    created: float = 0,
    started: float | None = 1,
    completed: float | None = 2,
    key: str = RAN,
    **extra: Any,
) -> Member:
    values: dict[str, Any] = {
        "celery_task_id": task_id,
        "customer_key": "",
        "name": f"name of {task_id}",
        "status": AsyncTaskStatus(status),
        "root_task_id": root,
        "parent_task_id": parent,
        "created_at": at(created),
        "started_at": at(started),
        "completed_at": at(completed),
        "retries": 0,
        "error_type": None,
        "error_message": None,
        "order_key": key,
        "id": 0,
    }
    return Member(**{**values, **extra})


def places(placed: list[Placed]) -> list[tuple[str, int, str | None]]:
    return [(one.member.celery_task_id, one.depth, above(one)) for one in placed]


def above(placed: Placed) -> str | None:
    """The id of the member above."""
    return None if placed.above is None else placed.above[0]


def critical(*members: Member) -> set[str]:
    return {one.member.celery_task_id for one in lineage(members) if one.critical}


IDS = st.sampled_from([f"t{number}" for number in range(12)])
MEMBERS = st.lists(
    st.builds(
        member,
        IDS,
        parent=st.none() | IDS,
        root=st.none() | IDS,
        status=st.sampled_from(sorted(AsyncTaskStatus.__members__)),
        created=st.integers(0, 3),
        started=st.none() | st.integers(0, 5),
        completed=st.none() | st.integers(0, 5),
        key=st.sampled_from([RAN, PLANNED, UNSENT]),
        id=st.integers(0, 3),
    ),
    unique_by=lambda one: one.celery_task_id,
)


@given(MEMBERS)
@example([member("t0", "t1"), member("t1", "t2"), member("t2", "t0"), member("t3", "t0")])
def test_every_member_has_one_place_below_what_it_hangs_on(members: list[Member]) -> None:
    placed = lineage(members)
    assert sorted(one.member.celery_task_id for one in placed) == sorted(one.celery_task_id for one in members)
    line: list[str] = []
    for one in placed:
        del line[one.depth :]
        assert above(one) == (line[-1] if line else None)
        assert len(line) == one.depth
        line.append(one.member.celery_task_id)
    assert any(one.critical for one in placed) == bool(members)
    assert lineage(reversed(members)) == placed or len({(one.created_at, one.id) for one in members}) < len(members)


@given(MEMBERS)
def test_a_member_hangs_on_its_parent_or_its_root_unless_that_is_a_cycle(members: list[Member]) -> None:
    known = {one.celery_task_id for one in members}
    tops = 0
    for one in lineage(members):
        uppers = [
            upper
            for upper in (one.member.parent_task_id, one.member.root_task_id)
            if upper in known and upper != one.member.celery_task_id
        ]
        tops += bool(uppers) and one.above is None
        assert one.above is None or above(one) == uppers[0]
    loose = len({one.celery_task_id for one in members if one.parent_task_id or one.root_task_id})
    assert tops <= loose / 2, "a cycle has at least two members, and is cut once"


@given(MEMBERS)
def test_failed_branches_are_the_failures_and_what_leads_to_them(members: list[Member]) -> None:
    placed = lineage(members)
    kept = failed_branches(placed)
    uppers = {one.member.celery_task_id: above(one) for one in placed}
    wanted = set()
    for one in placed:
        at: str | None = one.member.celery_task_id if one.member.status in FAILED else None
        while at is not None:
            wanted.add(at)
            at = uppers[at]
    assert kept == [one for one in placed if one.member.celery_task_id in wanted]


def test_siblings_are_in_the_order_of_their_creation() -> None:
    members = [
        member("late", "a", created=3),
        member("second", "a", created=2, id=8),
        member("first", "a", created=2, id=7),
    ]
    placed = places(lineage([*members, member("a", created=1)]))
    assert placed == [("a", 0, None), ("first", 1, "a"), ("second", 1, "a"), ("late", 1, "a")]


def test_a_task_replaced_by_a_chain_is_above_its_own_last_step() -> None:
    """Its first step names it, and it names its first step."""
    placed = places(lineage([member("b", "a", created=0), member("a", "b", created=1)]))
    assert placed == [("a", 0, None), ("b", 1, "a")]


def test_a_cycle_without_its_root_is_cut_above_the_oldest() -> None:
    members = [member("x", "y", created=2), member("y", "z", created=1), member("z", "x", created=3)]
    assert places(lineage(members)) == [("y", 0, None), ("x", 1, "y"), ("z", 2, "x")]


def test_a_member_without_a_known_parent_is_below_its_root() -> None:
    members = [member("a"), member("body", None, created=1), member("orphan", "gone", created=2)]
    placed = places(lineage([*members, member("apart", "gone", root="gone", created=3)]))
    assert placed == [("a", 0, None), ("body", 1, "a"), ("orphan", 1, "a"), ("apart", 0, None)]


def test_ten_thousand_in_one_line_and_on_one_parent() -> None:
    line = [member(f"{number}", f"{number - 1}", created=number) for number in range(10_000)]
    placed = lineage(line)
    assert [one.depth for one in placed] == list(range(10_000))
    assert failed_branches(placed) == []
    placed = lineage(one._replace(parent_task_id="0") for one in line)
    assert sum(one.depth for one in placed) == 9_999
    ring = lineage([line[0]._replace(parent_task_id="9999"), *line[1:]])
    assert ring[-1].depth == 9_999


def test_a_critical_path_leads_from_the_first_to_what_ended_last() -> None:
    tasks = [
        member("a", completed=2),
        member("quick", "a", created=1, started=2, completed=3),
        member("slow", "a", created=1, started=2, completed=8),
        member("last", "slow", created=7, started=9, completed=10),
        member("never", "last", "a", "FAILURE", 0, None, 11, key=UNSENT),
    ]
    assert critical(*tasks) == {"a", "slow", "last"}


def test_the_last_success_precedes_a_body_without_a_known_sender() -> None:
    tasks = [
        member("a", completed=2),
        member("one", "a", created=2, started=3, completed=7),
        member("two", "a", created=2, started=3, completed=5),
        member("other", None, "other", created=2, started=3, completed=8),
        member("failed", "a", status="FAILURE", created=2, started=3, completed=8),
        member("errback", "failed", created=8, started=8.1, completed=8.5),
        member("beside", "a", created=2, started=3, completed=10),
        member("body", None, created=0, started=9, completed=11),
    ]
    assert critical(*tasks) == {"a", "one", "body"}


@pytest.mark.parametrize(
    ("tasks", "path"),
    [
        ([member("b", "a", started=1, completed=None, status="STARTED")], {"a", "b"}),
        (
            [
                member("b", "a", status="STARTED", started=3, completed=None),
                member("c", "a", status="RETRY", started=2, completed=None),
                member("d", "a", status="PENDING", started=None, completed=None, key=SENT),
            ],
            {"a", "c"},
        ),
        ([member("b", "a", status="PENDING", started=None, completed=None, key=PLANNED)], {"a"}),
    ],
    ids=["it runs", "the one that runs longest", "a step that was not sent is not waited for"],
)
def test_the_path_of_an_open_workflow_leads_to_what_it_waits_for(tasks: list[Member], path: set[str]) -> None:
    assert critical(member("a", completed=9), *tasks) == path


def test_the_steps_of_the_example_are_what_they_are_called() -> None:
    rows = workflows.order()
    assert {one["id"] for one in rows if is_unsent(project(one).task["order_key"])} == {workflows.NOTIFY}
