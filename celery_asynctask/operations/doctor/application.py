"""Checks of the application: its settings, and which of its tasks are recorded."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from kombu.utils.imports import symbol_by_name

from celery_asynctask.capture.celery_private import has_own_strategy, missing
from celery_asynctask.core.accounting import listed
from celery_asynctask.core.censor import OPEN, PARTLY_OPEN
from celery_asynctask.core.text import reason
from celery_asynctask.core.url import without_secrets
from celery_asynctask.errors import SettingsError
from celery_asynctask.operations import retention
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.settings import Settings

_CONFIGURATION = Check("configuration")
_TASKS = Check("recorded tasks")
_CELERY = Check("Celery")
_FUNCTIONS = ("context", "access", "redact_rule")


def configuration(settings: Settings) -> Iterator[Finding]:
    """The settings, and whether the functions that they name can be imported."""
    defaults = Settings()
    changed = [
        f"asynctask_{name}" + (f" = {_shown(getattr(settings, name))}" if name in OPEN | PARTLY_OPEN else "")
        for name in (setting.name for setting in fields(Settings))
        if getattr(settings, name) != getattr(defaults, name)
    ]
    yield _CONFIGURATION.ok(
        f"The settings are valid. Not at their defaults: {', '.join(changed) or 'none'}. The store is "
        f"{settings.absolute_url}.",
    )
    if not settings.enabled:
        yield _CONFIGURATION.problem("asynctask_enabled is False: nothing is recorded.", "Set it to True.")
    try:
        retention.configured(settings.retention, dt.datetime.now(dt.timezone.utc))
    except SettingsError as exc:
        yield _CONFIGURATION.problem(str(exc), "Correct that search: `purge` deletes nothing until then.")
    for name in _FUNCTIONS:
        path = getattr(settings, name)
        if path is not None:
            try:
                symbol_by_name(path)
            except Exception as exc:  # noqa: BLE001 - whatever the user's module raises
                yield _CONFIGURATION.problem(
                    f"asynctask_{name} names {path!r}, which cannot be imported: {reason(exc)}.",
                    "Correct the path, or install what it needs here.",
                )


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Path) else repr(without_secrets(value))


def wrong_configuration(exc: SettingsError) -> Finding:
    """A setting is not allowed."""
    return _CONFIGURATION.problem(str(exc), "Correct it in the Celery configuration: workers refuse to start with it.")


def unreadable_configuration(exc: Exception) -> Finding:
    """The user's configuration raises an error."""
    return _CONFIGURATION.problem(
        f"The Celery configuration cannot be read here: {type(exc).__name__}: {reason(exc)}.",
        "Run `doctor` where the workers run; a worker that starts with this fails, too.",
    )


def names_of_celery(app: Any) -> Iterator[Finding]:
    """Whether the installed Celery has the private names that recording relies on."""
    import_module("celery.beat")  # `missing` checks only what is loaded
    for absence in missing(app):
        yield _CELERY.problem(
            f"{absence}.", "Install a release of celery-asynctask for this Celery, or another release of Celery."
        )


def tasks(app: Any, settings: Settings) -> Iterator[Finding]:
    """Whether the app records, and which of its tasks. Imports the modules that its workers import."""
    for load in (app.loader.import_default_modules, app.finalize):
        try:
            load()
        except Exception as exc:  # noqa: BLE001 - whatever the user's modules raise
            yield _TASKS.problem(
                f"The modules of the app's workers cannot be imported here: {type(exc).__name__}: {reason(exc)}.",
                "Run `doctor` where the workers run. If it is there, no worker can start.",
            )
    instrumentation = getattr(app, "asynctask_recording", None)  # `instrumentation.ATTRIBUTE`
    if instrumentation is None:
        why = "no task is a RecordedTask, and install() was not called"
        if "celery_asynctask.auto" in sys.modules:
            why += "; celery_asynctask.auto was imported by another app, or before this one was made"
        yield _TASKS.problem(
            f"Nothing of this app is recorded: {why}.",
            'Give the app the task class, Celery(..., task_cls="celery_asynctask:RecordedTask"), call '
            "celery_asynctask.install(app), or name celery_asynctask.auto in its imports.",
        )
        return
    names = sorted(name for name in app.tasks if not name.startswith("celery."))
    left_out = [name for name in names if not instrumentation.records(name)]
    if not names:
        yield _TASKS.note("The app defines no tasks here; it records what it sends with send_task.")
    elif len(left_out) == len(names):
        yield _TASKS.problem(
            f"None of the app's {len(names):,} tasks is recorded.",
            "Check asynctask_enabled, asynctask_include, asynctask_exclude and the tasks' option asynctask_record.",
        )
    else:
        but = f", but not {listed(left_out, 10)}" if left_out else ""
        yield _TASKS.ok(f"{len(names) - len(left_out):,} of the app's {len(names):,} tasks are recorded{but}.")
    own = [name for name in names if name not in left_out and has_own_strategy(app.tasks[name])]
    if own:
        yield _TASKS.note(
            f"What becomes of a message in a worker is decided by the task's own strategy: {listed(own, 10)}. An "
            "execution that goes past Celery's tracer, as in celery-batches, is recorded only inside of record_run.",
            "If the task has one of that kind, see `record_run` in docs/configuration.md.",
        )
    for key in ("include", "exclude"):
        for glob in getattr(settings, key):
            if names and not any(fnmatchcase(name, glob) for name in app.tasks):
                yield _TASKS.note(
                    f"{glob!r} in asynctask_{key} matches no task that is known here.", "Correct it if it is mistyped."
                )
