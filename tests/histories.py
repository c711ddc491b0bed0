"""Everything that can happen to a task, as lists of events in the order in which they happen.

Each history is about the task `ID`. `unit/core/test_histories.py` has the rows that they must fold into;
`integration/store/test_fold.py` checks that any order of them, in any batches and on any database, gives the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from celery_asynctask.core.event import Event, Kind, encode
from celery_asynctask.core.fold import Partial, fold_all

ID = "11111111-aaaa"
ROOT = "22222222-bbbb"
PARENT = "33333333-cccc"
NAME = "shop.charge"
SOURCE = "20250615T120000-4711-a1b2c3d4"
START = 1_750_000_000_000_000
"""Microseconds since the epoch at which every history begins."""

HISTORIES: dict[str, Callable[[], list[Event]]] = {}


def history(function: Callable[[], list[Event]]) -> Callable[[], list[Event]]:
    HISTORIES[function.__name__] = function
    return function


def ms(milliseconds: int) -> int:
    """A moment, in milliseconds after the start."""
    return START + milliseconds * 1000


def event(kind: Kind, at: int, **extra: Any) -> Event:
    run = {"run": extra["run"]} if "run" in extra else {}
    return cast("Event", {"id": ID, **run, "kind": kind.value, "at": ms(at), "name": NAME, **extra})


def variant(event: Event, **extra: Any) -> Event:
    """The event with other values; it may no longer be a valid one."""
    return cast("Event", {**event, **extra})


def lines(events: Iterable[Event]) -> list[bytes]:
    """The events as lines of a journal."""
    return [encode(event) for event in events]


def fold(events: Iterable[Event]) -> Partial:
    """The rows of one task."""
    [partial] = fold_all(events).values()
    return partial


def asked(**extra: Any) -> dict[str, Any]:
    """The values of a published message."""
    return {"asked": True, "root": ROOT, "parent": PARENT, "args": [7, "é"], "kwargs": {"currency": "EUR"}, **extra}


def published(at: int = 0, created: int = 0, **extra: Any) -> Event:
    return event(Kind.PUBLISHED, at, created=ms(created), **asked(**extra))


class Delivery:
    """A message on its way through a worker. All events about it carry the same token."""

    def __init__(self, at: int, name: str = NAME, created: int | None = 0, **about: Any) -> None:
        self.at = at
        self.about = {"name": name, "run": f"{ms(at):014x}a1b2c3", "delivered": True, **about}
        if created is not None:
            self.about["created"] = ms(created)

    def received(self, **extra: Any) -> Event:
        return event(Kind.RECEIVED, self.at, **self.about, **extra)

    def started(self, at: int, **extra: Any) -> Event:
        run = {"worker": "celery@one", "pid": 4711, "source": SOURCE, "queue": "celery", "sent": ms(self.at - 1)}
        return event(Kind.STARTED, at, **{**self.about, **asked(), **run, **extra})

    def noted(self, at: int, content: dict[str, Any]) -> Event:
        return event(Kind.NOTED, at, noted=content, **self.about)

    def ended(self, kind: Kind, at: int, **extra: Any) -> Event:
        return event(kind, at, ran=True, **self.about, **extra)

    def whole(self, kind: Kind, at: int, started: int, start: dict[str, Any] | None = None, **extra: Any) -> Event:
        """An end that carries its start, as the process that ran the body writes it."""
        began = self.started(started, **(start or {}))
        return cast("Event", {**began, "kind": kind.value, "at": ms(at), "started": ms(started), **extra})


def failure(text: str, **extra: Any) -> dict[str, Any]:
    return {
        "error_type": "ValueError",
        "error_message": text,
        "traceback": f"Traceback ...\nValueError: {text}",
        **extra,
    }


@history
def success() -> list[Event]:
    run = Delivery(2)
    return [published(), run.received(), run.started(3), run.ended(Kind.SUCCEEDED, 9, result={"paid": True})]


@history
def ends_carry_starts() -> list[Event]:
    """Events of a worker's children. The start of the second attempt is recorded on its own as well."""
    first, second = Delivery(2, customer=42), Delivery(20, retries=1, customer=42)
    whose = {"content": {"order": 1}, "trace": "t1", "span": "s1"}
    return [
        published(customer=42, content={"order": 1}),
        first.whole(Kind.RETRIED, 9, 3, whose, noted={"order": 1, "done": 1}, **failure("once more")),
        second.whole(Kind.SUCCEEDED, 29, 21, {"trace": "t2", "span": "s2"}, result=[1]),
        second.started(21, trace="t2", span="s2"),
    ]


@history
def noted() -> list[Event]:
    """For a customer, in a trace, and with progress in its content."""
    first, second = Delivery(2, customer=42), Delivery(20, retries=1, customer=42)
    whose: dict[str, Any] = {"created_by": 7, "created_by_name": "Ada", "content": {"order": 1}}
    return [
        published(trace="t0", customer=42, **whose),
        first.received(),
        first.started(3, trace="t1", span="s1", **whose),
        first.noted(4, {"order": 1, "done": 1}),
        first.ended(Kind.RETRIED, 9, **failure("once more")),
        published(8, retries=1, parent=ID, customer=42, **whose),
        second.started(21, trace="t2", span="s2", **whose),
        second.noted(22, {"order": 1, "done": 2}),
        second.ended(Kind.SUCCEEDED, 29),
    ]


@history
def failed() -> list[Event]:
    run = Delivery(2)
    return [published(), run.received(), run.started(3), run.ended(Kind.FAILED, 9, **failure("no money"))]


@history
def retries_overlap() -> list[Event]:
    """The next attempt has ended before the retry of the one before is recorded."""
    first, second = Delivery(2), Delivery(10, retries=1)
    return [
        published(),
        first.received(),
        first.started(3),
        published(9, retries=1, parent=ID),
        second.received(),
        second.started(11, parent=ID),
        second.ended(Kind.SUCCEEDED, 12, result="second"),
        first.ended(Kind.RETRIED, 1000, **failure("try again")),
    ]


@history
def retries_exhausted() -> list[Event]:
    runs = [Delivery(10 * number, retries=number) for number in range(3)]
    events = [published()]
    for number, run in enumerate(runs):
        events += [run.received(), run.started(10 * number + 1)]
        last = number == len(runs) - 1
        events.append(run.ended(Kind.FAILED if last else Kind.RETRIED, 10 * number + 5, **failure(f"no {number}")))
        if not last:
            events.append(published(10 * number + 4, retries=number + 1, parent=ID))
    return events


@history
def ignored() -> list[Event]:
    run = Delivery(2)
    return [published(), run.received(), run.started(3), run.ended(Kind.IGNORED, 4)]


@history
def rejected() -> list[Event]:
    run = Delivery(2)
    end = run.ended(Kind.REJECTED, 4, error_type="Reject", error_message="not mine")
    return [published(), run.received(), run.started(3), end]


@history
def requeued() -> list[Event]:
    """Rejected with requeue: the broker delivers the same message again."""
    first, second = Delivery(2), Delivery(6, redelivered=True)
    return [
        published(),
        first.received(),
        first.started(3),
        first.ended(Kind.REJECTED, 4, again=True, outcome="requeued", error_type="Reject", error_message="later"),
        second.received(),
        second.started(7),
        second.ended(Kind.SUCCEEDED, 8, result="taken"),
    ]


@history
def replaced() -> list[Event]:
    """The replacement has ended before the replacing is recorded."""
    first, second = Delivery(2), Delivery(5, name="shop.refund", nesting=1)
    return [
        published(),
        first.received(),
        first.started(3),
        published(4, nesting=1, name="shop.refund", args=[1], parent=ID),
        second.received(),
        second.started(6, parent=ID, args=[1]),
        second.ended(Kind.SUCCEEDED, 7, result="refunded"),
        first.ended(Kind.IGNORED, 1000, again=True, outcome="replaced"),
    ]


@history
def redelivered() -> list[Event]:
    """The first worker was killed: no event has the end of its attempt."""
    first, second = Delivery(2), Delivery(60, redelivered=True)
    return [
        published(),
        first.received(),
        first.started(3),
        second.received(),
        second.started(61, worker="celery@two", pid=9),
        second.ended(Kind.SUCCEEDED, 70, result=1),
    ]


@history
def over_hard_limit() -> list[Event]:
    """Celery 5.7 reports it twice, in the worker's main process."""
    run = Delivery(2)
    limit = {"error_type": "TimeLimitExceeded", "error_message": "TimeLimitExceeded(1,)", "inferred": True}
    return [
        published(),
        run.received(),
        run.started(3),
        run.ended(Kind.FAILED, 1003, **limit),
        run.ended(Kind.FAILED, 1004, **limit),
    ]


@history
def killed_after_success() -> list[Event]:
    """The child had recorded its success when it was killed; the main process sees only that it is gone."""
    run = Delivery(2)
    lost = {"error_type": "WorkerLostError", "error_message": "signal 9", "inferred": True}
    success = run.ended(Kind.SUCCEEDED, 5, result="kept")
    return [published(), run.received(), run.started(3), success, run.ended(Kind.FAILED, 6, **lost)]


@history
def killed() -> list[Event]:
    run = Delivery(2)
    lost = {"error_type": "WorkerLostError", "error_message": "signal 9", "inferred": True}
    return [published(), run.received(), run.started(3), run.ended(Kind.FAILED, 6, **lost)]


@history
def revoked() -> list[Event]:
    run = Delivery(2)
    end = event(Kind.REVOKED, 2, **run.about, **asked(), inferred=True, ran=False, **failure("revoked"))
    return [published(), end]


@history
def terminated() -> list[Event]:
    run = Delivery(2)
    end = {"inferred": True, "outcome": "terminated", "error_type": "TaskRevokedError", "error_message": "SIGTERM"}
    return [published(), run.received(), run.started(3), run.ended(Kind.REVOKED, 50, **asked(), **end)]


@history
def never_sent() -> list[Event]:
    """The last step of a chain whose step before failed."""
    message = {"error_type": "ValueError", "error_message": "Not sent: upstream task shop.check [x] ended with boom"}
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked()),
        event(Kind.UNSENT, 8, created=ms(0), **asked(), **message),
    ]


@history
def planned_and_run() -> list[Event]:
    """The last step of a chain: known since the chain was sent, with arguments that it gets only when its turn
    comes."""
    run = Delivery(12)
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked(args=[])),
        published(11, args=["from before"]),
        run.received(),
        run.started(13, args=["from before"]),
        run.ended(Kind.SUCCEEDED, 14),
    ]


@history
def body_of_failed_chord() -> list[Event]:
    """Two header tasks fail: the body has no parent until one of them records that it is not sent."""
    planned = event(Kind.PLANNED, 0, created=ms(0), chord=True, **asked(root=None, parent=None, args=[]))

    def unsent(at: int, by: str) -> Event:
        whose = asked(root=by, parent=by, args=[])
        return event(Kind.UNSENT, at, created=ms(at), chord=True, **whose, **failure(f"not sent: {by}"))

    return [planned, unsent(5, "header-1"), unsent(7, "header-2")]


@history
def sent_after_all() -> list[Event]:
    """The step before failed, was delivered again and then succeeded."""
    run = Delivery(30)
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked()),
        event(Kind.UNSENT, 8, created=ms(0), **asked(), **failure("not sent")),
        published(29),
        run.received(),
        run.started(31),
        run.ended(Kind.SUCCEEDED, 32, result="after all"),
    ]


@history
def body_of_chord() -> list[Event]:
    """One header task was lost, was delivered again, and the other one, created before it, sends the body."""
    run = Delivery(60, created=1)
    return [
        event(Kind.PLANNED, 2, created=ms(1), chord=True, **asked(root=None, parent=None, args=[])),
        event(Kind.UNSENT, 40, created=ms(2), chord=True, **asked(), **failure("not sent")),
        published(59, 1, args=[[1, 2]]),
        run.started(61, args=[[1, 2]]),
        run.ended(Kind.SUCCEEDED, 62, result=3),
    ]


@history
def used_again() -> list[Event]:
    """The same id is asked for twice: the first time it fails after a retry, the second time it succeeds at once."""
    first, retry = Delivery(2, trace="t1"), Delivery(10, retries=1)
    second = Delivery(101, created=100)
    return [
        published(args=["first"], content={"order": 1}, trace="t0"),
        first.started(3, args=["first"], content={"order": 1}, span="s1"),
        first.ended(Kind.RETRIED, 4, **failure("again")),
        published(5, retries=1, args=["first"]),
        retry.started(11, args=["first"]),
        retry.ended(Kind.FAILED, 12, **failure("first")),
        published(100, 100, args=["second"]),
        second.started(102, args=["second"]),
        second.ended(Kind.SUCCEEDED, 103, result="second"),
    ]


@history
def blind_producer() -> list[Event]:
    """A producer that does not know the task tells no arguments; the worker does, a little later."""
    run = Delivery(2)
    sent = published(customer=42)
    known = {key: value for key, value in sent.items() if key not in ("args", "kwargs")}
    return [
        cast("Event", {**known, "blind": True}),
        run.received(**asked(args=[7, "seen"]), customer=42, holder=SOURCE),
        run.started(300, args=[7, "seen"], customer=42),
        run.ended(Kind.SUCCEEDED, 301, customer=42),
    ]


@history
def wire_form() -> list[Event]:
    """The producer has an object where the message has a text."""
    run = Delivery(2)
    return [published(args=[{"$asynctask": "object"}]), run.started(3, args=["text"]), run.ended(Kind.SUCCEEDED, 4)]


@history
def unrecorded() -> list[Event]:
    """A worker that knows the task says that it is not to be recorded."""
    return [published(content={"order": 1}), event(Kind.UNRECORDED, 2, created=ms(0))]


@history
def recorded_again() -> list[Event]:
    """What a later worker records under the same id is a task."""
    run = Delivery(102, created=100)
    return [
        published(),
        event(Kind.UNRECORDED, 2, created=ms(0)),
        published(100, 100),
        run.started(103),
        run.ended(Kind.SUCCEEDED, 104),
    ]


@history
def received_and_released() -> list[Event]:
    """Its worker is gone before it starts it; the next one has it before anybody notices."""
    first, second = Delivery(2), Delivery(500, redelivered=True)
    return [
        published(),
        first.received(holder=SOURCE),
        event(Kind.RELEASED, 3, created=ms(0), holder=SOURCE),
        second.received(holder="another"),
    ]


@history
def released() -> list[Event]:
    """A retry that waits for its time in a worker that is gone."""
    first, second = Delivery(2), Delivery(10, retries=1)
    return [
        first.started(3),
        first.ended(Kind.RETRIED, 4, **failure("again")),
        second.received(holder=SOURCE),
        event(Kind.RELEASED, 11, created=ms(0), retries=1, holder=SOURCE),
    ]


@history
def for_a_customer_with_a_name() -> list[Event]:
    run = Delivery(2, customer_key="acme")
    whose = {"customer_key": "acme", "created_by_key": "f3a1"}
    return [published(0, 0, **whose), run.started(3, **whose), run.ended(Kind.FAILED, 4, **failure("no money"))]


@history
def unrecorded_producer() -> list[Event]:
    """The worker is the first to record the task."""
    run = Delivery(2, created=None)
    return [run.received(**asked()), run.started(3), run.ended(Kind.SUCCEEDED, 4, result=[1, 2])]


@history
def lost_and_redelivered() -> list[Event]:
    """A cold shutdown gave the task up, but the broker delivered it again."""
    first, second = Delivery(2), Delivery(500, redelivered=True)
    lost = first.ended(Kind.LOST, 100, inferred=True, error_type="WorkerShutdown", error_message="shut down")
    return [
        published(),
        first.received(),
        first.started(3),
        lost,
        second.received(),
        second.started(501),
        second.ended(Kind.SUCCEEDED, 510, result="found"),
    ]


@history
def lost() -> list[Event]:
    run = Delivery(2)
    end = run.ended(Kind.LOST, 100, inferred=True, error_type="WorkerShutdown", error_message="shut down")
    return [published(), run.received(), run.started(3), end]


@history
def lost_and_found() -> list[Event]:
    """Its node was cut off from the database for a while."""
    run = Delivery(2)
    lost = run.ended(Kind.LOST, 100, inferred=True, error_type="WorkerLostError", error_message="gone")
    return [run.started(3), lost, run.ended(Kind.FOUND, 200), run.ended(Kind.SUCCEEDED, 300, result=1)]


@history
def found_and_running() -> list[Event]:
    run = Delivery(2)
    lost = run.ended(Kind.LOST, 100, inferred=True, error_type="WorkerLostError", error_message="gone")
    return [run.started(3), lost, run.ended(Kind.FOUND, 200)]


@history
def cancelled_and_redelivered() -> list[Event]:
    """A cold shutdown put back a message that is acknowledged late."""
    first, second = Delivery(2), Delivery(500, redelivered=True)
    return [
        first.started(3),
        first.ended(Kind.RETRIED, 100, inferred=True, again=True, outcome="requeued"),
        second.started(501),
        second.ended(Kind.FAILED, 502, **failure("second")),
    ]


@history
def unknown_task() -> list[Event]:
    """No worker knows the task: its message is the only source."""
    run = Delivery(3)
    end = event(Kind.FAILED, 3, **run.about, inferred=True, **asked(), **failure("NotRegistered"))
    return [published(), end]


@history
def eager() -> list[Event]:
    """Run by the caller itself, one retry included: no message, no worker."""
    first, second = (Delivery(at, created=None, retries=number, delivered=False) for number, at in enumerate((1, 3)))
    return [
        first.started(1),
        first.ended(Kind.RETRIED, 2, **failure("again")),
        second.started(3),
        second.ended(Kind.SUCCEEDED, 4, result=2),
    ]


@history
def backend_down() -> list[Event]:
    """The body succeeded, but its result could not be stored: the tracer's event decides."""
    run = Delivery(2)
    success = run.ended(Kind.SUCCEEDED, 4, result="lost")
    return [
        published(),
        run.received(),
        run.started(3),
        success,
        run.ended(Kind.FAILED, 3, internal=True, **failure("backend is down")),
    ]


def about(events: Sequence[Event], task_id: str) -> list[Event]:
    """The same history, for another task."""
    return [
        cast(
            "Event",
            {
                key: task_id if value == ID and key in ("id", "parent", "root") else value
                for key, value in event.items()
            },
        )
        for event in events
    ]
