"""Our exceptions, whose docstrings say the remedy, and the guard that keeps our failures out of the user's task."""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import ImproperlyConfigured

logger = logging.getLogger("celery_asynctask")

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTaskError(Exception):
    """Base of the exceptions of celery-asynctask."""


class SettingsError(AsyncTaskError, ImproperlyConfigured):
    """An ``asynctask_*`` setting is unknown or has a value that is not allowed; the message names the key, the
    value and what is allowed. Correct it in the Celery configuration."""


class ContextError(AsyncTaskError, TypeError):
    """What was said about a task's customer, creator or content has the wrong type; the message names the field and
    what is allowed. Nothing was sent."""


class FilterError(AsyncTaskError, ValueError):
    """A search cannot be understood; the message says what and what is allowed."""


class NotFoundError(AsyncTaskError, LookupError):
    """No task has the id that was asked for, or several begin with it; the message says which."""


class BundleError(AsyncTaskError, ValueError):
    """A file that is to be imported is no bundle, or not a whole one; the message says the line and what is wrong."""


class StoreError(AsyncTaskError):
    """The database cannot be read or written: it does not answer, has no tables, or those of another version. The
    message says which, and what to do."""


class NoTablesError(StoreError):
    """The database, or SQLite's file, has no tables yet: start a worker, or run ``celery asynctask upgrade``."""


class JournalError(AsyncTaskError):
    """The journal directory cannot be used; the message says why and which setting changes it."""


failures: Counter[str] = Counter()
"""How often each hook failed in this process, by the hook's name."""
_counting = RLock()
"""Threads that count at once would lose each other's numbers, and the line that each believes the other has logged."""
os.register_at_fork(before=_counting.acquire, after_in_parent=_counting.release, after_in_child=_counting.release)


def report(where: str, task_id: object, exc: Exception) -> None:
    """Count a failure of ours and log the first of its kind in this process, with the task id."""
    key = f"{where}: {type(exc).__name__}"
    with _counting:
        failures[key] += 1
        is_first = failures[key] == 1
    if is_first:
        logger.error(
            "celery-asynctask could not record %s of task %s: %r. The task itself is not affected; further errors "
            "of this kind in this process are counted and not logged.",
            where,
            task_id or "(unknown)",
            exc,
            exc_info=exc,
        )


def guard(hook: Callable[P, R]) -> Callable[P, R | None]:
    """Wrap a hook so that nothing it raises reaches the task.

    Celery's soft time limit is let through: it is raised by a signal handler, at any instruction of the task, so
    it may strike inside a hook and still belongs to the task.
    """

    @functools.wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return hook(*args, **kwargs)
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - the promise of this function
            report(hook.__name__, _task_id(args, kwargs), exc)
            return None

    return guarded


def _task_id(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """The id of the task that a hook was called for, as far as its arguments tell; never raises."""
    try:
        return (
            kwargs.get("task_id")
            or kwargs.get("id")
            or getattr(kwargs.get("request"), "id", None)
            or getattr(getattr(kwargs.get("sender"), "request", None), "id", None)
            or next((one.id for one in args[:2] if isinstance(getattr(one, "id", None), str)), None)
            or (getattr(args[2], "headers", {}).get("id") if len(args) > 2 else None)
        )
    except Exception:  # noqa: BLE001 - called while handling an error
        return None
