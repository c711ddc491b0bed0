"""The deliveries that this worker's main process has in hand.

Some signals about a run come without its request: a hard time limit's second one, and the only one of a message that
goes back to the queue for it (Celery 5.7, celery/worker/request.py on_timeout).

By weak references: a request that lives on because of us is freed late, when its memory is cold, and has been looked
at by the garbage collector meanwhile. That costs a task as much as all else that is done when it is received.
"""

from __future__ import annotations

import weakref
from typing import Any

_requests: dict[str, weakref.ref[Any]] = {}
_FEWEST = 1000
_most = _FEWEST
"""When those that are gone are thrown out."""


def take(request: Any) -> weakref.ref[Any]:
    """Remember a worker's Request for as long as the worker does."""
    global _most  # noqa: PLW0603 - as global as what it bounds
    found = _requests[request.id] = weakref.ref(request)
    if len(_requests) > _most:
        for task_id, one in list(_requests.items()):
            if one() is None:
                _requests.pop(task_id, None)
        _most = max(_FEWEST, 2 * len(_requests))
    return found


def in_hand(task_id: str) -> Any:
    """The worker's Request for the task, None if it has none."""
    found = _requests.get(task_id)
    return found() if found is not None else None
