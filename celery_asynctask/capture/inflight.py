"""The deliveries that are in flight in this worker's main process.

Some signals about an attempt come without its request: the second one of a hard time limit, and the only one of a
message that goes back to the queue because of it (Celery 5.7, celery/worker/request.py on_timeout). Several requests
may have one id: tasks of several customers, or a message that was delivered again.

Requests are kept by weak references. If we kept a request alive, it would be freed late, when its memory is cold, and
the garbage collector would have visited it meanwhile: that costs as much as everything else that we do when a task is
received.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from celery_asynctask.capture.celery_private import context_of
from celery_asynctask.capture.headers import header_of, header_of_delivery

_requests: dict[str, weakref.ref[Any] | tuple[weakref.ref[Any], ...]] = {}
"""By task id; a tuple where several were alive at a time."""
_MIN_LIMIT = 1000
_limit = _MIN_LIMIT
"""Number of references above which dead ones are removed."""


def remember(request: Any) -> weakref.ref[Any]:
    """Remember a worker's Request for as long as the worker does."""
    global _limit  # noqa: PLW0603 - as global as what it bounds
    reference = weakref.ref(request)
    known = _requests.setdefault(request.id, reference)
    if known is not reference:
        others = tuple(one for one in _references(known) if one() is not None)
        _requests[request.id] = (*others, reference) if others else reference
    if len(_requests) > _limit:
        for task_id, other in list(_requests.items()):
            if all(one() is None for one in _references(other)):
                _requests.pop(task_id, None)
        _limit = max(_MIN_LIMIT, 2 * len(_requests))
    return reference


def in_flight(task_id: str, is_meant: Callable[[Any], bool]) -> Any:
    """The worker's Request for the task; where it has several, the only one that ``is_meant``. None: it has none."""
    known = _requests.get(task_id)
    if known is None:
        return None
    requests = [request for one in _references(known) if (request := one()) is not None]
    if len(requests) > 1:
        requests = [request for request in requests if is_meant(request)]
    return requests[0] if len(requests) == 1 else None


def in_flight_of(context: Any) -> Any:
    """The worker's Request for the attempt with this Context: the Request's own, or with its token; None: it has
    none."""

    def is_meant(request: Any) -> bool:
        if context_of(request) is context:
            return True
        run = header_of(context).get("run")
        return run is not None and header_of_delivery(request).get("run") == run

    return in_flight(context.id, is_meant)


def shares_id(request: Any) -> bool:
    """Whether the worker has a Request with the id of this one for another customer."""
    customer = header_of_delivery(request).get("customer")
    live = [other for one in _references(_requests.get(request.id, ())) if (other := one()) is not None]
    return len(live) > 1 and any(header_of_delivery(other).get("customer") != customer for other in live)


def _references(known: weakref.ref[Any] | tuple[weakref.ref[Any], ...]) -> tuple[weakref.ref[Any], ...]:
    return known if isinstance(known, tuple) else (known,)
