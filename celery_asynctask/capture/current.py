"""The running task's own view of itself: it reads its context, and updates its ``content`` while it runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.capture import context, extract
from celery_asynctask.capture.attempt import encoder_of
from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.headers import header_of
from celery_asynctask.capture.instrumentation import instrumentation_of_task
from celery_asynctask.capture.payload.merged import Merged
from celery_asynctask.capture.running import Running, running
from celery_asynctask.core.event import Kind
from celery_asynctask.core.time import now
from celery_asynctask.errors import guard, logger

THROTTLE_SECONDS: Final = 0.1
"""Between two writes of a running task's content, at least; updates in between are in the next write, or in the event
that ends the attempt."""
CONTENT: Final = attribute("content")
"""Attribute of an attempt's request: its `_Content`."""
_ALWAYS: Final = frozenset({"progress"})
"""Keys that always have room in the content."""


class _Content:
    """The content as an attempt has updated it, and how far it is written."""

    __slots__ = ("at", "merged", "updates", "written")

    def __init__(self, merged: Merged) -> None:
        self.merged = merged
        self.updates = 0
        """Number of updates: a count and not a flag, because other threads of the attempt may update during a write."""
        self.written = 0
        """Number of updates that are written."""
        self.at = 0.0
        """When it was last written, by `time.monotonic`."""


class CurrentTask:
    """The running task's context and content. Get it from `current` or, in a bound task, from ``self.asynctask``.

    It stays this task's in any thread. A task's function that is called directly is no task of its own: inside, this is
    the task that calls it. Outside of a task every property is None (``content`` is empty), and ``update`` and
    ``progress`` only log an error.
    """

    def __init__(self, run: Running | None) -> None:
        self._task: Any
        self._request: Any
        self._task, self._request = run or (None, None)

    @property
    def customer(self) -> int | None:
        """Id of the customer that the task is for; None: not given."""
        return self._fields().get("customer")

    @property
    def created_by(self) -> int | None:
        """Id of the task's creator; None: not given."""
        return self._fields().get("created_by")

    @property
    def created_by_name(self) -> str | None:
        """Name of the task's creator; None: not given."""
        return self._fields().get("created_by_name")

    @property
    def content(self) -> dict[str, Any]:
        """A copy of the content as it is recorded now; values that were cut or redacted are marks."""
        if self._request is None:
            return {}
        state = self._request.__dict__.get(CONTENT)
        return copy.deepcopy(state.merged.content if state is not None else context.content_of(self._fields()))

    def update(self, content: Mapping[str, Any]) -> None:
        """Update the task's content with ``content``, a mapping with string keys, key by key.

        In all, ``asynctask_max_value_bytes`` are kept: keys that are updated again, and ``progress``, take precedence
        over new ones. Raises `celery_asynctask.ContextError` for a value that is no such mapping.
        """
        context.check_content(content)
        if self._request is None:
            logger.error(
                "celery-asynctask: content was updated outside of a task and is not recorded. Call update() and "
                "progress() from code that a recorded task runs."
            )
            return
        self._update(content)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Update the task's progress: ``content["progress"]`` becomes a mapping of ``done`` and ``total``, in any unit,
        and ``message``. None: not known."""
        self.update({"progress": {"done": done, "total": total, "message": message}})

    def _fields(self) -> dict[str, Any]:
        return context.sound(header_of(self._request)) if self._request is not None else {}

    @guard
    def _update(self, content: Mapping[str, Any]) -> None:
        instrumentation = instrumentation_of_task(self._task)
        if instrumentation is None:
            return
        encoder = encoder_of(instrumentation, self._task.name, self._request)
        state = self._request.__dict__.get(CONTENT)
        if state is None:
            merged = Merged(encoder.again(context.content_of(self._fields())), encoder.max_bytes, _ALWAYS)
            state = self._request.__dict__.setdefault(CONTENT, _Content(merged))
        state.merged.update(encoder.value(content, "content"))
        state.updates += 1
        if time.monotonic() - state.at < THROTTLE_SECONDS:
            return
        updates = state.updates
        event = extract.from_request(Kind.NOTED, self._task.name, self._request, now())
        event["noted"] = state.merged.content
        instrumentation.record(event)
        state.at, state.written = time.monotonic(), updates


def current() -> CurrentTask:
    """The task that runs in this thread or coroutine: its context, and its content to read and update."""
    return CurrentTask(running())


def content_of(request: Any) -> Any:
    """The content of an attempt as JSON, if an update of it is not written yet; else None."""
    state = request.__dict__.get(CONTENT)
    return state.merged.content if state is not None and state.written != state.updates else None
