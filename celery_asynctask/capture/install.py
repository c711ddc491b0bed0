"""Installing on an app, and the list of the signal receivers.

Each receiver makes an event and passes it on. None may raise: Celery would log the exception, but `errors.report` names
the task and logs each kind once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_asynctask.capture import closing, publish, run, start, worker
from celery_asynctask.capture.celery_private import hide_settings, is_configured
from celery_asynctask.capture.instrumentation import ATTRIBUTE, Instrumentation, close_all, instrumentation_of
from celery_asynctask.core.censor import censored
from celery_asynctask.core.forking import Undivided
from celery_asynctask.errors import SettingsError
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

_installed: weakref.WeakSet[Celery] = weakref.WeakSet()
_installing = Undivided()
"""Threads of a web server that send their first tasks at the same time also bind them, and so install, at the same
time."""


def install(app: Celery, *, whole_app: bool = True) -> None:
    """Record the tasks that ``app`` publishes and runs: all of them, or without ``whole_app`` only those whose class
    says so (`RecordedTask`).

    It may be called again, and then never records less than before. Raises `SettingsError` if the app is configured
    already and a setting is wrong; otherwise a worker refuses to start with the wrong setting.
    """
    if instrumentation_of(app) is None and is_configured(app):
        Settings.from_app(app)
    attach(app, whole_app=whole_app)


def attach(app: Celery, *, whole_app: bool) -> None:
    """`install` without a look at the settings, for callers that must not raise. A worker refuses to start with a wrong
    one, any other process logs it once and records nothing."""
    with _installing():
        instrumentation = instrumentation_of(app)
        if instrumentation is not None:
            instrumentation.widen(whole_app)
            return
        hide_settings(censored)
        instrumentation = Instrumentation(app, whole_app)
        setattr(app, ATTRIBUTE, instrumentation)
        publish.wrap(app, instrumentation)
        start.wrap(app)
        closing.wrap(app, instrumentation)
        if not _installed:
            for signal_, receiver in _RECEIVERS.items():
                signal_.connect(receiver, weak=False, dispatch_uid=f"celery_asynctask.{receiver.__name__}")
        _installed.add(app)


def uninstall(app: Celery) -> None:
    """Undo `install`: store what was recorded, for at most two seconds, and leave the app as it was. Tables and the
    journal directory stay; ``celery asynctask uninstall`` removes them."""
    instrumentation = instrumentation_of(app)
    if instrumentation is None:
        return
    instrumentation.close()
    publish.unwrap(app)
    start.unwrap(app)
    closing.unwrap(app)
    delattr(app, ATTRIBUTE)
    _installed.discard(app)
    if not _installed:
        for signal_, receiver in _RECEIVERS.items():
            signal_.disconnect(dispatch_uid=f"celery_asynctask.{receiver.__name__}")
        start.follow_coroutines(enable=False)


def on_import_modules(sender: Any, **_: Any) -> None:
    """Keep a worker from starting with a wrong setting: Celery's loader raises what this raises."""
    if instrumentation_of(sender) is not None:
        Settings.from_app(sender)


def on_celeryd_init(instance: Any, **_: Any) -> None:
    """`refuse` for a worker."""
    refuse(instance.app)


def on_beat_init(sender: Any, **named: Any) -> None:
    """`refuse` for beat, and `publish.on_beat_init`."""
    refuse(sender.app)
    publish.on_beat_init(sender, **named)


def refuse(app: Celery) -> None:
    """End a process that starts with a wrong setting, where the app has been recorded only since its tasks were bound,
    which is after `on_import_modules`. The signals of that time log all exceptions but this one, and go on."""
    if instrumentation_of(app) is None:
        return
    try:
        Settings.from_app(app)
    except SettingsError as exc:
        raise SystemExit(f"Error: {exc}") from None


def on_worker_process_shutdown(**_: Any) -> None:
    """End recording in a child of a prefork pool, which runs no exit functions."""
    close_all()


_RECEIVERS: dict[Any, Callable[..., None]] = {
    signals.task_failure: run.on_failure,
    signals.task_retry: run.on_retry,
    signals.task_postrun: run.on_postrun,
    signals.task_internal_error: run.on_internal_error,
    signals.task_received: worker.on_received,
    signals.task_revoked: worker.on_revoked,
    signals.task_unknown: worker.on_unknown,
    signals.task_rejected: worker.on_rejected,
    signals.worker_init: worker.on_worker_init,
    signals.worker_ready: worker.on_worker_ready,
    signals.worker_process_shutdown: on_worker_process_shutdown,
    signals.import_modules: on_import_modules,
    signals.celeryd_init: on_celeryd_init,
    signals.beat_init: on_beat_init,
}
