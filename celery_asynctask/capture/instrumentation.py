"""The instrumentation of one app: which of its tasks are recorded, and where their events go."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kombu.utils.imports import symbol_by_name

from celery_asynctask.capture import context, payload
from celery_asynctask.capture.celery_private import is_pool_child, registered_tasks
from celery_asynctask.capture.messages import name_text, queue_of
from celery_asynctask.capture.outlet import Outlet, outlet_of, outlets
from celery_asynctask.capture.payload.names import SENSITIVE_NAMES
from celery_asynctask.capture.payload.redaction import Redaction
from celery_asynctask.core.event import Event, encode, json_text, quote
from celery_asynctask.core.forking import forks_later, notice_fork, reset_in_children
from celery_asynctask.errors import report
from celery_asynctask.journal import Journal
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

EXIT_SECONDS = 2.0
"""Most seconds by which storing the last events delays the end of a process; the rest stays in the journal."""
_MAX_CACHED = 4096
"""Most places, and names, whose encoded form is kept."""


_VALUES: Final = ("args", "kwargs", "result")


class RecordingPolicy(NamedTuple):
    """What is recorded of the tasks of one name."""

    recorded: bool
    """Whether they are recorded at all."""
    args: bool
    kwargs: bool
    result: bool
    parameters: tuple[str, ...]
    """Names of the positional parameters; empty if this process does not know the task."""
    known: bool
    """Whether this process knows the task, and so what to leave out and to redact."""
    plain: bool
    """Whether arguments of both kinds are recorded."""


class _Policies(dict[str, RecordingPolicy]):
    """The policies by task name, each made on first use: hooks need one several times for each task."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        super().__init__()
        self._instrumentation = instrumentation

    def __missing__(self, name: str) -> RecordingPolicy:
        task = registered_tasks(self._instrumentation.app).get(name)
        policy = self._instrumentation.policy_of(name, task)
        if task is not None:  # a task that is registered later may have another policy
            self[name] = policy
        return policy


class _Places(dict[tuple[str, str | None, Any], str]):
    """The part that many starts in this process have in common: name, process, worker and queue, as keys of an encoded
    event, without the braces."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        super().__init__()
        self._instrumentation = instrumentation

    def __missing__(self, key: tuple[str, str | None, Any]) -> str:
        name, worker, routing_key = key
        about = {"name": name_text(name), "pid": os.getpid(), "source": self._instrumentation.journal.source}
        if worker:
            about["worker"] = name_text(worker)
        if queue := queue_of(routing_key):
            about["queue"] = name_text(queue)
        if len(self) >= _MAX_CACHED:
            self.clear()
        place = self[key] = json_text(about)[1:-1]
        return place


class _Names(dict[str, str]):
    """The name of each task, as a key of an encoded event."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _MAX_CACHED:
            self.clear()
        text = self[name] = f'"name":{quote(name_text(name))}'
        return text


class Instrumentation:
    """What `install` puts on an app. Nothing is read, opened or started before the first event. Safe for threads;
    starts over in a forked child."""

    def __init__(self, app: Celery, whole_app: bool) -> None:
        self.app = app
        self.whole_app = whole_app
        self._reset()
        self.policies = _Policies(self)
        self.names = _Names()
        self._chord: str | None = None
        self.before_work: Callable[[], None] | None = None
        """Called by the recorder's thread before each look into the journal; must not raise."""
        reset_in_children(self)

    def _reset(self) -> None:
        self.is_started = False
        """Whether it uses its outlet."""
        self.places = _Places(self)
        self.waiting: deque[tuple[int, weakref.ref[Any]]] = deque()
        """Requests that a worker's main process has received, with the time, and that are not recorded as received."""
        self.check_at = 0
        """When to check these next, in microseconds since the epoch."""

    def after_fork_in_child(self) -> None:
        self._reset()

    @cached_property
    def settings(self) -> Settings:
        """The app's settings, read at the first event. Raises `errors.SettingsError`."""
        return Settings.from_app(self.app)

    @cached_property
    def outlet(self) -> Outlet:
        """Where this process's events go; it may be that of other apps, too."""
        return outlet_of(self.settings, _role)

    @cached_property
    def journal(self) -> Journal:
        """This process's journal."""
        return self.outlet.journal

    def widen(self, whole_app: bool) -> None:
        """Record all tasks of the app from now on if ``whole_app``; never fewer than before."""
        if whole_app and not self.whole_app:
            self.whole_app = True
            self.policies = _Policies(self)  # a thread that is making a policy puts it into the old mapping

    def planned_chord(self, body: Any) -> bool:
        """Whether the chord with this body, a signature, was planned just before: all of its header tasks carry the
        same body."""
        body_id = (body.get("options") or {}).get("task_id")
        known, self._chord = self._chord, body_id
        return body_id is not None and body_id == known

    def records(self, name: str) -> bool:
        """Whether tasks of this name are recorded."""
        return self.policies[name].recorded

    def policy_of(self, name: str, task: Any) -> RecordingPolicy:
        """The policy of a task name; ``task`` is None if this process does not know the task."""
        known = task is not None
        args, kwargs, result = (bool(getattr(task, f"asynctask_record_{what}", True)) for what in _VALUES)
        return RecordingPolicy(
            self._records(name, task),
            args,
            kwargs,
            result,
            _positional(task.run) if known else (),
            known,
            known and args and kwargs,
        )

    def _records(self, name: str, task: Any) -> bool:
        settings = self.settings
        if not settings.enabled or any(fnmatchcase(name, glob) for glob in settings.exclude):
            return False
        if not any(fnmatchcase(name, glob) for glob in settings.include):
            return False
        if not self.whole_app and not hasattr(task, "asynctask_record"):
            return False
        return bool(getattr(task, "asynctask_record", True))

    def context(self, task_id: Any) -> dict[str, Any]:
        """The context of a task that is sent now, from the function named in ``asynctask_context``. Only call this if
        there is one. Fields that are wrong, and all if the function raises, are left out and logged."""
        on_error = partial(report, "the context (asynctask_context)", task_id)
        try:
            fields = self._context_function()
            return {} if fields is None else context.valid_of(fields, on_error)
        except Exception as exc:  # noqa: BLE001 - it must not fail the publish
            on_error(exc)
            return {}

    @cached_property
    def _context_function(self) -> Any:
        return symbol_by_name(self.settings.context)

    @cached_property
    def encoder(self) -> payload.Encoder:
        """Makes JSON of values, bounded and redacted as the settings say."""
        settings = self.settings
        rule = symbol_by_name(settings.redact_rule) if settings.redact_rule is not None else None
        names = SENSITIVE_NAMES if settings.redact is None else settings.redact
        redaction = Redaction(
            names, rule, lambda exc: report("redaction (asynctask_redact_rule)", None, exc, quoted=False)
        )
        return payload.Encoder(settings.max_value_bytes, redaction)

    def record(self, event: Event) -> None:
        """Write the event to the journal, and make sure that a recorder runs. Never raises for reasons of the disk."""
        self.write(encode(event))

    def write(self, data: bytes, slot: int | None = None) -> None:
        """`record`, for an event that is encoded already; with a ``slot``, it is the end of the run that has this one,
        and carries its start."""
        if not self.journal.append(data, slot):
            self.start()
            self.outlet.recorder.start()  # also in a child of a pool: it stores from memory
        elif not self.is_started:
            self.start()

    def begin(self, start: bytes) -> int | None:
        """Record the encoded start of a run. Returns its slot in the journal, for `write`; None: it has none."""
        slot = self.journal.begin(start)
        if slot is None:
            self.write(start)
        elif not self.is_started:
            self.start()
        return slot

    def start(self) -> None:
        """Run a recorder in this process until it exits. Not in a child of a prefork pool: its main process has one.
        Nor in a server that is about to fork: its workers have."""
        if self.is_started or not self.settings.enabled or forks_later():
            return
        self.is_started = True
        self.outlet.join(self, stores=not is_pool_child())
        atexit.unregister(close_all)  # only once, and before what was registered earlier
        atexit.register(close_all)

    def close(self) -> None:
        """Store all events, for at most `EXIT_SECONDS`. If no other app uses them, stop the recorder and end the
        segment, too. A later event starts them again."""
        notice_fork()
        _close([self])

    def leave(self) -> Callable[[float], object]:
        """`close`, without waiting: returns what waits for it."""
        self.is_started = False
        return self.outlet.leave(self)


def close_all() -> None:
    """Close the instrumentations of all apps, together for at most `EXIT_SECONDS`: the process ends."""
    _close(user for outlet in outlets() for user in outlet.users())


def _close(instrumentations: Iterable[Instrumentation]) -> None:
    until = time.monotonic() + EXIT_SECONDS
    closing = [one for one in instrumentations if one.is_started]
    for wait in [one.leave() for one in closing]:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            wait(max(0.0, until - time.monotonic()))
    for one in closing:
        one.outlet.abandon()


_worker_pid = 0


def become_worker() -> None:
    """Remember that this process is a worker's main process."""
    global _worker_pid  # noqa: PLW0603 - as global as the process
    _worker_pid = os.getpid()


def is_worker() -> bool:
    """Whether this process is a worker's, its main process or a child of its pool."""
    return is_pool_child() or _worker_pid == os.getpid()


def _role() -> str:
    """child (of a prefork pool), worker (its main process) or producer (any other process)."""
    if is_pool_child():
        return "child"
    return "worker" if _worker_pid == os.getpid() else "producer"


def _positional(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


ATTRIBUTE: Final = "asynctask_recording"
"""Attribute of an app: its instrumentation."""


def instrumentation_of(app: Celery) -> Instrumentation | None:
    """The instrumentation of an app, as this process has it; None: it is not recorded."""
    notice_fork()
    instrumentation: Instrumentation | None = app.__dict__.get(ATTRIBUTE)
    return instrumentation


def instrumentation_of_task(task: Any) -> Instrumentation | None:
    """The instrumentation of a task's app; None: the task is not recorded."""
    instrumentation = instrumentation_of(task.app)
    return instrumentation if instrumentation is not None and instrumentation.records(task.name) else None
