"""The sentences of `why`, for everything that can have happened to a task."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.cli.output import Output
from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.status import SHOWN, TERMINAL, AsyncTaskStatus
from celery_asynctask.present.diagnosis import MAX_HOSTS, Words, explain
from celery_asynctask.queries.diagnosis import Evidence
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt, AsyncTaskSource
from tests.histories import HISTORIES, ID, SOURCE, START, fold
from tests.unit.queries.test_tree import member
from tests.workflows import TRACEBACK

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
TIMES = {"created_at", "started_at", "completed_at", "published_at", "received_at", "eta", "ended_at"}
NOW = EPOCH + dt.timedelta(microseconds=START, hours=2)
SHOW = Output(utc=True).show
WORDS = Words(NOW, SHOW, SHOW)
SHOWN_HISTORIES = sorted(name for name in HISTORIES if name != "unrecorded")


MINIMAL = {"celery_task_id": ID, "customer_key": "", "name": "shop.charge", "created_at": START, "retries": 1}


def row(model: Any, values: dict[str, Any]) -> Any:
    made = model()
    for name, value in values.items():
        time = name in TIMES and value is not None
        setattr(made, name, EPOCH + dt.timedelta(microseconds=value) if time else value)
    return made


def history(name: str, **more: Any) -> Evidence:
    """The evidence of a history in `tests.histories`."""
    folded = fold(HISTORIES[name]())
    task = row(AsyncTask, folded.task)
    task.status = AsyncTaskStatus(task.status)
    attempts = [row(AsyncTaskAttempt, folded.attempts[key]) for key in sorted(folded.attempts)]
    earlier = Counter(one.error_type or one.outcome or "" for one in attempts[:-1])
    return Evidence(task, attempts[-1] if attempts else None, len(attempts), earlier, **more)


def told(evidence: Evidence) -> str:
    return "\n".join(explain(evidence, WORDS))


def source(seen: dt.timedelta, ended: dt.timedelta | None = None) -> AsyncTaskSource:
    return AsyncTaskSource(
        source=SOURCE,
        host="node-1",
        pid=4711,
        role="worker",
        last_seen_at=NOW - seen,
        ended_at=None if ended is None else NOW - ended,
    )


def changed(evidence: Evidence, **values: Any) -> Evidence:
    for name, value in values.items():
        setattr(evidence.task, name, value)
    return evidence


SECONDS = dt.timedelta(seconds=1)


def test_its_own_error_with_the_last_frame_of_its_own_code() -> None:
    evidence = history("failed", place="app/shop/tasks.py:88 ship")
    assert told(evidence).splitlines() == [
        "It failed with ValueError: no money.",
        "Raised at app/shop/tasks.py:88 ship.",
        "The attempt ended at 2025-06-15 15:06:40.009, after 6 ms on celery@one, process 4711.",
    ]


@pytest.mark.parametrize("function", ["<listcomp>", "<lambda>", "<module>"])
def test_a_frame_without_a_name_of_its_own(function: str) -> None:
    assert "Raised at shop/tasks.py:31.\n" in told(history("failed", place=f"shop/tasks.py:31 {function}"))


def test_earlier_runs_and_their_errors() -> None:
    text = told(history("retries_exhausted"))
    assert "It failed with ValueError: no 2." in text
    assert "That was attempt 3; those before it: ValueError (2)." in text
    assert "That was attempt 2; those before it: ValueError (1)." in told(history("retries_overlap"))
    assert "That was attempt 2; those before it: end not seen (1)." in told(history("redelivered"))
    assert "That was attempt 2; those before it: replaced (1)." in told(history("replaced"))


def test_success() -> None:
    assert told(history("success")) == (
        "It succeeded at 2025-06-15 15:06:40.009, 6 ms after it first started, on celery@one, process 4711."
    )


def test_causes_are_listed_one_after_the_other() -> None:
    first = changed(history("killed"), celery_task_id="first")
    between = changed(history("body_of_failed_chord", cause=first), celery_task_id="between")
    lines = told(changed(history("never_sent", cause=between), celery_task_id="last")).splitlines()
    assert lines[0] == "It was never sent, because a task before it in its workflow did not succeed."
    assert lines[1] == "shop.charge [between] failed:"
    assert lines[3] == "shop.charge [first] failed:"
    assert lines[4].startswith("Its process died while running it: WorkerLostError: signal 9. If nobody")


def test_causes_that_name_each_other_are_listed_once() -> None:
    one = history("never_sent")
    assert told(one._replace(cause=one)).count("It was never sent") == 1


@pytest.mark.parametrize("name", SHOWN_HISTORIES)
def test_without_the_right_to_errors_none_is_quoted(name: str) -> None:
    """Nor is a line of code; the class of the error is, and what became of the task."""
    known = history(name, place="app/shop.py:7 charge")
    secret = "hunter2"
    for row in (known.task, known.last):
        if row is not None and row.error_message not in (None, "expired"):
            row.error_message = f"{secret} 1 s signal 9: {row.error_message}"
    lines = explain(known, WORDS._replace(errors=False))
    text = "\n".join(lines)
    assert secret not in text
    assert "shop.py" not in text
    assert ": ." not in text
    assert "with  " not in text
    assert all(line.endswith((".", ":", "…")) for line in lines)
    if known.last is not None and known.last.error_type and known.task.status in ("FAILURE", "RETRY"):
        assert str(known.last.error_type) in text or known.task.error_type in ("TimeLimitExceeded",)


def test_a_cause_without_a_row() -> None:
    text = told(history("never_sent"))
    assert "Not sent: upstream task shop.check [x] ended with boom. That task has no row" in text


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("over_hard_limit", {}, "It exceeded its hard time limit of 1 s, and its process was ended."),
        ("failed", {"error_type": "SoftTimeLimitExceeded"}, "exceeded its soft time limit and did not catch"),
        ("revoked", {"error_message": "revoked"}, "It was revoked before it started; by whom is not recorded."),
        ("revoked", {"error_message": "expired"}, "could start: created at 2025-06-15 15:06:40.000 and dropped"),
        ("terminated", {"error_message": "terminated by SIGTERM"}, "It was terminated with SIGTERM while it ran;"),
        ("ignored", {}, "Its body raised Ignore: neither a success nor a failure"),
        ("rejected", {}, "Its body raised Reject: not mine."),
        ("unknown_task", {"error_type": "NotRegistered"}, "knows no task called shop.charge: either the name is"),
        ("unknown_task", {"error_type": "InvalidTaskError"}, "Its body never ran, because the worker could not"),
        (
            "unknown_task",
            {"error_type": "DecodeError", "status": AsyncTaskStatus.REJECTED},
            "A worker could not read its message as a task: DecodeError: NotRegistered.",
        ),
    ],
)
def test_how_it_ended(name: str, changes: dict[str, Any], expected: str) -> None:
    assert expected in told(changed(history(name), **changes))


def test_lost_with_the_evidence() -> None:
    evidence = history("lost", source=source(100 * SECONDS, 40 * SECONDS))
    assert told(changed(evidence, error_message="It did not report an end.")).splitlines() == [
        "Its outcome is unknown: process 4711 of node-1 died before it reported one.",
        "The attempt started at 2025-06-15 15:06:40.003 on celery@one, process 4711 of node-1.",
        "That process was last seen alive at 2025-06-15 17:05:00.000 (1 m 40 s ago), "
        "and found gone at 2025-06-15 17:06:00.000.",
        "If it reports back or is redelivered, this updates itself.",
    ]
    silent = history("lost", source=source(100 * SECONDS))
    for unclear in (silent, history("lost"), history("lost", sources_are_seen=False)):
        first = explain(changed(unclear, error_message="It did not report an end."), WORDS)[0]
        assert first == "Its outcome is unknown. It did not report an end.", "nobody has found its process gone"


def running(**more: Any) -> Evidence:
    return history("found_and_running", **more)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (source(5 * SECONDS), "(5.0 s ago)."),
        (source(SILENT), "(1 m 30 s ago)."),
        (source(SILENT + SECONDS), "(1 m 31 s ago): since then no recorder of its node has written to this database."),
        (source(600 * SECONDS), "(10 m 00 s ago): since then no recorder of its node has written to this database."),
        (source(600 * SECONDS, 20 * SECONDS), "(10 m 00 s ago), and found gone at 2025-06-15 17:06:20.000."),
        (None, "The process that ran it is not recorded."),
    ],
)
def test_it_runs(seen: AsyncTaskSource | None, expected: str) -> None:
    first, second = explain(running(source=seen), WORDS)
    host = " of node-1" if seen else ""
    assert first == f"Running since 2025-06-15 15:06:40.003 (for 2 h 00 m) on celery@one, process 4711{host}."
    assert second.endswith(expected)


def queued(**more: Any) -> Evidence:
    return changed(
        history("never_sent", **more),
        status=AsyncTaskStatus.PENDING,
        error_message=None,
        order_key=f"{EXECUTION}0000002{KEY}",
    )


EXECUTION = "0" * 15
KEY = f"0{'0' * 20}0{START:014x}"


@pytest.mark.parametrize(
    ("ahead", "bounded", "expected"),
    [
        (0, False, ["No task created before it is PENDING in any queue: check that a worker reads its queue."]),
        (0, True, []),
        (1, False, ["1 task created before it is PENDING too, in any queue."]),
        (7, False, ["7 tasks created before it are PENDING too, in any queue."]),
        (7, True, ["7 or more tasks created before it are PENDING too, in any queue."]),
        (1000, True, ["1,000 or more tasks created before it are PENDING too, in any queue."]),
    ],
)
def test_nobody_has_said_since_that_it_has_the_message(ahead: int, bounded: bool, expected: list[str]) -> None:
    """Whether it is still in a queue is not known."""
    first, second, *others = explain(queued(ahead=ahead, ahead_is_bounded=bounded), WORDS)
    assert first == "Sent at 2025-06-15 15:06:40.000 (2 h 00 m ago)."
    assert second == UNHEARD
    assert others == expected


UNHEARD = (
    "No worker has said since that it has the message: it may wait in a queue, or the queue was purged or the broker "
    "has lost it."
)
AGAIN = "The broker delivers it again, unless the queue was purged; no worker has said since that it has the message."


def held(status: AsyncTaskStatus, holder: AsyncTaskSource | None, **values: Any) -> Evidence:
    """A message that a worker has received."""
    stage = 3 if status is AsyncTaskStatus.RECEIVED else 2
    key = f"{EXECUTION}000000{stage}{KEY}"
    return changed(queued(holder=holder), status=status, order_key=key, holder=SOURCE, **values)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (source(5 * SECONDS), "That process was last seen alive at 2025-06-15 17:06:35.000 (5.0 s ago)."),
        (source(SILENT + SECONDS), "(1 m 31 s ago): since then no recorder of its node has written to this database."),
        (source(600 * SECONDS, 20 * SECONDS), "and found gone at 2025-06-15 17:06:20.000."),
    ],
)
def test_who_has_the_message_and_whether_it_lives(seen: AsyncTaskSource, expected: str) -> None:
    first, second = explain(held(AsyncTaskStatus.RECEIVED, seen), WORDS)
    assert first.startswith(
        "Received by the worker process 4711 of node-1 at 2025-06-15 15:06:40.000 (2 h 00 m ago), not"
    )
    assert second.endswith(expected)
    assert told(held(AsyncTaskStatus.RECEIVED, None)).startswith("Received by a worker at "), (
        "for a reader of customers"
    )


@pytest.mark.parametrize("status", [AsyncTaskStatus.PENDING, AsyncTaskStatus.RETRY])
def test_the_worker_that_had_the_message_is_gone(status: AsyncTaskStatus) -> None:
    text = told(held(status, source(600 * SECONDS, 20 * SECONDS)))
    assert (
        "The worker process 4711 of node-1 had its message, and was found gone at 2025-06-15 17:06:20.000 (20.0 s "
        "ago).\n"
        f"{AGAIN}" in text
    )
    assert UNHEARD not in text
    assert f"The worker that had its message is gone.\n{AGAIN}" in told(held(status, None))


def test_a_worker_that_was_only_taken_for_gone() -> None:
    text = told(held(AsyncTaskStatus.PENDING, source(600 * SECONDS)))
    assert "The worker process 4711 of node-1 had its message, and is gone." in text


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "1 attempt of earlier executions is"), (3, "3 attempts of earlier")]
)
def test_attempts_of_earlier_executions_are_not_those_of_this_one(count: int, expected: str) -> None:
    text = told(history("success", of_earlier_executions=count))
    assert f"Its id was used before: {expected}" in text
    assert "That was attempt" not in text


def test_it_waits_elsewhere() -> None:
    received = changed(queued(), status=AsyncTaskStatus.RECEIVED, order_key=f"{EXECUTION}0000003{KEY}")
    assert told(received).startswith("Received by a worker at 2025-06-15 15:06:40.000 (2 h 00 m ago), not started")
    requeued = changed(history("requeued"), status=AsyncTaskStatus.PENDING, completed_at=None)
    assert requeued.last is not None
    requeued.last.outcome = "requeued"
    text = told(requeued)
    assert text.startswith("PENDING again since")
    assert text.endswith(f": its last attempt was requeued.\n{UNHEARD}")


def test_it_waits_for_its_retry() -> None:
    evidence = changed(history("failed"), status=AsyncTaskStatus.RETRY, retries=1)
    assert told(evidence).splitlines() == [
        "Waiting for its next attempt: the last one ended at 2025-06-15 15:06:40.009 (2 h 00 m ago) with ValueError: "
        "no money.",
        "1 attempt so far; when the next one is due is not recorded.",
    ]
    assert evidence.last is not None
    evidence.last.ended_at = None
    assert told(evidence).startswith("Waiting for its next attempt, retry 1, since")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"cause": running()}, f"It waits for another task.\nshop.charge [{ID}] runs:\nRunning since"),
        ({"cause": history("success")}, "The task that it waits for has succeeded: its own message was lost"),
        (
            {"cause": history("failed")},
            "The task before it failed: it is sent only if that task succeeds after all.\nshop.charge [",
        ),
        ({"cause": history("lost")}, "The task before it was lost: it is sent only if that task succeeds after all."),
        ({"cause": history("ignored")}, "It will not be sent: the task that it waits for was ignored."),
        (
            {"open": [member("h1", status="STARTED")] * 4},
            "Under way in its workflow: 4 tasks, such as name of h1 [h1] STARTED",
        ),
        ({}, "No other known task of its workflow is under way."),
    ],
)
def test_a_later_step(more: dict[str, Any], expected: str) -> None:
    step = history("never_sent", **more)
    step = changed(step, status=AsyncTaskStatus.PENDING, order_key=f"{EXECUTION}0000000{KEY}", celery_task_id="step")
    text = told(step)
    assert text.startswith("A later step of a workflow, not sent yet.")
    assert expected in text


@pytest.mark.parametrize("key", ["", "x", "0" * 10, f"{'0' * 6}3{'g' * 14}", "-1234567890123"])
@pytest.mark.parametrize("status", SHOWN)
def test_where_the_recorder_did_not_write_the_key(status: AsyncTaskStatus, key: str) -> None:
    """As in a bundle that another program has made: then nobody knows since when."""
    evidence = Evidence(row(AsyncTask, {**MINIMAL, "order_key": key, "status": status}))
    assert told(evidence)
    assert not re.search(r"since \d", told(evidence)) or status is AsyncTaskStatus.STARTED


@pytest.mark.parametrize("name", SHOWN_HISTORIES)
def test_every_history_has_an_answer(name: str) -> None:
    evidence = history(name)
    sentences = explain(evidence, WORDS)
    assert all(sentence.endswith((".", ":", "?")) for sentence in sentences), sentences
    assert "None" not in " ".join(sentences)


TEXTS = st.none() | st.text(max_size=30)
MOMENTS = st.datetimes(dt.datetime(2025, 1, 1), dt.datetime(2027, 1, 1), timezones=st.just(dt.timezone.utc))


@given(
    st.sampled_from(SHOWN_HISTORIES),
    st.sampled_from(sorted(SHOWN)),
    TEXTS,
    TEXTS,
    st.none() | MOMENTS,
    st.none() | MOMENTS,
    st.booleans(),
)
def test_whatever_the_rows_say_there_is_an_answer_in_lines(
    name: str,
    status: str,
    error: str | None,
    message: str | None,
    started: dt.datetime | None,
    ended: dt.datetime | None,
    traced: bool,
) -> None:
    evidence = changed(
        history(name, source=source(SECONDS)),
        status=AsyncTaskStatus(status),
        error_type=error,
        error_message=message,
        started_at=started,
        completed_at=(ended or NOW) if status in TERMINAL else None,
    )
    if evidence.last is not None:
        evidence.last.started_at, evidence.last.ended_at = started, ended
        evidence.last.traceback = message if traced else TRACEBACK
    sentences = explain(evidence, WORDS)
    assert sentences
    assert all("\n" not in sentence and len(sentence) < 2000 for sentence in sentences)


FAR = {"node-2": NOW - 60 * SECONDS, "node-3": NOW - 120 * SECONDS}


@pytest.mark.parametrize("status", sorted(set(SHOWN) - TERMINAL))
def test_a_task_that_may_have_ended_where_nobody_has_heard_of_it(status: AsyncTaskStatus) -> None:
    text = told(changed(history("success", unheard=FAR), status=status))
    assert "node-2 has not been heard since 2025-06-15 17:05:40.000 (1 m 00 s ago): it may have ended there.\n" in text
    assert text.endswith(
        "node-3 has not been heard since 2025-06-15 17:04:40.000 (2 m 00 s ago): it may have ended there."
    )
    assert "not been heard" not in told(changed(history("success"), status=status))


def test_only_some_hosts_are_named() -> None:
    hosts = {f"node-{number}": NOW for number in range(MAX_HOSTS + 2)}
    text = told(changed(history("success", unheard=hosts), status=AsyncTaskStatus.PENDING))
    assert f"node-{MAX_HOSTS - 1} has not" in text
    assert f"node-{MAX_HOSTS} has not" not in text
    assert text.endswith("The same is true of 2 more hosts.")
