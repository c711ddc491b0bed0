"""Our exceptions, whose docstrings state the remedy, and the guard that keeps our failures out of the user's task."""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import ImproperlyConfigured

from celery_asynctask.core.forking import Undivided
from celery_asynctask.core.logs import Lines, logger_of

logger = logger_of("celery_asynctask")

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTaskError(Exception):
    """Base class of the exceptions of celery-asynctask."""


class SettingsError(AsyncTaskError, ImproperlyConfigured):
    """An ``asynctask_*`` setting is unknown, or has a value that is not allowed. The message names the key, the value,
    and the allowed values. Correct it in the Celery configuration."""


class ContextError(AsyncTaskError, TypeError):
    """The customer, creator or content given for a task has the wrong type. The message names the field and the allowed
    types. Nothing was sent; correct the value where it is given."""


class FilterError(AsyncTaskError, ValueError):
    """A search or a cursor cannot be read. The message says why and what is allowed; correct it and try again."""


class NotFoundError(AsyncTaskError, LookupError):
    """No task has the given id, several ids begin with it, or its workflow is too large for an export. The message says
    which, and what to do."""


class BundleError(AsyncTaskError, ValueError):
    """A file to import is not a bundle, or not a complete one. The message gives the line and the problem; import
    another file, or export it again."""


class StoreError(AsyncTaskError):
    """The database cannot be read or written: it does not answer, has no tables, or has tables of another version. The
    message says which, and what to do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}" if remedy else problem)
        self.problem = problem
        """What happened, in a sentence."""
        self.remedy = remedy
        """What to do, in a sentence; empty if ``problem`` says it."""


class NoTablesError(StoreError):
    """The database, or SQLite's file, has no tables yet: start a worker, or run ``celery asynctask upgrade``."""


class NoDirectoryError(StoreError):
    """The directory of SQLite's file does not exist, so nothing can be recorded there: create it."""


class AcceptanceError(AsyncTaskError):
    """There is nothing to accept of a host. The message says why, and what to do."""


class AuditError(StoreError):
    """An entry of the audit cannot be written, so what it is about is refused. Nothing was done. The message says why,
    and what to do."""


class JournalError(AsyncTaskError):
    """The journal directory cannot be used. The message says why, and which setting changes the directory."""


failures: Counter[str] = Counter()
"""Number of failures in this process by hook and exception, such as ``on_received: KeyError``."""
_wrong_settings: set[str] = set()
"""What was logged of them: each app may have one of its own."""
_counting = Undivided()
"""Keeps threads that fail at once from losing counts, and from each leaving the log line to the other."""


def report(where: str, task_id: object, exc: Exception, *, quoted: bool = True) -> None:
    """Count a failure in the hook ``where``, and log the first of its kind in this process with the task id. A wrong
    setting, which fails every hook of its app, is logged once, in a line.

    Not logged is what was being handled when ``exc`` was raised: in a hook, that is the task's own exception, whose
    text nobody has redacted. Unless ``quoted``, nor is the text of ``exc``, only where it was raised.
    """
    key = f"{where}: {type(exc).__name__}"
    is_setting = isinstance(exc, SettingsError)
    with _counting():
        is_first = str(exc) not in _wrong_settings if is_setting else key not in failures
        failures[key] += 1
        if is_setting:
            _wrong_settings.add(str(exc))
    if is_first and is_setting:
        logger.error("celery-asynctask records nothing in this process: %s", exc)
    elif is_first and not quoted:
        logger.error(
            "celery-asynctask could not record %s of task %s: %s, whose text may tell what is not to be recorded. The "
            "task itself is not affected; further errors of this kind in this process are counted and not logged.%s",
            where,
            task_id or "(unknown)",
            type(exc).__name__,
            Lines(
                "".join(
                    f'\n  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
                    for frame in traceback.extract_tb(exc.__traceback__)
                )
            ),
        )
    elif is_first:
        logger.error(
            "celery-asynctask could not record %s of task %s: %r. The task itself is not affected; further errors "
            "of this kind in this process are counted and not logged.",
            where,
            task_id or "(unknown)",
            exc,
            exc_info=_alone(exc),
        )


def _alone(exc: BaseException) -> BaseException:
    """The exception with its causes only."""
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__context__ = None
        link = link.__cause__
    return exc


def guard(hook: Callable[P, R]) -> Callable[P, R | None]:
    """Wrap a hook so that nothing it raises reaches the task; it then returns None.

    Celery's soft time limit passes through: a signal handler raises it at any instruction of the task, so it can strike
    inside a hook and still belongs to the task.
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
    """The id of the task that a hook was called for, if the arguments have it; never raises."""
    try:
        return (
            kwargs.get("task_id")
            or kwargs.get("id")
            or getattr(kwargs.get("request"), "id", None)
            or getattr(getattr(kwargs.get("sender"), "request", None), "id", None)
            or next((arg.id for arg in args[:2] if isinstance(getattr(arg, "id", None), str)), None)
            or (getattr(args[2], "headers", {}).get("id") if len(args) > 2 else None)
        )
    except Exception:  # noqa: BLE001 - called while handling an error
        return None
