"""Records the ends of attempts: in the process that runs the body, or in its worker's main process on behalf of a dead
child. `start` records how they begin."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from time import time_ns
from typing import Any, Final, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown, WorkerTerminate

from celery_asynctask.capture import extract, payload, publish, step_events
from celery_asynctask.capture.attempt import SECRETS, SLOT, START, encoder_of
from celery_asynctask.capture.celery_private import (
    context_of,
    get_current_task,
    is_acknowledged,
    is_pool_child,
    is_stopping,
)
from celery_asynctask.capture.current import CONTENT, content_of
from celery_asynctask.capture.extract import OVER_ITEMS
from celery_asynctask.capture.headers import HEADER, header_of
from celery_asynctask.capture.inflight import in_flight, in_flight_of
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of, instrumentation_of_task
from celery_asynctask.capture.signing import believed, check
from celery_asynctask.capture.start import UNDO, eager_header, finish, hand_on, request_of
from celery_asynctask.core.event import Event, Kind, encode_end
from celery_asynctask.core.limits import MAX_MESSAGE
from celery_asynctask.errors import guard, report


@guard
def on_failure(sender: Any, task_id: str, exception: Any, einfo: Any = None, kwargs: Any = None, **_: Any) -> None:
    """Record a failure. The process that ran the body sends the signal, or the worker's main process for a child that
    cannot (killed, over its hard time limit). For a Reject, the main process sends it although the child has recorded
    that end itself."""
    if (instrumentation := instrumentation_of_task(sender)) is None:
        return
    inferred = get_current_task() is None
    if inferred and isinstance(exception, Reject):
        return
    request = sender.request
    if request.id != task_id:
        # A Request sends its own arguments, not copies of them.
        request = request_of(task_id) or context_of(in_flight(task_id, lambda live: live.kwargs is kwargs))
    if request is None:
        return
    end = cast("Event", {})
    encoder = encoder_of(instrumentation, sender.name, request)
    extract.add_error(end, encoder, exception, getattr(einfo, "traceback", None))
    record_end(instrumentation, Kind.FAILED, sender, request, end, inferred=inferred)


@guard
def on_retry(sender: Any, request: Any, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    """Record a retry, requeue or loss. With a reason, the attempt requested a retry. Without, the worker canceled it
    while shutting down or after losing its connection: there is no retry, and if its message is acknowledged, no worker
    will run it again (Celery 5.7 still calls this RETRY: celery/worker/request.py _announce_cancelled)."""
    if (instrumentation := instrumentation_of_task(sender)) is None:
        return
    if isinstance(reason, Retry):
        _record_retry(instrumentation, sender, request, reason, einfo, inferred=get_current_task() is None)
        return
    live = in_flight_of(request)
    _record_stop(instrumentation, sender, request, is_lost=live is None or is_acknowledged(live))


def on_postrun(sender: Any, task_id: Any, retval: Any, state: Any, **_: Any) -> None:
    """Record all ends that have not been recorded before, as failures and retries have, in the process that ran the
    body. Successes are recorded here and not at task_success: each signal that Celery sends costs the task as much as
    our own work."""
    try:
        request = sender.request
        if request is None:  # an attribute of the task's own
            return
        known = request.__dict__
        if known.get("id") != task_id:  # a tracer of coroutines, or of a task without an id
            if (request := request_of(task_id)) is None:
                return
            known = request.__dict__
        if UNDO in known:
            finish(request)
            if isinstance(retval, Retry):
                hand_on(request, retval)
        instrumentation = instrumentation_of(sender.app)
        if instrumentation is None or not (policy := instrumentation.policies[sender.name]).recorded:
            return
        if task_id is None:
            return
        if state == "SUCCESS":
            record_success(instrumentation, sender, request, retval, policy.result)
        elif state in ("IGNORED", "REJECTED"):
            _end_without_result(instrumentation, sender, request, retval, state)
        elif state is None:
            _end_without_state(instrumentation, sender, request)
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - as `guard` does, whose own call would cost every task
        report("on_postrun", task_id, exc)


def record_success(instrumentation: Instrumentation, task: Any, request: Any, result: Any, is_recorded: bool) -> None:
    """Record that an attempt succeeded, with its result if that ``is_recorded``."""
    end: Event = {}  # type: ignore[typeddict-item]
    if (
        result is not None
        and is_recorded
        and (task.name not in OVER_ITEMS or extract.records_items(instrumentation, request))
    ):
        encoder = instrumentation.encoder
        if SECRETS in request.__dict__:
            encoder = encoder_of(instrumentation, task.name, request)
        end["result"] = encoder.value(result)
    record_end(instrumentation, Kind.SUCCEEDED, task, request, end)


_STOPS: Final = (WorkerShutdown, WorkerTerminate, KeyboardInterrupt)
"""Exceptions by which a worker that stops interrupts a body in its own thread."""


def _end_without_state(instrumentation: Instrumentation, task: Any, request: Any) -> None:
    """Record the end of a body that Celery's tracer calls nothing: it raised no `Exception` but, for example,
    asyncio.CancelledError or SystemExit. Of a child's task its main process records it, and knows better; elsewhere, a
    worker says something of it only after a time limit or a revocation, and that counts more."""
    exc = sys.exc_info()[1]
    if exc is None or (isinstance(exc, Exception) and not isinstance(exc, MemoryError)):
        return  # `on_internal_error` records it
    if not request.is_eager:
        if is_pool_child():
            return
        if isinstance(exc, _STOPS) and is_stopping() and (live := in_flight_of(request)) is not None:
            _record_stop(instrumentation, task, request, is_lost=is_acknowledged(live))
            return
    record_exception(instrumentation, task, request, exc)


def record_exception(instrumentation: Instrumentation, task: Any, request: Any, exc: BaseException) -> None:
    """Record the end of an attempt that Celery's tracer says nothing of, by the exception that ended its body. A
    greenlet that was killed is lost: that is no error of its body, and Celery counts it as a success
    (concurrency/gevent.py)."""
    if isinstance(exc, Retry):
        _record_retry(instrumentation, task, request, exc, None)
        return
    if isinstance(exc, (Ignore, Reject)):
        state = "IGNORED" if isinstance(exc, Ignore) else "REJECTED"
        _end_without_result(instrumentation, task, request, exc, state)
        return
    end = cast("Event", {"inferred": True})
    encoder = encoder_of(instrumentation, task.name, request)
    extract.add_error(end, encoder, exc, "".join(traceback.format_exception(exc)))
    kind = Kind.FAILED
    if type(exc).__name__ == "GreenletExit":
        kind, end["error_message"] = Kind.LOST, "The task's greenlet was killed before the task finished."
    record_end(instrumentation, kind, task, request, end)


def _record_stop(instrumentation: Instrumentation, task: Any, request: Any, *, is_lost: bool) -> None:
    """Record that a worker that stops has interrupted an attempt. ``is_lost``: its message is acknowledged, and not
    back on the queue."""
    if not is_lost:
        end = cast("Event", {"again": True, "outcome": "requeued"})
        record_end(instrumentation, Kind.RETRIED, task, request, end, inferred=True)
        return
    end = cast("Event", {})
    cause = "The worker was shut down before the task finished; its message was acknowledged, so it will not run again."
    extract.add_error(end, encoder_of(instrumentation, task.name, request), WorkerShutdown(cause))
    record_end(instrumentation, Kind.LOST, task, request, end, inferred=True)


def _end_without_result(instrumentation: Instrumentation, task: Any, request: Any, retval: Any, state: str) -> None:
    end = cast("Event", {})
    if state == "IGNORED":
        if publish.SENT_AGAIN in request.__dict__:
            end["again"], end["outcome"] = True, "replaced"
        record_end(instrumentation, Kind.IGNORED, task, request, end)
    else:
        if getattr(retval, "requeue", False) and task.acks_late:  # a message acknowledged early cannot be rejected
            end["again"], end["outcome"] = True, "requeued"
        encoder = encoder_of(instrumentation, task.name, request)
        extract.add_error(end, encoder, retval)
        end["error_message"] = payload.reason_text(getattr(retval, "reason", None), encoder)
        record_end(instrumentation, Kind.REJECTED, task, request, end)


@guard
def on_internal_error(
    sender: Any, task_id: str, request: Any, exception: Any, args: Any, kwargs: Any, einfo: Any, **_: Any
) -> None:
    """Record that Celery's tracer failed around the body: it could not deliver arguments or a result."""
    if (instrumentation := instrumentation_of_task(sender)) is None:
        return
    context = Context({"id": task_id, **(request or {}), "args": args, "kwargs": kwargs})
    if context.is_eager:
        setattr(context, HEADER, eager_header(context))
    if isinstance(exception, Retry):  # with task_eager_propagates: the caller gets it, and no other attempt runs
        exception = exception.exc or exception
    end = cast("Event", {"ran": isinstance(kwargs, Mapping), "internal": True})
    encoder = encoder_of(instrumentation, sender.name, context)
    extract.add_error(end, encoder, exception, getattr(einfo, "traceback", None))
    record_end(instrumentation, Kind.FAILED, sender, context, end)


def _record_retry(
    instrumentation: Instrumentation, task: Any, request: Any, reason: Retry, einfo: Any, *, inferred: bool = False
) -> None:
    """Record that an attempt ended with a `Retry`. Without another attempt, that is a failure: a body may raise a
    `Retry` of its own, and a task class may keep the message from being sent (celery-singleton, where the task itself
    has the lock). A worker's main process (``inferred``) has sent it."""
    end = cast("Event", {})
    is_sent = inferred or _is_sent_again(task, request, reason)
    exc = reason.exc if is_sent or reason.exc is not None else reason
    extract.add_error(end, encoder_of(instrumentation, task.name, request), exc, getattr(einfo, "traceback", None))
    if not is_sent:
        end["error_message"] = f"The retry was not sent: {end['error_message']}"[:MAX_MESSAGE]
    kind = Kind.RETRIED if is_sent else Kind.FAILED
    record_end(instrumentation, kind, task, request, end, inferred=inferred)


def _is_sent_again(task: Any, request: Any, reason: Retry) -> bool:
    """Whether another attempt follows one that ended with this `Retry`."""
    if request.is_eager or task.app.conf.task_always_eager:
        return reason.sig is not None
    return publish.SENT_AGAIN in request.__dict__ or not publish.is_wrapped(task.app)


_WITH_STEPS = frozenset({Kind.FAILED, Kind.REVOKED, Kind.REJECTED, Kind.LOST})
"""Ends after which the steps behind the task are never sent, unless the task runs again."""


def record_end(
    instrumentation: Instrumentation,
    kind: Kind,
    task: Any,
    request: Any,
    end: Event,
    *,
    inferred: bool = False,
    at: int | None = None,
) -> None:
    """Record that the attempt of ``request`` ended, with the keys in ``end``, and that steps are never sent for it.

    ``inferred``: another process than the attempt's own records it. ``at``: in microseconds since the epoch; None: now.
    """
    if at is None:
        at = time_ns() // 1000
    known = request.__dict__
    if known.get("id") is None:  # somebody has called a tracer directly: this is no execution
        return
    if START not in known:  # whose header was settled
        check(instrumentation, request)
    if inferred:
        end["inferred"] = True
    elif CONTENT in known and (content := content_of(request)) is not None:
        end["noted"] = content
    start = None if inferred else known.get(START)
    if start is not None:
        instrumentation.write(encode_end(start, kind, at, end), known.pop(SLOT, None))
    else:
        instrumentation.record({**extract.from_request(kind, task.name, request, at), "ran": True, **end})
    if kind in _WITH_STEPS and not end.get("again") and (steps := step_events.steps_of(request)):
        header = header_of(request)
        cause: Event = {**extract.from_request(kind, task.name, request, at), **end}
        cause["root"] = extract.lineage(header, request.root_id, None)[0]
        extract.add_context(cause, instrumentation, header)
        for unsent in step_events.unsent(instrumentation, cause, believed(instrumentation, request, steps)):
            instrumentation.record(unsent)
