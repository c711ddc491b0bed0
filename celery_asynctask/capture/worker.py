"""What only a worker's main process sees: deliveries, revocations, and messages that it cannot make a task from."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, cast

from celery.app.task import Context
from celery.exceptions import NotRegistered, TaskRevokedError

from celery_asynctask.capture import extract, step_events
from celery_asynctask.capture.attempt import encoder_of
from celery_asynctask.capture.celery_private import (
    context_of,
    has_own_strategy,
    has_own_tracer,
    hook_decode_errors,
    hook_stored_results,
    log_missing,
    started_at,
    still_waits,
)
from celery_asynctask.capture.headers import header_of, header_of_delivery, mark_delivery
from celery_asynctask.capture.inflight import remember, shares_id
from celery_asynctask.capture.instrumentation import (
    Instrumentation,
    become_worker,
    instrumentation_of,
    instrumentation_of_task,
)
from celery_asynctask.capture.messages import request_of
from celery_asynctask.capture.run import record_end
from celery_asynctask.capture.signing import believed, check, settle
from celery_asynctask.capture.start import follow_coroutines
from celery_asynctask.capture.step_events import steps_of
from celery_asynctask.core.event import Event, Kind, unsigned
from celery_asynctask.core.keys import new_token
from celery_asynctask.core.time import now, read_microseconds
from celery_asynctask.errors import guard, report

if TYPE_CHECKING:
    from celery import Celery

WAITING: Final = 200_000
"""Microseconds after which a task that a worker has received and not started is recorded as RECEIVED."""


def on_received(request: Any, **_: Any) -> None:
    """Give a delivery its token, and record it as received if it is still waiting after `WAITING`."""
    try:
        task = request.task
        instrumentation = instrumentation_of(task.app)
        if instrumentation is None:
            return
        settings = instrumentation.settings
        keys = settings.header_keys if settings.enabled else None
        is_unsigned = keys is not None and settle(request.request_dict, request.id, keys)
        if not instrumentation.policies[task.name].recorded:
            _tell_unrecorded(instrumentation, request)
            return
        at = time_ns() // 1000
        reference = remember(request)
        try:
            header = mark_delivery(request, at)
        except AttributeError:  # no `Request.request_dict`
            return
        if "created" not in header or is_unsigned:  # the first event of its producer, or the one that is counted
            _record_received(instrumentation, request, at, is_unsigned=is_unsigned)
            return
        instrumentation.waiting.append((at, reference))
        if at >= instrumentation.check_at:  # the recorder's thread does this, too, unless it waits for the database
            record_waiting(instrumentation)
    except Exception as exc:  # noqa: BLE001 - as `guard` does, whose own call would cost every task
        report("on_received", getattr(request, "id", None), exc)


def _tell_unrecorded(instrumentation: Instrumentation, request: Any) -> None:
    """Record that a task is not to be recorded, if its producer has recorded it without knowing that."""
    header = header_of_delivery(request)
    if "blind" in header and "created" in header and instrumentation.settings.enabled:
        event = extract.from_request(Kind.UNRECORDED, request.task.name, Context(request.request_dict), now())
        del event["run"]
        instrumentation.record(event)


def record_waiting(instrumentation: Instrumentation) -> None:
    """Record as received the deliveries that have waited for `WAITING`, for a free child or for their ETA. A start says
    when its message was received, so most deliveries need no event of their own."""
    at = now()
    instrumentation.check_at = at + WAITING
    before = at - WAITING
    waiting = instrumentation.waiting
    while waiting and waiting[0][0] < before:
        try:
            received, reference = waiting.popleft()
        except IndexError:  # another thread was faster
            return
        request = reference()
        if request is None:  # the worker is done with it
            continue
        if still_waits(request):
            _record_received(instrumentation, request, received)


@guard
def _record_received(instrumentation: Instrumentation, request: Any, at: int, *, is_unsigned: bool = False) -> None:
    if has_own_strategy(request.task):
        return  # nobody may say what becomes of it
    context = Context(request.request_dict, args=request.args, kwargs=request.kwargs)
    check(instrumentation, context)
    event = extract.from_request(Kind.RECEIVED, request.task.name, context, at)
    event["holder"] = instrumentation.journal.source
    if "created" not in event or "blind" in header_of(context):  # its producer has not told what was requested
        extract.add_requested(event, instrumentation, request.task.name, context)
    instrumentation.record(unsigned(event) if is_unsigned else event)


@guard
def on_revoked(sender: Any, request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
    if (instrumentation := instrumentation_of_task(sender)) is None:
        return
    check(instrumentation, request)
    end = cast("Event", {"ran": bool(terminated)})
    extract.add_requested(end, instrumentation, sender.name, request)
    if expired:
        reason = "expired"
    elif terminated:
        end["outcome"], reason = "terminated", f"terminated by {_signal_name(signum)}"
    else:
        reason = "revoked"
    extract.add_error(end, instrumentation.encoder, TaskRevokedError(reason))
    record_end(instrumentation, Kind.REVOKED, sender, request, end, inferred=True)


@guard
def on_unknown(sender: Any, message: Any, name: str, **_: Any) -> None:
    _record_message(Kind.FAILED, sender.app, message, NotRegistered(name))


@guard
def on_rejected(sender: Any, message: Any, exc: Any, **_: Any) -> None:
    _record_message(Kind.REJECTED, sender.app, message, exc or ValueError("not a task message"))


def _record_message(kind: Kind, app: Celery, message: Any, exc: Exception) -> None:
    """Record the end of a task whose message the worker could not make a task from."""
    if (instrumentation := instrumentation_of(app)) is None or (request := request_of(message)) is None:
        return
    if not instrumentation.records(request.task):
        return
    is_unsigned = check(instrumentation, request)
    event = extract.from_request(kind, request.task, request, now())
    event["run"] = new_token(event["at"])  # the header of a message that no worker ran may have another task's token
    event["inferred"] = True
    extract.add_requested(event, instrumentation, request.task, request)
    extract.add_error(event, encoder_of(instrumentation, request.task, request), exc)
    instrumentation.record(unsigned(event) if is_unsigned else event)
    for unsent in step_events.unsent(instrumentation, event, believed(instrumentation, request, steps_of(request))):
        instrumentation.record(unsent)


@guard
def on_worker_init(sender: Any, **_: Any) -> None:
    if instrumentation_of(sender.app) is not None:
        become_worker()
        hook_stored_results(_on_success_stored)


@guard
def _on_success_stored(request: Any, stored: Mapping[str, Any]) -> None:
    task = request.task
    if (instrumentation := instrumentation_of_task(task)) is None or (context := context_of(request)) is None:
        return
    end = cast("Event", {})
    # It is by this machine's clock; without a zone it is in UTC (celery/backends/database).
    at = read_microseconds(stored.get("date_done"))
    if shares_id(request) or _is_earlier(at, started_at(request)):
        at = None  # result backends know tasks by their ids alone: the result is perhaps another customer's
    elif (result := stored.get("result")) is not None and instrumentation.policies[task.name].result:
        end["result"] = encoder_of(instrumentation, task.name, context).value(result)
    record_end(instrumentation, Kind.SUCCEEDED, task, context, end, inferred=True, at=at)


def _is_earlier(at: int | None, start: float | None) -> bool:
    """Whether a result that was stored at ``at``, perhaps in whole seconds, is older than an attempt that started at
    ``start``, seconds since the epoch."""
    if at is None or start is None:
        return False
    return at + (999_999 if at % 1_000_000 == 0 else 0) < int(start * 1_000_000)


@guard
def on_worker_ready(sender: Any, **_: Any) -> None:
    instrumentation = instrumentation_of(sender.app)
    if instrumentation is None:
        return
    instrumentation.before_work = partial(record_waiting, instrumentation)
    instrumentation.start()
    hook_decode_errors(sender, partial(guard(_record_message), Kind.REJECTED, sender.app))
    log_missing(sender.app)  # now that the worker's log is set up
    if has_own_tracer(sender.pool):
        follow_coroutines()


def _signal_name(signum: Any) -> str:
    try:
        return signal.Signals(int(signum)).name
    except (TypeError, ValueError):
        return str(signum)
