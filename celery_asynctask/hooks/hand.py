"""The deliveries that this worker's main process has in hand.

Some signals about a run come without its request: a hard time limit's second one, and the only one of a message that
goes back to the queue for it (Celery 5.7, celery/worker/request.py on_timeout).
"""

from __future__ import annotations

import weakref
from typing import Any

_requests: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def take(request: Any) -> None:
    """Remember a worker's Request for as long as the worker does."""
    _requests[request.id] = request


def in_hand(task_id: str) -> Any:
    """The worker's Request for the task, None if it has none."""
    return _requests.get(task_id)
