"""The statuses of a task, and which of them end it."""

from __future__ import annotations

import enum
from typing import Final


class AsyncTaskStatus(str, enum.Enum):
    """What a row's ``status`` can be: the names of `celery.states` and three that Celery has no state for."""

    PENDING = "PENDING"
    """Asked for: published, planned by a workflow, put back on the queue, or replaced and not yet run again."""
    RECEIVED = "RECEIVED"
    """A worker has the message, and has not started the body (waiting for a free child, or for its ETA)."""
    STARTED = "STARTED"
    """The body runs."""
    RETRY = "RETRY"
    """The last run asked to be tried again; the next one has not started."""
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    """Revoked, terminated or expired."""
    REJECTED = "REJECTED"
    """The message was refused for good, by ``raise Reject`` or because it could not be understood."""
    IGNORED = "IGNORED"
    """The body ended with ``raise Ignore``."""
    LOST = "LOST"
    """Its worker went away and nobody will run it again; how far it came is unknown. Decided by the recorder that finds
    the process gone (`recorder.liveness`), or by a worker that is shut down while the task, whose message is
    acknowledged, still runs (`capture.run.on_retry`)."""

    def __str__(self) -> str:
        return self.value


TERMINAL: Final = frozenset(
    {
        AsyncTaskStatus.SUCCESS,
        AsyncTaskStatus.FAILURE,
        AsyncTaskStatus.REVOKED,
        AsyncTaskStatus.REJECTED,
        AsyncTaskStatus.IGNORED,
        AsyncTaskStatus.LOST,
    }
)
"""A row has ``completed_at`` if and only if its status is one of these."""

FAILED: Final = (AsyncTaskStatus.FAILURE, AsyncTaskStatus.LOST, AsyncTaskStatus.REJECTED)
"""What counts as failed, in the order in which it is shown; who revokes or ignores a task wants it so."""
