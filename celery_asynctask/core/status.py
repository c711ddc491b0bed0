"""The statuses of a task, and which of them end it."""

from __future__ import annotations

import enum
from typing import Final


class AsyncTaskStatus(str, enum.Enum):
    """The values of a row's ``status``, each a `str` equal to its name: those of `celery.states`, and LOST, for which
    Celery has no state."""

    PENDING = "PENDING"
    """Created, and waiting: published, planned by a workflow, put back on the queue, or replaced and not run again."""
    RECEIVED = "RECEIVED"
    """A worker has the message and has not started the body: it waits for a free child, or for its ETA."""
    STARTED = "STARTED"
    """The body runs."""
    RETRY = "RETRY"
    """The last attempt requested a retry; the next attempt has not started."""
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    """Revoked, terminated or expired."""
    REJECTED = "REJECTED"
    """The message was refused for good, by ``raise Reject`` or because it could not be understood."""
    IGNORED = "IGNORED"
    """The body ended with ``raise Ignore``."""
    LOST = "LOST"
    """The attempt's process went away before it could say how the attempt ended; how far it came is unknown. Decided
    by the recorder that sees the process gone (`recorder.liveness`), or by a worker that shuts down while the task
    runs and its message is acknowledged (`capture.run.on_retry`)."""
    UNRECORDED = "UNRECORDED"
    """A worker says that the task is not to be recorded, which its producer did not know. Nothing reads such a row, and
    the recorder deletes it after a day; until then it keeps late events from bringing the task back."""

    def __str__(self) -> str:
        return self.value


SHOWN: Final[tuple[AsyncTaskStatus, ...]] = tuple(
    status for status in AsyncTaskStatus if status is not AsyncTaskStatus.UNRECORDED
)
"""The statuses of the tasks that are shown."""

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
"""The statuses that end a task: a row has ``completed_at`` if and only if its status is one of these."""

FAILED: Final = (AsyncTaskStatus.FAILURE, AsyncTaskStatus.LOST, AsyncTaskStatus.REJECTED)
"""The statuses that count as failed, in the order in which they are shown. Not REVOKED and IGNORED, which somebody
wanted."""
