"""The deliveries that are in flight in this worker's main process.

Some signals about an attempt come without its request: the second one of a hard time limit, and the only one of a
message that goes back to the queue because of it (Celery 5.7, celery/worker/request.py on_timeout).

Requests are kept by weak references. If we kept a request alive, it would be freed late, when its memory is cold, and
the garbage collector would have visited it meanwhile: that costs as much as everything else that we do when a task is
received.
"""

from __future__ import annotations

import weakref
from typing import Any

_requests: dict[str, weakref.ref[Any]] = {}
_MIN_LIMIT = 1000
_limit = _MIN_LIMIT
"""Number of references above which dead ones are removed."""


def remember(request: Any) -> weakref.ref[Any]:
    """Remember a worker's Request for as long as the worker does."""
    global _limit  # noqa: PLW0603 - as global as what it bounds
    reference = _requests[request.id] = weakref.ref(request)
    if len(_requests) > _limit:
        for task_id, other in list(_requests.items()):
            if other() is None:
                _requests.pop(task_id, None)
        _limit = max(_MIN_LIMIT, 2 * len(_requests))
    return reference


def request_in_flight(task_id: str) -> Any:
    """The worker's Request for the task; None: it has none."""
    reference = _requests.get(task_id)
    return reference() if reference is not None else None
