"""Rerunning recorded tasks: whether a task can be rerun, what would be sent, and sending it.

A rerun is a new execution with the recorded arguments, for the same customer and creator. Its content links it to the
original: ``rerun_of`` is the original's id, ``rerun_by`` the person who sent it; tasks that it starts inherit both. The
steps that followed the original in a workflow are not sent, for a row does not know them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kombu.exceptions import OperationalError

from celery_asynctask.capture import context
from celery_asynctask.capture.celery_private import argument_check, options_of_task, read_envelopes, route
from celery_asynctask.core.keys import is_blind, is_changed, is_of_a_step
from celery_asynctask.core.limits import MAX_NAME
from celery_asynctask.core.marks import is_whole, mark_of, note_of
from celery_asynctask.core.reasons import Code, Reason
from celery_asynctask.core.status import TERMINAL, AsyncTaskStatus
from celery_asynctask.core.url import hidden, same_store
from celery_asynctask.errors import AsyncTaskError, ContextError
from celery_asynctask.queries.reruns import RERUN_OF, Rerun
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask

RERUN_BY: Final = "rerun_by"
_NOT_INHERITED: Final = frozenset({RERUN_OF, RERUN_BY, "periodic_task_name"})
"""Keys of the content that say why the original was sent."""
_BROKER_SECONDS: Final = 5


class Options(NamedTuple):
    """What a person chose."""

    queue: str | None = None
    """The queue to send to; None: the one that the app's routes give."""
    unfinished: bool = False
    """Also rerun tasks that are not over."""
    again: bool = False
    """Also rerun tasks that were rerun before."""
    force_name: bool = False
    """Also rerun tasks that the app does not know."""
    from_elsewhere: bool = False
    """Also rerun tasks of another record than the app's."""


class Candidate(NamedTuple):
    """A recorded task, and what its rerun would be."""

    task: AsyncTask
    args: Sequence[Any] = ()
    """The arguments that the new execution gets."""
    kwargs: Mapping[str, Any] = {}
    queue: str | None = None
    """Where it would be sent to; None: no route leads anywhere."""
    content: Mapping[str, Any] = {}
    """The part of the original's content that the new execution gets."""
    refusals: Sequence[Reason] = ()
    """Why it is not sent; empty: it can be sent."""
    remarks: Sequence[Reason] = ()
    """What a person should know before sending it."""


def prepare(app: Any) -> None:
    """Import what the app's workers import, so that its tasks are known. Raises `AsyncTaskError`."""
    try:
        app.loader.import_default_modules()
        app.finalize()
    except AsyncTaskError:
        raise
    except Exception as exc:
        raise AsyncTaskError(
            f"The modules of the app's workers cannot be imported here: {type(exc).__name__}: {exc}. Run this where "
            "the workers run."
        ) from exc
    if app.conf.task_always_eager:
        raise AsyncTaskError(
            "task_always_eager is set, so the task would run in this process and not in a worker. Unset it in the "
            "Celery configuration of this process."
        )


def is_elsewhere(app: Any, settings: Settings) -> bool:
    """Whether ``settings`` lead to another record than the app's own. Raises `SettingsError`."""
    return not same_store(Settings.from_app(app).store_id, settings.store_id)


def assess(
    app: Any,
    task: AsyncTask,
    options: Options,
    before: Sequence[Rerun],
    came_by: str | None,
    *,
    values: bool = True,
    elsewhere: bool = False,
) -> Candidate:
    """Whether the task can be rerun. ``before`` are its reruns so far, ``came_by`` is the routing key that its message
    had. Without ``values``, reasons say nothing about the arguments: no key, name, type or part of them. ``elsewhere``
    is `is_elsewhere`."""

    def because(code: Code, detail: object) -> Reason:
        return Reason(code, {"detail": str(detail) if values else ""})

    refusals = [*_about_state(task, options), *_about_values(task, values)]
    remarks: list[Reason] = []
    if elsewhere:
        made_up = Reason(Code.ELSEWHERE, remedy="from_elsewhere")
        (remarks if options.from_elsewhere else refusals).append(made_up)
    if before:
        sent = Reason(Code.SENT_BEFORE, {"times": len(before), "last": before[0].celery_task_id}, "again")
        (remarks if options.again else refusals).append(sent._replace(remedy=None) if options.again else sent)
    if task.status is AsyncTaskStatus.LOST or task.status not in TERMINAL:
        remarks.append(Reason(Code.MAY_RUN_TWICE, {"status": task.status.value}))
    args, kwargs = (), {}
    try:
        if not refusals:
            args, kwargs = rebuilt(task.task_args), rebuilt(task.task_kwargs)
    except ValueError as exc:
        refusals.append(because(Code.UNREADABLE, exc))
    known = app.tasks.get(task.name)
    if known is None:
        own = any(not name.startswith("celery.") for name in app.tasks)
        if own and not options.force_name:
            refusals.append(Reason(Code.UNKNOWN_NAME, remedy="force_name"))
        else:
            remarks.append(Reason(Code.UNCHECKED_NAME))
    elif not refusals and (misfit := _misfit(known, args, kwargs)):
        refusals.append(because(Code.MISFIT, misfit))
    queue = routing_key = None
    try:
        queue, routing_key = _route(app, known, task.name, args, kwargs, options.queue)
    except Exception as exc:  # noqa: BLE001 - a router is the user's
        refusals.append(because(Code.NO_ROUTE, exc))
    if came_by is not None and came_by not in (queue, routing_key):
        remarks.append(Reason(Code.CAME_BY, {"queue": came_by}))
    content, left_out = _content(task)
    if left_out is not None:
        remarks.append(Reason(left_out))
    return Candidate(task, args, kwargs, queue, content, refusals, remarks)


def _about_state(task: AsyncTask, options: Options) -> Iterator[Reason]:
    if is_of_a_step(task.origin_key):
        yield Reason(Code.STEP)
    elif task.status not in TERMINAL and not options.unfinished:
        yield Reason(Code.UNFINISHED, {"status": task.status.value}, "unfinished")


def _about_values(task: AsyncTask, values: bool) -> Iterator[Reason]:
    for name, value, kind in (("args", task.task_args, list), ("kwargs", task.task_kwargs, dict)):
        if value is None:
            yield Reason(Code.NOT_SAID if is_blind(task.origin_key) else Code.NOT_RECORDED, {"name": name})
        elif not is_whole(value):
            detail = ", ".join(sorted(_missing(value))) if values else ""
            yield Reason(Code.NOT_WHOLE, {"name": name, "detail": detail})
        elif not isinstance(value, kind):
            yield Reason(Code.WRONG_KIND, {"name": name, "kind": kind.__name__})


def _missing(value: Any, path: str = "") -> Iterator[str]:
    """The values that are not recorded as they were, each with its path."""
    if (mark := mark_of(value)) is not None:
        yield f"{path or 'all of it'} is {mark.said(value)}"
        return
    note = note_of(value)
    if note is not None and (mark := mark_of(note)) is not None:
        yield f"{path or 'all of it'} is {mark.said(note)}"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if item is note:
            continue
        if str(key).startswith("$"):
            yield f"{path}.{key} has a key like our own".lstrip(".")
        else:
            yield from _missing(item, f"{path}.{key}".lstrip("."))


def rebuilt(value: Any) -> Any:
    """Stored arguments as a worker gets them from Celery's JSON serializer: datetimes, UUIDs, Decimals and bytes taken
    out of their envelopes. Raises `ValueError` for an envelope that this release of kombu does not know."""
    try:
        return read_envelopes(json.dumps(value))
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as exc:
        raise ValueError(f"{type(exc).__name__}: {exc}") from exc


def _misfit(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why Celery's check refuses a call with these arguments; empty: it does not."""
    if (check := argument_check(task)) is not None:
        try:
            check(*args, **kwargs)
        except TypeError as exc:
            return str(exc)
    return ""


def _route(
    app: Any, task: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], queue: str | None
) -> tuple[str | None, str | None]:
    """The queue that the app would send it to, or what stands for it, and the routing key."""
    options = options_of_task(task) if task is not None else {}
    if queue is not None:
        options["queue"] = queue
    routed = route(app, options, name, args, kwargs, task)
    target = routed.get("queue")
    if target is not None and not isinstance(target, str):
        return target.name, target.routing_key
    exchange, key = routed.get("exchange"), routed.get("routing_key")
    return target or key or (str(exchange) if exchange else app.conf.task_default_queue), key


def _content(task: AsyncTask) -> tuple[dict[str, Any], Code | None]:
    """The content that the task was given, and why it is not known or cannot be given again."""
    if not isinstance(task.content, dict):
        return {}, None
    if is_changed(task.content_key):
        return {}, Code.CONTENT_CHANGED
    given = {key: value for key, value in task.content.items() if key not in _NOT_INHERITED}
    try:
        context.check({"content": {**given, RERUN_OF: task.celery_task_id, RERUN_BY: "x" * MAX_NAME}})
    except ContextError:
        return {}, Code.CONTENT_TOO_LONG
    return (given, None) if is_whole(given) else ({}, Code.CONTENT_NOT_WHOLE)


def reach_broker(app: Any) -> None:
    """Check once that the broker answers, before many tasks wait for it. Raises `AsyncTaskError`."""
    try:
        with app.connection_for_write(connect_timeout=_BROKER_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_SECONDS)
    except Exception as exc:
        raise AsyncTaskError(
            f"The broker{_shown_broker(app)} cannot be reached: {exc}. Nothing was sent. Check broker_url, and that "
            "the broker runs."
        ) from exc


def _shown_broker(app: Any) -> str:
    """The URL without secrets; empty if kombu does not understand it, or lacks a library for it."""
    try:
        return f" {hidden(app.connection_for_write().as_uri())}"
    except Exception:  # noqa: BLE001 - whatever a transport raises
        return ""


def is_unreachable(app: Any, exc: Exception) -> bool:
    """Whether an error of `send` says that the broker, or the result backend, is away; if not, the message cannot be
    made, or the task's own ``apply_async`` refused it."""
    backend_errors = getattr(app.backend, "connection_errors", ())  # Redis's are no OSError
    kinds = (OSError, OperationalError, *app.connection_for_write().connection_errors, *backend_errors)
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__  # Celery's Redis backend wraps it in a RuntimeError
    return cause is not None


def link(app: Any) -> None:
    """Make sure that a rerun carries its link to the original. Raises `AsyncTaskError`."""
    instrumentation = getattr(app, "asynctask_recording", None)  # `instrumentation.ATTRIBUTE`
    if instrumentation is None:
        from celery_asynctask.capture.install import install

        install(app)
        instrumentation = app.asynctask_recording
    if not instrumentation.settings.enabled:
        raise AsyncTaskError(
            "asynctask_enabled is False here: nothing would link the rerun to its original. Set it to True in the "
            "configuration of this process."
        )


def send(app: Any, candidate: Candidate, by: str, queue: str | None = None) -> str:
    """Send the rerun; returns its task id. Raises whatever Celery raises."""
    task = candidate.task
    options = {} if queue is None else {"queue": queue}
    link = {RERUN_OF: task.celery_task_id, RERUN_BY: by[:MAX_NAME]}
    fields = {
        "customer": task.customer_key or None,
        "created_by": task.created_by_key,
        "created_by_name": task.created_by_name,
        "content": {**link, **candidate.content},  # the link first: what comes last is cut off if it is too long
    }
    with context.exactly(fields):  # a task without a customer must not get the customer of this process
        known = app.tasks.get(task.name)
        if known is None:
            sent = app.send_task(task.name, args=candidate.args, kwargs=candidate.kwargs, **options)
        else:
            sent = known.apply_async(args=candidate.args, kwargs=candidate.kwargs, **options)
    return str(sent.id)
