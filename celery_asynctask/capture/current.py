"""What a running task reads and says about itself: its context, and its ``content`` while it runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.capture import context, extract
from celery_asynctask.capture.celery_private import get_current_task
from celery_asynctask.capture.headers import header_of
from celery_asynctask.capture.instrumentation import instrumentation_of_task
from celery_asynctask.capture.payload.merged import Merged
from celery_asynctask.core.event import Kind
from celery_asynctask.core.time import now
from celery_asynctask.errors import guard, logger

THROTTLE_SECONDS: Final = 0.1
"""Content is written at most once in this time while a task runs; what came in between is in the next write, or in
the one that ends the run."""
CONTENT: Final = "asynctask_content"
"""On the request of a run: its `_Told`."""
_ALWAYS: Final = frozenset({"progress"})
"""Keys for which there is room however much a task has said."""


class _Told:
    """What a run made of its content, and whether some of that is not written yet."""

    __slots__ = ("at", "merged", "times", "written")

    def __init__(self, merged: Merged) -> None:
        self.merged = merged
        self.times = 0
        """How often something was said; numbers, for threads of the run may say more while it is written."""
        self.written = 0
        """How much of that is written."""
        self.at = 0.0
        """When it was written last, by `time.monotonic`."""


class Note:
    """The running task's context and content. Get it from `current` or, in a bound task, ``self.asynctask``.

    Outside a task every property is None (``content`` empty), and ``update`` and ``progress`` do nothing but log an
    error that says so.
    """

    def __init__(self, task: Any) -> None:
        self._task = task
        self._request = task.request if task is not None else None

    @property
    def customer(self) -> int | None:
        """For which customer; None: not given."""
        return self._fields().get("customer")

    @property
    def created_by(self) -> int | None:
        """Who asked for it; None: not given."""
        return self._fields().get("created_by")

    @property
    def created_by_name(self) -> str | None:
        """The name of who asked for it; None: not given."""
        return self._fields().get("created_by_name")

    @property
    def content(self) -> dict[str, Any]:
        """A copy of the content as it is now, and as it is recorded: of what was cut or redacted, the mark."""
        if self._request is None:
            return {}
        told = self._request.__dict__.get(CONTENT)
        return copy.deepcopy(told.merged.content if told is not None else context.content_of(self._fields()))

    def update(self, content: Mapping[str, Any]) -> None:
        """Lay ``content`` over the task's content, key by key. Raises `errors.ContextError` for what is no mapping
        with string keys. In all, ``asynctask_max_value_bytes`` are kept: what is told again and the newest progress
        before what is new."""
        context.check_content(content)
        if self._request is None:
            logger.error(
                "celery-asynctask: content was set outside a task and is not recorded. Call update() and progress() "
                "from code that a recorded task runs."
            )
            return
        self._note(content)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the task is: ``content["progress"]`` becomes a mapping of ``done``, ``total`` and ``message``."""
        self.update({"progress": {"done": done, "total": total, "message": message}})

    def _fields(self) -> dict[str, Any]:
        return context.sound(header_of(self._request)) if self._request is not None else {}

    @guard
    def _note(self, content: Mapping[str, Any]) -> None:
        instrumentation = instrumentation_of_task(self._task)
        if instrumentation is None:
            return
        encoder = instrumentation.encoder
        told = self._request.__dict__.get(CONTENT)
        if told is None:
            begun = Merged(context.content_of(self._fields()), encoder.max_bytes, _ALWAYS)
            told = self._request.__dict__.setdefault(CONTENT, _Told(begun))
        told.merged.lay(encoder.value(content, "content"))
        told.times += 1
        if time.monotonic() - told.at < THROTTLE_SECONDS:
            return
        times = told.times
        event = extract.from_request(Kind.NOTED, self._task.name, self._request, now())
        event["noted"] = told.merged.content
        instrumentation.record(event)
        told.at, told.written = time.monotonic(), times


def current() -> Note:
    """The note of the task that runs in this thread."""
    return Note(get_current_task())


def content_of(request: Any) -> Any:
    """The content of a run that is not written yet, as JSON; None where all is."""
    told = request.__dict__.get(CONTENT)
    return told.merged.content if told is not None and told.written != told.times else None
