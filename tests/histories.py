"""What can happen to a task, as the events that tell it, in the order in which they happen.

Each history is about the task `ID`. The rows they must fold into are in `unit/test_histories.py`; that any order of
them, in any batches and on any database, gives the same row, in `integration/test_fold.py`.
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
    """A moment so long after the start."""
    return START + milliseconds * 1000


def event(kind: Kind, at: int, **more: Any) -> Event:
    run = {"run": more["run"]} if "run" in more else {}
    return cast("Event", {"id": ID, **run, "kind": kind.value, "at": ms(at), "name": NAME, **more})


def variant(one: Event, **more: Any) -> Event:
    """The event with other values; it may be none any more."""
    return cast("Event", {**one, **more})


def lines(told: Iterable[Event]) -> list[bytes]:
    """Events as the journal has them."""
    return [encode(one) for one in told]


def fold(told: Iterable[Event]) -> Partial:
    """The rows of one task."""
    [partial] = fold_all(told).values()
    return partial


def asked(**more: Any) -> dict[str, Any]:
    """What is known of the task when it is asked for."""
    return {"asked": True, "root": ROOT, "parent": PARENT, "args": [7, "é"], "kwargs": {"currency": "EUR"}, **more}


def published(at: int = 0, created: int = 0, **more: Any) -> Event:
    return event(Kind.PUBLISHED, at, created=ms(created), **asked(**more))


class Delivery:
    """A message on its way through a worker; every event about it carries the same token."""

    def __init__(self, at: int, name: str = NAME, created: int | None = 0, **about: Any) -> None:
        self.at = at
        self.about = {"name": name, "run": f"{ms(at):014x}a1b2c3", "delivered": True, **about}
        if created is not None:
            self.about["created"] = ms(created)

    def received(self, **more: Any) -> Event:
        return event(Kind.RECEIVED, self.at, **self.about, **more)

    def started(self, at: int, **more: Any) -> Event:
        run = {"worker": "celery@one", "pid": 4711, "source": SOURCE, "queue": "celery", "sent": ms(self.at - 1)}
        return event(Kind.STARTED, at, **{**self.about, **asked(), **run, **more})

    def noted(self, at: int, content: dict[str, Any]) -> Event:
        return event(Kind.NOTED, at, noted=content, **self.about)

    def ended(self, kind: Kind, at: int, **more: Any) -> Event:
        return event(kind, at, ran=True, **self.about, **more)

    def whole(self, kind: Kind, at: int, started: int, start: dict[str, Any] | None = None, **more: Any) -> Event:
        """An end that carries its start, as the process that ran the body tells it."""
        began = self.started(started, **(start or {}))
        return cast("Event", {**began, "kind": kind.value, "at": ms(at), "started": ms(started), **more})


def failure(text: str, **more: Any) -> dict[str, Any]:
    return {
        "error_type": "ValueError",
        "error_message": text,
        "traceback": f"Traceback ...\nValueError: {text}",
        **more,
    }


@history
def success() -> list[Event]:
    run = Delivery(2)
    return [published(), run.received(), run.started(3), run.ended(Kind.SUCCEEDED, 9, result={"paid": True})]


@history
def ends_carry_starts() -> list[Event]:
    """As a worker's children tell it; the start of the second run is told on its own, too."""
    first, second = Delivery(2), Delivery(20, retries=1)
    whose = {"customer": 42, "content": {"order": 1}, "trace": "t1", "span": "s1"}
    return [
        published(customer=42, content={"order": 1}),
        first.whole(Kind.RETRIED, 9, 3, whose, noted={"order": 1, "done": 1}, **failure("once more")),
        second.whole(Kind.SUCCEEDED, 29, 21, {"trace": "t2", "span": "s2"}, result=[1]),
        second.started(21, trace="t2", span="s2"),
    ]


@history
def noted() -> list[Event]:
    """For a customer, in a trace, and saying how far it is."""
    first, second = Delivery(2), Delivery(20, retries=1)
    whose: dict[str, Any] = {"customer": 42, "created_by": 7, "created_by_name": "Ada", "content": {"order": 1}}
    return [
        published(trace="t0", **whose),
        first.received(),
        first.started(3, trace="t1", span="s1", **whose),
        first.noted(4, {"order": 1, "done": 1}),
        first.ended(Kind.RETRIED, 9, **failure("once more")),
        published(8, retries=1, parent=ID, **whose),
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
    """The next attempt is over when the word comes that the one before asked for it."""
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
    told = [published()]
    for number, run in enumerate(runs):
        told += [run.received(), run.started(10 * number + 1)]
        last = number == len(runs) - 1
        told.append(run.ended(Kind.FAILED if last else Kind.RETRIED, 10 * number + 5, **failure(f"no {number}")))
        if not last:
            told.append(published(10 * number + 4, retries=number + 1, parent=ID))
    return told


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
    """Rejected with requeue: the broker delivers the same message once more."""
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
    """The replacement is over when the word comes that the task was replaced."""
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
    """The first worker was killed: nothing tells how its run ended."""
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
    """Celery 5.7 says it twice, in the worker's main process."""
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
    """The child had told of its success when it was killed; the main process only sees that it is gone."""
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
    how = {"inferred": True, "outcome": "terminated", "error_type": "TaskRevokedError", "error_message": "SIGTERM"}
    return [published(), run.received(), run.started(3), run.ended(Kind.REVOKED, 50, **asked(), **how)]


@history
def never_sent() -> list[Event]:
    """The tail of a chain whose step before failed."""
    message = {"error_type": "ValueError", "error_message": "Not sent: upstream task shop.check [x] ended with boom"}
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked()),
        event(Kind.UNSENT, 8, created=ms(0), **asked(), **message),
    ]


@history
def planned_and_run() -> list[Event]:
    """The tail of a chain: known since the chain was sent, with the arguments it gets only when it is its turn."""
    run = Delivery(12, created=11)
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked(args=[])),
        published(11, 11, args=["from before"]),
        run.received(),
        run.started(13, args=["from before"]),
        run.ended(Kind.SUCCEEDED, 14),
    ]


@history
def body_of_failed_chord() -> list[Event]:
    """Two header tasks fail: the body has no parent until one of them says that it is not sent."""
    planned = event(Kind.PLANNED, 0, created=ms(0), **asked(root=None, parent=None, args=[]))

    def unsent(at: int, by: str) -> Event:
        return event(Kind.UNSENT, at, created=ms(0), **asked(root=by, parent=by, args=[]), **failure(f"not sent: {by}"))

    return [planned, unsent(5, "header-1"), unsent(7, "header-2")]


@history
def sent_after_all() -> list[Event]:
    """The step before failed, was delivered again and then succeeded."""
    run = Delivery(30, created=29)
    return [
        event(Kind.PLANNED, 0, created=ms(0), **asked()),
        event(Kind.UNSENT, 8, created=ms(0), **asked(), **failure("not sent")),
        published(29, 29),
        run.received(),
        run.started(31),
        run.ended(Kind.SUCCEEDED, 32, result="after all"),
    ]


@history
def unrecorded_producer() -> list[Event]:
    """The worker is the first to tell of the task."""
    run = Delivery(2, created=None)
    return [run.received(**asked()), run.started(3), run.ended(Kind.SUCCEEDED, 4, result=[1, 2])]


@history
def lost_and_redelivered() -> list[Event]:
    """A cold shutdown gave the task up; the broker delivered it again all the same."""
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
    """A cold shutdown put a message back that is acknowledged late."""
    first, second = Delivery(2), Delivery(500, redelivered=True)
    return [
        first.started(3),
        first.ended(Kind.RETRIED, 100, inferred=True, again=True, outcome="requeued"),
        second.started(501),
        second.ended(Kind.FAILED, 502, **failure("second")),
    ]


@history
def unknown_task() -> list[Event]:
    """No worker knows the task: its message is all there is."""
    end = event(Kind.FAILED, 3, run=f"{ms(3):014x}000000", inferred=True, **asked(), **failure("NotRegistered"))
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
    """The body succeeded and its result could not be stored: the tracer has the last word."""
    run = Delivery(2)
    success = run.ended(Kind.SUCCEEDED, 4, result="lost")
    return [
        published(),
        run.received(),
        run.started(3),
        success,
        run.ended(Kind.FAILED, 3, internal=True, **failure("backend is down")),
    ]


def about(told: Sequence[Event], task_id: str) -> list[Event]:
    """The same history, of another task."""
    return [
        cast(
            "Event",
            {key: task_id if value == ID and key in ("id", "parent", "root") else value for key, value in one.items()},
        )
        for one in told
    ]
