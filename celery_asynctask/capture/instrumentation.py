"""One app's recording: which of its tasks are recorded, and where their events go."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import weakref
from collections import deque
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kombu.utils.imports import symbol_by_name

from celery_asynctask.capture import context, payload
from celery_asynctask.capture.celery_private import is_pool_child, registered_tasks
from celery_asynctask.capture.payload.redaction import SENSITIVE_NAMES, Redaction
from celery_asynctask.core.event import Event, encode, json_text, quote
from celery_asynctask.core.forking import reset_in_children
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.errors import report
from celery_asynctask.journal import Journal
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

EXIT_SECONDS = 2.0
"""How long the end of a process may be held up to store its last events; what is left stays in the journal."""
_PLACES = 4096
"""Places and names that are kept encoded."""


class RecordingPolicy(NamedTuple):
    """What is recorded of the tasks of one name."""

    recorded: bool
    """Anything at all."""
    args: bool
    kwargs: bool
    result: bool
    parameters: tuple[str, ...]
    """Names of the positional parameters, empty where this process does not know the task."""


class _Policies(dict[str, RecordingPolicy]):
    """What is recorded of the tasks of each name, made when it is asked for: hooks ask several times a task."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        super().__init__()
        self._instrumentation = instrumentation

    def __missing__(self, name: str) -> RecordingPolicy:
        task = registered_tasks(self._instrumentation.app).get(name)
        policy = self._instrumentation.policy_of(name, task)
        if task is not None:  # one that is registered later may say otherwise
            self[name] = policy
        return policy


class _Places(dict[tuple[str, str | None, Any], str]):
    """What every start of a task in this process says alike: its name, and where it runs (the worker, the queue). Keys
    of an encoded event, without the braces."""

    def __init__(self, instrumentation: Instrumentation) -> None:
        super().__init__()
        self._instrumentation = instrumentation

    def __missing__(self, key: tuple[str, str | None, Any]) -> str:
        name, worker, queue = key
        about = {"name": name[:MAX_NAME], "pid": os.getpid(), "source": self._instrumentation.journal.source}
        if worker:
            about["worker"] = worker
        if queue:
            about["queue"] = str(queue)[:MAX_NAME]
        if len(self) >= _PLACES:
            self.clear()
        place = self[key] = json_text(about)[1:-1]
        return place


class _Names(dict[str, str]):
    """The name of each task as a key of an encoded event."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _PLACES:
            self.clear()
        text = self[name] = f'"name":{quote(name[:MAX_NAME])}'
        return text


class Instrumentation:
    """What is installed on an app. Nothing is read, opened or started before the first event."""

    def __init__(self, app: Celery, whole_app: bool) -> None:
        self.app = app
        self.whole_app = whole_app
        self._reset()
        self.policies = _Policies(self)
        self.names = _Names()
        self._chord: str | None = None
        reset_in_children(self)

    def _reset(self) -> None:
        self._started = False
        self.places = _Places(self)
        self.waiting: deque[tuple[int, weakref.ref[Any]]] = deque()
        """Requests that a worker's main process has received, and when, of which nothing is recorded yet."""
        self.tell_at = 0
        """When to look at them next."""

    def after_fork_in_child(self) -> None:
        self._reset()

    @cached_property
    def settings(self) -> Settings:
        """The app's settings as they are at the first event. Raises `errors.SettingsError`."""
        return Settings.from_app(self.app)

    @cached_property
    def journal(self) -> Journal:
        """This process's place in the journal."""
        settings = self.settings
        return Journal(settings.directory, settings.store_id, settings.journal_max_bytes, role=_role)

    @cached_property
    def recorder(self) -> Recorder:
        """This process's recorder."""
        return Recorder(self.settings, self.journal)

    def widen(self, whole_app: bool) -> None:
        """Record the whole app if asked to; never less than before."""
        if whole_app and not self.whole_app:
            self.whole_app = True
            self.policies = _Policies(self)  # a thread that is choosing puts what it has chosen into the old one

    def planned_chord(self, body: Any) -> bool:
        """Whether the chord with this body (a signature) was planned just before: each of its header tasks carries
        the same body."""
        body_id = (body.get("options") or {}).get("task_id")
        known, self._chord = self._chord, body_id
        return body_id is not None and body_id == known

    def chooses(self, name: str) -> bool:
        """Whether tasks of this name are recorded."""
        return self.policies[name].recorded

    def policy_of(self, name: str, task: Any) -> RecordingPolicy:
        """What is recorded of a task; None: this process does not know it."""
        return RecordingPolicy(
            self._chooses(name, task),
            bool(getattr(task, "asynctask_record_args", True)),
            bool(getattr(task, "asynctask_record_kwargs", True)),
            bool(getattr(task, "asynctask_record_result", True)),
            _positional(task.run) if task is not None else (),
        )

    def _chooses(self, name: str, task: Any) -> bool:
        settings = self.settings
        if not settings.enabled or any(fnmatchcase(name, glob) for glob in settings.exclude):
            return False
        if not any(fnmatchcase(name, glob) for glob in settings.include):
            return False
        if not self.whole_app and not hasattr(task, "asynctask_record"):
            return False
        return bool(getattr(task, "asynctask_record", True))

    def context(self, task_id: Any) -> dict[str, Any]:
        """What the function named in ``asynctask_context`` says now, where a task is sent; without what is wrong, and
        a log line, where it fails. To be asked where there is one."""
        tell = partial(report, "the context (asynctask_context)", task_id)
        try:
            told = self._context_function()
            return {} if told is None else context.right_of(told, tell)
        except Exception as exc:  # noqa: BLE001 - a publish must not fail for it
            tell(exc)
            return {}

    @cached_property
    def _context_function(self) -> Any:
        return symbol_by_name(self.settings.context)

    @cached_property
    def encoder(self) -> payload.Encoder:
        """Makes JSON of what is recorded, bounded and redacted as the settings say."""
        settings = self.settings
        rule = symbol_by_name(settings.redact_rule) if settings.redact_rule is not None else None
        names = SENSITIVE_NAMES if settings.redact is None else settings.redact
        redaction = Redaction(names, rule, lambda exc: report("redaction (asynctask_redact_rule)", None, exc))
        return payload.Encoder(settings.max_value_bytes, redaction)

    def record(self, event: Event) -> None:
        """Write the event to the journal, and see that a recorder runs. Raises nothing that depends on the disk."""
        self.write(encode(event))

    def write(self, data: bytes) -> None:
        """`record` for an event that is encoded already."""
        if not self.journal.append(data) and is_pool_child():
            self.recorder.start()  # where there is no directory, it stores from memory
        if not self._started:
            self.start()

    def start(self) -> None:
        """Run a recorder in this process until it exits; not in the children of a prefork pool, whose main process
        has one."""
        if self._started or not self.settings.enabled:
            return
        self._started = True
        if not is_pool_child():
            self.recorder.start()
            atexit.register(self.close)

    def close(self) -> None:
        """Store what there is, for at most `EXIT_SECONDS`, and stop the recorder; later events start it again."""
        if not self._started:
            return
        self._started = False
        atexit.unregister(self.close)
        self.journal.close()
        if "recorder" in self.__dict__:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self.recorder.stop(EXIT_SECONDS)
        self.journal.abandon()


_worker_pid = 0


def become_worker() -> None:
    """Note that this process is a worker's main process."""
    global _worker_pid  # noqa: PLW0603 - a process is one thing
    _worker_pid = os.getpid()


def _role() -> str:
    """child (of a prefork pool), worker (main process) or producer (anything else)."""
    if is_pool_child():
        return "child"
    return "worker" if _worker_pid == os.getpid() else "producer"


def _positional(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in kinds)


ATTRIBUTE: Final = "asynctask_recording"
"""Of an app: its recording."""


def instrumentation_of(app: Celery) -> Instrumentation | None:
    """What is installed on ``app``."""
    instrumentation: Instrumentation | None = app.__dict__.get(ATTRIBUTE)
    return instrumentation


def instrumentation_of_task(task: Any) -> Instrumentation | None:
    """The recording of a task, None when it is not recorded."""
    instrumentation = instrumentation_of(task.app)
    return instrumentation if instrumentation is not None and instrumentation.chooses(task.name) else None
