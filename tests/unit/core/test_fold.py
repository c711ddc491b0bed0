"""The fold: which event decides, and which values stay."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import pytest

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import (
    ATTEMPT_CONSTANT,
    ATTEMPT_FIRST,
    ATTEMPT_GROUPS,
    TASK_EARLIEST,
    TASK_GROUPS,
    fold_all,
    project,
)
from celery_asynctask.core.keys import execution_of
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.time import AGO, AHEAD
from tests.histories import (
    HISTORIES,
    ID,
    NAME,
    PARENT,
    ROOT,
    Delivery,
    about,
    asked,
    event,
    failure,
    fold,
    ms,
    published,
)


def attempts_of(events: list[Event]) -> list[dict[str, Any]]:
    attempts = fold(events).attempts
    return [attempts[key] for key in sorted(attempts)]


def test_fold_all_keeps_tasks_apart() -> None:
    one, other = published(), {**published(5), "id": "other"}
    folded = fold_all([one, other, {**other, "kind": Kind.STARTED.value}])  # type: ignore[list-item, typeddict-item]
    assert {identity: partial.task["status"] for identity, partial in folded.items()} == {
        (ID, ""): "PENDING",
        ("other", ""): "STARTED",
    }


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        (ms(0), ms(0)),
        (ms(10) - AGO, ms(10) - AGO),
        (ms(10) - AGO - 1, ms(10)),
        (1, ms(10)),
        (ms(10) + AHEAD, ms(10) + AHEAD),
        (ms(10) + AHEAD + 1, ms(10)),
        (2**56 - 1, ms(10)),
    ],
)
def test_a_time_of_creation_that_cannot_be_is_not_shown_and_still_tells_executions_apart(
    created: int, shown: int
) -> None:
    start: Any = event(Kind.STARTED, 10, created=created)
    end: Any = event(Kind.SUCCEEDED, 20, created=created, started=ms(10))
    for events in ([start], [end], [start, end]):
        task = fold(events).task
        assert task["created_at"] == shown
        assert execution_of(task["order_key"]) == f"{created:014x}0"


@pytest.mark.parametrize("created", [-1, 2**56])
def test_a_time_that_keys_have_no_room_for_is_refused(created: int) -> None:
    with pytest.raises(OverflowError, match=r"^the event was created at a time that keys have no room for"):
        project(event(Kind.STARTED, 10, created=created))


def test_the_first_second_of_all_is_a_time() -> None:
    start: Any = {**event(Kind.STARTED, 10, created=0), "at": 10}
    assert fold([start]).task["created_at"] == 0


def test_only_of_what_is_not_to_be_recorded_the_time_of_creation_does_not_count() -> None:
    for kind in Kind:
        shown = ms(10) if kind is Kind.UNRECORDED else ms(0)
        assert project(event(kind, 10, created=ms(0))).task["created_at"] == shown, kind


@pytest.mark.parametrize("waited", [AGO, 2 * AGO])
def test_a_task_that_waits_for_years_keeps_when_it_was_created(waited: int) -> None:
    """Such as one with an ETA in two years. Without the event of its producer, only its start is known."""
    created = ms(0)
    sent: Any = {**published(0), "created": created}
    start: Any = {**event(Kind.STARTED, 10, created=created), "at": created + waited + 1}
    assert fold([start, sent]).task["created_at"] == created
    assert fold([start]).task["created_at"] == created + waited + 1


def test_fold_all_is_the_fold_of_each() -> None:
    histories = {name: about(make(), name) for name, make in HISTORIES.items()}
    mixed = [one for events in zip_longest(*histories.values()) for one in events if one is not None]
    folded = fold_all(mixed)
    assert {name: partial for (name, _), partial in folded.items()} == {
        name: fold(events) for name, events in histories.items()
    }


def test_fold_of_nothing() -> None:
    assert fold_all([]) == {}


# -- one row while it happens --------------------------------------------------------


def statuses(events: list[Event]) -> list[str]:
    """The status after each event."""
    return [fold(events[: count + 1]).task["status"] for count in range(len(events))]


def test_statuses_of_a_retry() -> None:
    first, second = Delivery(2), Delivery(10, retries=1)
    events = [
        published(),
        first.received(),
        first.started(3),
        first.ended(Kind.RETRIED, 4),
        published(5, retries=1),
        second.received(),
        second.started(11),
        second.ended(Kind.FAILED, 12, **failure("no")),
    ]
    assert statuses(events) == ["PENDING", "RECEIVED", "STARTED", "RETRY", "RETRY", "RETRY", "STARTED", "FAILURE"]


def test_statuses_of_a_redelivery() -> None:
    """A finished task is taken back only when its body really starts again."""
    events = HISTORIES["lost_and_redelivered"]()
    assert statuses(events) == ["PENDING", "RECEIVED", "STARTED", "LOST", "LOST", "STARTED", "SUCCESS"]


def test_statuses_of_a_requeue() -> None:
    events = HISTORIES["requeued"]()
    assert statuses(events) == ["PENDING", "RECEIVED", "STARTED", "PENDING", "PENDING", "STARTED", "SUCCESS"]


def test_statuses_of_a_replacement_with_its_late_end() -> None:
    events = HISTORIES["replaced"]()
    assert statuses(events)[3:] == ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "SUCCESS"]


def test_the_error_goes_when_the_next_attempt_starts() -> None:
    events = HISTORIES["retries_exhausted"]()
    assert fold(events[:4]).task["error_message"] == "no 0"
    assert fold(events[:7]).task["error_message"] is None


def test_a_stale_event_of_an_earlier_attempt_changes_nothing() -> None:
    events = HISTORIES["retries_overlap"]()
    before, after = fold(events[:-1]), fold(events)
    assert after.task == before.task


def test_a_start_heard_of_after_the_end_does_not_reopen() -> None:
    run = Delivery(2)
    end, start = run.ended(Kind.SUCCEEDED, 5, result=1), run.started(3)
    assert fold([end, start]).task["status"] == "SUCCESS"
    assert fold([end, start]).task["started_at"] == ms(3)


def test_a_clock_that_is_behind_does_not_reopen_either() -> None:
    """The worker's main process and its child, or two machines, disagree about the time."""
    run = Delivery(2)
    assert fold([run.started(9), run.ended(Kind.SUCCEEDED, 5)]).task["status"] == "SUCCESS"


def test_a_message_heard_of_after_it_was_received() -> None:
    """Whoever published it has a clock that is ahead."""
    assert fold([Delivery(2).received(), published(5)]).task["status"] == "RECEIVED"


# -- which event decides -------------------------------------------------------------


def test_an_attempt_that_updated_its_content_ends_as_any_other() -> None:
    run = Delivery(2)
    inferred = run.ended(Kind.FAILED, 3, inferred=True, **failure("killed"))
    assert fold([run.started(3), run.noted(4, {"done": 1}), inferred]).task["status"] == "FAILURE"


def test_a_verdict_outranks_that_the_process_was_found_alive() -> None:
    run = Delivery(2)
    found, verdict = run.ended(Kind.FOUND, 9), run.ended(Kind.FAILED, 5, inferred=True, **failure("killed"))
    folded = fold([run.started(3), verdict, found])
    assert folded.task["status"] == "FAILURE"
    assert [one["outcome"] for one in folded.attempts.values()] == ["failed"]


def test_receiving_again_does_not_undo_an_attempt() -> None:
    """The same message is delivered again, and its body does not start."""
    first, second = Delivery(2), Delivery(500, redelivered=True)
    assert fold([first.started(3), second.received()]).task["status"] == "STARTED"


def test_messages_of_one_retry_count_are_ordered_by_time() -> None:
    earlier, later = Delivery(5, redelivered=True).received(), Delivery(9).received()
    assert project(earlier).task["order_key"] < project(later).task["order_key"]


def test_what_the_child_says_outranks_what_the_main_process_infers() -> None:
    run = Delivery(2)
    seen = run.ended(Kind.SUCCEEDED, 5, result="stored")
    inferred = run.ended(Kind.FAILED, 6, inferred=True, **failure("lost"))
    folded = fold([run.started(3), inferred, seen])
    assert (folded.task["status"], folded.task["result"], folded.task["completed_at"]) == ("SUCCESS", "stored", ms(5))
    assert [one["outcome"] for one in folded.attempts.values()] == ["succeeded"]


def test_a_verdict_of_the_main_process_outranks_a_guess_that_it_is_lost() -> None:
    run = Delivery(2)
    guess, verdict = run.ended(Kind.LOST, 9, inferred=True), run.ended(Kind.REVOKED, 5, inferred=True)
    assert fold([guess, verdict]).task["status"] == "REVOKED"


def test_the_tracers_last_word_outranks_the_child() -> None:
    run = Delivery(2)
    error, success = run.ended(Kind.FAILED, 4, internal=True), run.ended(Kind.SUCCEEDED, 5)
    assert fold([success, error]).task["status"] == "FAILURE"


def test_a_message_outranks_that_it_would_not_be_sent() -> None:
    unsent = event(Kind.UNSENT, 90, **asked(), **failure("not sent"))
    assert statuses([event(Kind.PLANNED, 0, **asked()), unsent, published(5)]) == ["PENDING", "FAILURE", "PENDING"]


def test_planning_again_does_not_undo_that_it_was_not_sent() -> None:
    unsent, planned = event(Kind.UNSENT, 5, **asked()), event(Kind.PLANNED, 9, **asked())
    assert fold([unsent, planned]).task["status"] == "FAILURE"


def test_retries_of_a_replacement_come_after_those_of_what_it_replaced() -> None:
    old, new = Delivery(2, retries=3), Delivery(9, nesting=1)
    assert fold([old.started(3), new.started(10)]).task["retries"] == 0


# -- what was requested --------------------------------------------------------------


def test_what_was_requested_comes_from_the_first_message_and_stays() -> None:
    again = published(9, retries=1, args=["changed"], parent=ID)
    first = published(0)
    for events in ([first, again], [again, first]):
        task = fold(events).task
        assert (task["task_args"], task["parent_task_id"]) == ([7, "é"], PARENT)


def test_what_was_requested_comes_from_the_message_then_from_an_unsent_step_then_from_the_plan() -> None:
    """Whenever they were events: a plan may lack what the step before it passes on."""
    planned = event(Kind.PLANNED, 0, created=ms(0), **asked(args=["planned"]))
    unsent = event(Kind.UNSENT, 5, created=ms(0), **asked(args=["unsent"]))
    message = published(9, args=["message"])
    run = Delivery(10).received()
    for events, expected in (
        ([planned, run], "planned"),
        ([planned, unsent, run], "unsent"),
        ([planned, unsent, message, run], "message"),
    ):
        assert fold(events).task["task_args"] == [expected]
        assert fold(reversed(events)).task["task_args"] == [expected]


@pytest.mark.parametrize("parent", ["00000000-0000", PARENT])
def test_a_parent_is_any_other_task(parent: str) -> None:
    assert fold([published(parent=parent)]).task["parent_task_id"] == parent


def test_a_task_is_never_its_own_parent() -> None:
    assert fold([published(9, retries=1, parent=ID)]).task["parent_task_id"] is None


def test_an_event_without_lineage_gives_only_the_name() -> None:
    run = Delivery(2)
    task = fold([run.received()]).task
    assert (task["name"], task["task_args"], task["root_task_id"]) == (NAME, None, None)
    task = fold([run.received(), published(50)]).task
    assert (task["task_args"], task["root_task_id"]) == ([7, "é"], ROOT)


def test_created_is_what_the_header_says_or_the_earliest_event() -> None:
    assert fold([published(5, 4), published(9, 4, retries=1)]).task["created_at"] == ms(4)
    without = Delivery(7, created=None)
    assert fold([without.started(9), without.received()]).task["created_at"] == ms(7)


def test_started_is_the_first_attempt_s() -> None:
    assert fold(HISTORIES["redelivered"]()).task["started_at"] == ms(3)


def test_a_replacement_keeps_its_own_name_on_its_attempt() -> None:
    folded = fold(HISTORIES["replaced"]())
    assert folded.task["name"] == NAME
    assert [one["name"] for one in attempts_of(HISTORIES["replaced"]())] == [NAME, "shop.refund"]


# -- attempts ------------------------------------------------------------------------


def test_an_attempt_in_full() -> None:
    run = Delivery(2, retries=1, redelivered=True)
    events = [run.started(3, eta=ms(1)), run.ended(Kind.FAILED, 5, **failure("no"))]
    [attempt] = attempts_of(events)
    assert attempts_of(events[::-1]) == [attempt]
    assert attempt == {
        "celery_task_id": ID,
        "customer_key": "",
        "run_key": f"{ms(0):014x}0000011{ms(2):014x}a1b2c3",
        "name": NAME,
        "retries": 1,
        "redelivered": True,
        "started_at": ms(3),
        "published_at": ms(1),
        "received_at": ms(2),
        "eta": ms(1),
        "worker": "celery@one",
        "pid": 4711,
        "source": "20250615T120000-4711-a1b2c3d4",
        "queue": "celery",
        "trace_id": None,
        "span_id": None,
        "end_key": f"3{ms(5):014x}",
        "ended_at": ms(5),
        "outcome": "failed",
        "error_type": "ValueError",
        "error_message": "no",
        "traceback": "Traceback ...\nValueError: no",
    }


def test_a_span_belongs_to_a_trace() -> None:
    assert project(published(span="s1")).task["span_id"] is None


def test_traces_of_message_and_attempts() -> None:
    """A message's trace is known before any attempt's, and stays known when the main process ends the attempt."""
    assert fold([published(trace="t0")]).task["trace_id"] == "t0"
    partial = fold(HISTORIES["noted"]()[:4])
    assert (partial.task["trace_id"], partial.task["span_id"]) == ("t1", "s1")
    ended = fold([*HISTORIES["noted"]()[:4], Delivery(2, customer=42).ended(Kind.FAILED, 5, inferred=True)])
    assert (ended.task["trace_id"], ended.task["span_id"]) == ("t1", "s1")
    assert [(one["trace_id"], one["span_id"]) for one in attempts_of(HISTORIES["noted"]())] == [
        ("t1", "s1"),
        ("t2", "s2"),
    ]


def test_updated_content_outranks_the_content_of_the_message() -> None:
    """Also when a later attempt starts, which has the same message."""
    events = HISTORIES["noted"]()
    contents = [fold(events[:count]).task["content"] for count in range(1, len(events) + 1)]
    assert contents == [{"order": 1}] * 3 + [{"order": 1, "done": 1}] * 4 + [{"order": 1, "done": 2}] * 2


def test_an_attempt_without_a_start_has_its_end() -> None:
    [attempt] = attempts_of([Delivery(2).ended(Kind.FAILED, 5, inferred=True)])
    assert (attempt["started_at"], attempt["ended_at"], attempt["worker"]) == (None, ms(5), None)


def test_an_end_knows_nothing_of_its_start() -> None:
    """A worker's main process reports on its child: its own process, worker and queue are not the attempt's."""
    own = {"worker": "celery@two", "pid": 1, "source": "main", "queue": "other", "trace": "t0", "span": "s0"}
    [attempt] = attempts_of([Delivery(2).ended(Kind.FAILED, 5, sent=ms(1), eta=ms(1), **own)])
    assert [attempt[column] for column in ATTEMPT_FIRST] == [None] * len(ATTEMPT_FIRST)


@pytest.mark.parametrize(
    "start",
    [
        {},
        {"content": {"order": 1}},
        {"trace": "t1", "span": "s1", "created_by": 7, "created_by_name": "Ada", "eta": ms(1)},
    ],
)
@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (Kind.SUCCEEDED, {"result": 1}),
        (Kind.RETRIED, failure("again")),
        (Kind.REJECTED, {"again": True, "outcome": "requeued"}),
        (Kind.FAILED, {"internal": True, "noted": {"done": 1}}),
    ],
)
@pytest.mark.parametrize("created", [0, None])
def test_an_end_that_carries_its_start_amounts_to_both(
    start: dict[str, Any], kind: Kind, end: dict[str, Any], created: int | None
) -> None:
    run = Delivery(2, retries=1, created=created)
    parts = [run.started(3, **start), run.ended(kind, 9, **end)]
    assert fold([run.whole(kind, 9, 3, start, **end)]) == fold(parts) == fold(parts[::-1])


def test_an_eager_attempt_was_never_received() -> None:
    [first, _] = attempts_of(HISTORIES["eager"]())
    assert first["received_at"] is None


def test_an_attempt_without_an_end_has_no_end_key() -> None:
    """So every end outranks it, also one that a version to come ranks lower than any of today's."""
    [attempt] = attempts_of([Delivery(2).started(3)])
    assert (attempt["end_key"], attempt["ended_at"], attempt["outcome"]) == ("", None, None)


def test_the_time_of_delivery_is_read_in_full_width() -> None:
    """From the year 2112 on it fills all digits."""
    late = 0x12345678ABCDEF
    [attempt] = attempts_of([Delivery(2, run=f"{late:014x}a1b2c3").started(3)])
    assert attempt["received_at"] == late


def test_received_and_published_make_no_attempt() -> None:
    assert fold([published(), Delivery(2).received()]).attempts == {}


# -- columns -------------------------------------------------------------------------


def test_every_column_is_decided_in_one_way() -> None:
    partial = project(Delivery(2).started(3))
    [attempt] = partial.attempts.values()
    by_key = [
        [column for group in groups for column in (group.key, *group.columns)]
        for groups in (TASK_GROUPS, ATTEMPT_GROUPS)
    ]
    assert sorted(partial.task) == sorted(["celery_task_id", "customer_key", *by_key[0], *TASK_EARLIEST])
    assert sorted(attempt) == sorted([*ATTEMPT_CONSTANT, *by_key[1], *ATTEMPT_FIRST])


@pytest.mark.parametrize("name", HISTORIES)
def test_constant_columns_of_an_attempt_are_the_same_in_all_its_events(name: str) -> None:
    for events in HISTORIES[name]():
        for key, attempt in project(events).attempts.items():
            folded = fold(HISTORIES[name]()).attempts[key]
            assert [attempt[column] for column in ATTEMPT_CONSTANT] == [folded[column] for column in ATTEMPT_CONSTANT]


# -- statuses ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_status(kind: Kind) -> None:
    assert AsyncTaskStatus(project(event(kind, 0)).task["status"])
    assert project(event(kind, 0, again=True)).task["status"] == "PENDING"
