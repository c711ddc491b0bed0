"""Workflows as lists of events: the root and parent of each task, and when it ran."""

from __future__ import annotations

from typing import Any, cast

from celery_asynctask.core.event import Event, Kind
from tests.histories import Delivery, event, ms, published

TRACEBACK = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.11/site-packages/celery/app/trace.py", line 479, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/app/shop/tasks.py", line 88, in ship
    stock.take(order)
  File "/srv/venv/lib/python3.11/site-packages/warehouse/stock.py", line 12, in take
    raise ValueError("no stock")
ValueError: no stock
"""


def of(task_id: str, events: list[Event], root: str | None, parent: str | None = None) -> list[Event]:
    """The events of a task with this id and this place in a workflow."""
    place: dict[str, Any] = {"root": root, "parent": parent}
    return [cast("Event", {**event, "id": task_id, **(place if event.get("asked") else {})}) for event in events]


def ran(name: str, at: int, start: int, end: int, kind: Kind = Kind.SUCCEEDED, **extra: Any) -> list[Event]:
    """Published, received, started and ended, at these milliseconds."""
    run = Delivery(at + 1, name, created=at)
    sent = cast("Event", {**published(at, at), "name": name})
    return [sent, run.started(start, sent=ms(at)), run.ended(kind, end, **extra)]


def later_step(name: str, at: int) -> list[Event]:
    """A step that was planned at this millisecond and is not sent."""
    return [event(Kind.PLANNED, at, asked=True, created=ms(at), args=[], kwargs={}) | {"name": name}]


def not_sent(name: str, at: int, failed_at: int, upstream: str, upstream_id: str, text: str) -> list[Event]:
    """A step that will not be sent, as `step_events.unsent` records it."""
    message = f"Not sent: upstream task {upstream} [{upstream_id}] ended with {text}"
    unsent = event(
        Kind.UNSENT,
        failed_at,
        asked=True,
        created=ms(at),
        args=[],
        kwargs={},
        error_type="ValueError",
        error_message=message,
    )
    return [*later_step(name, at), cast("Event", {**unsent, "name": name})]


CHECKOUT, CHARGE, SHIP, NOTIFY, INVOICE = (f"{digit * 8}-order" for digit in "12345")


def order() -> list[Event]:
    """A task that starts two others: a receipt, and a chain whose first step is retried, whose second step fails, and
    whose third is never sent."""
    first = Delivery(131, "shop.charge", created=130)
    second = Delivery(201, "shop.charge", created=130, retries=1)
    sent = cast("Event", {**published(130, 130), "name": "shop.charge"})
    failed = {"error_type": "TimeoutError", "error_message": "the bank did not answer"}
    charge = [
        sent,
        first.started(140, sent=ms(130)),
        first.ended(Kind.RETRIED, 200, **failed),
        second.started(410, sent=ms(199), eta=ms(400)),
        second.ended(Kind.SUCCEEDED, 500),
    ]
    error = {"error_type": "ValueError", "error_message": "no stock", "traceback": TRACEBACK}
    return [
        *of(CHECKOUT, ran("shop.checkout", 0, 20, 120), CHECKOUT),
        *of(CHARGE, charge, CHECKOUT, CHECKOUT),
        *of(SHIP, ran("shop.ship", 500, 520, 1000, Kind.FAILED, **error), CHECKOUT, CHARGE),
        *of(NOTIFY, not_sent("shop.notify", 130, 1000, "shop.ship", SHIP, "no stock"), CHECKOUT, SHIP),
        *of(INVOICE, ran("shop.invoice", 150, 160, 180), CHECKOUT, CHECKOUT),
    ]
