"""One app's recording: which of its tasks are recorded, and where their events go."""

from __future__ import annotations

import atexit
import contextlib
import inspect
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.utils.imports import symbol_by_name

from celery_asynctask import payload, process, provenance
from celery_asynctask.errors import report
from celery_asynctask.events import Event, encode
from celery_asynctask.journal import Journal
from celery_asynctask.payload.redaction import SENSITIVE_NAMES, Redaction
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

EXIT_SECONDS = 2.0
"""How long the end of a process may be held up to store its last events; what is left stays in the journal."""


class Recording:
    """What is installed on an app. Nothing is read, opened or started before the first event."""

    def __init__(self, app: Celery, whole_app: bool) -> None:
        self.app = app
        self.whole_app = whole_app
        self._reset()
        self._chosen: dict[str, bool] = {}
        self._chord: str | None = None
        self._parameters: dict[str, tuple[str, ...]] = {}
        process.reset_in_children(self)

    def _reset(self) -> None:
        self._started = False

    def after_fork_in_child(self) -> None:
        self._reset()

    @cached_property
    def settings(self) -> Settings:
        """The app's settings as they are at the first event. Raises `errors.SettingsError`."""
        return Settings.from_app(self.app)

    @cached_property
    def journal(self) -> Journal:
        """This process's place in the journal."""
        return Journal(self.settings.directory, self.settings.store_id)

    @cached_property
    def recorder(self) -> Recorder:
        """This process's recorder."""
        return Recorder(self.settings)

    def widen(self, whole_app: bool) -> None:
        """Record the whole app if asked to; never less than before."""
        if whole_app and not self.whole_app:
            self.whole_app = True
            self._chosen.clear()

    def planned_chord(self, body: Any) -> bool:
        """Whether the chord with this body (a signature) was planned just before: each of its header tasks carries
        the same body."""
        body_id = (body.get("options") or {}).get("task_id")
        known, self._chord = self._chord, body_id
        return body_id is not None and body_id == known

    def chooses(self, name: str) -> bool:
        """Whether tasks of this name are recorded."""
        chosen = self._chosen.get(name)
        if chosen is None:
            chosen = self._choose(name)
            if self.task(name) is not None:  # one that is registered later may say otherwise
                self._chosen[name] = chosen
        return chosen

    def _choose(self, name: str) -> bool:
        settings = self.settings
        if not settings.enabled or any(fnmatchcase(name, glob) for glob in settings.exclude):
            return False
        if not any(fnmatchcase(name, glob) for glob in settings.include):
            return False
        task = self.task(name)
        if not self.whole_app and not hasattr(task, "asynctask_record"):
            return False
        return bool(getattr(task, "asynctask_record", True))

    def task(self, name: str) -> Any:
        """The registered task of this name, None where this process does not know it."""
        return self.app._tasks.get(name)

    def keeps(self, name: str, what: str) -> bool:
        """Whether ``what`` (args, kwargs, result) of tasks of this name is recorded."""
        return bool(getattr(self.task(name), f"asynctask_record_{what}", True))

    def context(self) -> dict[str, Any]:
        """What the function named in ``asynctask_context`` says now; nothing, and a log line, where it fails."""
        if self.settings.context is None:
            return {}
        try:
            return provenance.check(self._context_function() or {})
        except Exception as exc:  # noqa: BLE001 - a publish must not fail for it
            report("the context (asynctask_context)", None, exc)
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

    def parameters(self, name: str) -> tuple[str, ...]:
        """Names of the positional parameters of the task, empty where this process does not know it."""
        names = self._parameters.get(name)
        if names is None:
            task = self.task(name)
            if task is None:
                return ()
            names = self._parameters[name] = _positional(task.run)
        return names

    def record(self, event: Event) -> None:
        """Write the event to the journal, and see that a recorder runs. Raises nothing that depends on the disk."""
        self.journal.append(encode(event))
        if not self._started:
            self.start()

    def start(self) -> None:
        """Run a recorder in this process until it exits; not in the children of a prefork pool, whose main process
        has one."""
        if self._started or not self.settings.enabled:
            return
        self._started = True
        if not process.is_pool_child():
            self.recorder.start()
            atexit.register(self.close)

    def close(self) -> None:
        """Store what there is, for at most `EXIT_SECONDS`, and stop the recorder; later events start it again."""
        if not self._started:
            return
        self._started = False
        atexit.unregister(self.close)
        self.journal.close()
        if not process.is_pool_child():
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                self.recorder.stop(EXIT_SECONDS)


def _positional(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in kinds)


_ATTRIBUTE = "asynctask_recording"


def attach(app: Celery, recording: Recording) -> None:
    """Make ``recording`` the app's."""
    setattr(app, _ATTRIBUTE, recording)


def detach(app: Celery) -> None:
    """Leave the app without a recording."""
    delattr(app, _ATTRIBUTE)


def recording_of(app: Celery) -> Recording | None:
    """What is installed on ``app``."""
    recording: Recording | None = app.__dict__.get(_ATTRIBUTE)
    return recording


def recording_of_task(task: Any) -> Recording | None:
    """The recording of a task, None when it is not recorded."""
    recording = recording_of(task.app)
    return recording if recording is not None and recording.chooses(task.name) else None
