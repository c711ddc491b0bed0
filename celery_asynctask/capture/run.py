"""Records attempts: in the process that runs the body, or in its worker's main process on behalf of a dead child.

The start comes from the app's loader: Celery calls its ``on_task_init`` after all receivers of task_prerun, in every
pool, for tasks of any class (celery/app/trace.py), so the span that is current then is the one that the body sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery.app.task import Context
from celery.exceptions import Reject, Retry, WorkerShutdown

from celery_asynctask.capture import context, extract, payload, publish, tracing
from celery_asynctask.capture.attempt import SECRETS, START, encoder_of
from celery_asynctask.capture.celery_private import (
    ON_TASK_INIT,
    build_tracers_again,
    context_of,
    get_current_task,
    is_acknowledged,
    on_task_init_of,
)
from celery_asynctask.capture.current import CONTENT, content_of
from celery_asynctask.capture.headers import HEADER, header_of, stamp, with_token
from celery_asynctask.capture.inflight import request_in_flight
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of, instrumentation_of_task
from celery_asynctask.capture.running import caller
from celery_asynctask.core.event import Event, Kind, decode, encode_end
from celery_asynctask.core.keys import attempt_key
from celery_asynctask.core.time import now
from celery_asynctask.errors import guard, report

if TYPE_CHECKING:
    from celery import Celery

_eager: dict[tuple[str, int], Any] = {}
"""Our headers of the latest eager attempts, by task id and retries: `on_internal_error` gets the original request,
without the token that we gave the attempt."""
_EAGER_KEPT = 256


_ATTACHED: Final = "asynctask_attached"
"""Attribute of an attempt's request: the token for `tracing.detach`."""


class _TaskInit:
    """Replaces a loader's ``on_task_init``, and calls it first."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, task_id: str, task: Any) -> Any:
        result = self.original(task_id, task)
        on_task_init(task_id, task)
        return result


def wrap(app: Celery) -> None:
    """Record every attempt of the app's tasks that starts from now on."""
    original = on_task_init_of(app)
    if original is not None:
        app.loader.__dict__[ON_TASK_INIT] = _TaskInit(original)
        build_tracers_again(app)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    if isinstance(app.loader.__dict__.get(ON_TASK_INIT), _TaskInit):
        del app.loader.__dict__[ON_TASK_INIT]
        build_tracers_again(app)


def on_task_init(task_id: str, task: Any) -> None:
    """Record the start of an attempt. Celery's loader calls this after every receiver of task_prerun and right before
    the body: an instrumentation that makes a span for the attempt has made it by now, in whatever order the receivers
    were connected.

    The loader may be another app's: a task belongs to the app that it was registered with last (Celery.register_task),
    which is where its end is recorded, and a worker of any app that it was registered with runs it. A loader that two
    apps share calls this twice.
    """
    try:
        instrumentation = instrumentation_of(task.app)
        if instrumentation is None or not instrumentation.settings.enabled:
            return
        name, request = task.name, task.request
        known = request.__dict__
        # The loader has called before, or somebody has called a tracer directly, for an attempt without an id.
        if START in known or known.get("id") is None:
            return
        ids, attached = tracing.attach(request)
        if attached is not None:
            known[_ATTACHED] = attached
        policy = instrumentation.policies[name]
        if not policy.recorded:
            return
        if request.is_eager:
            _inherit(instrumentation, request)
        at = time_ns() // 1000
        start = known[START] = extract.start(instrumentation, policy, name, request, at, ids)
        instrumentation.write(start)
        if ids is not None:
            about = cast("Event", {**extract.delivery(request), **extract.execution(header_of(request))})
            tracing.describe(request.id, request.root_id, request.parent_id, attempt_key(about))
        if request.chain or request.chord or request.callbacks:
            _plan(instrumentation, request, start)
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - as `guard` does, whose own call would cost every task
        report("on_task_init", task_id, exc)


def _plan(instrumentation: Instrumentation, request: Any, start: bytes) -> None:
    """Record the steps behind the task, if its producer has not done so, or did not know what it said."""
    header = header_of(request)
    if request.retries or ("created" in header and "blind" not in header and not request.is_eager):
        return
    event, steps = decode(start), extract.steps_of(request)
    for planned in extract.planned(instrumentation, event, steps):
        instrumentation.record(planned)
    if "blind" in header:
        for unrecorded in extract.unrecorded(instrumentation, event, steps):
            instrumentation.record(unrecorded)


def _inherit(instrumentation: Instrumentation, request: Any) -> None:
    """Give an eager attempt, which has no message, the header that its message would have had. What `apply` was given
    as headers may be another task's."""
    outer = (caller(request) or (None, None))[1]
    given = header_of(request)
    again = bool(request.retries or request.replaced_task_nesting)
    before = given if again and given else None
    if before is None and again and outer is not None and outer.id == request.id:
        before = header_of(outer)
    at = now()
    fields = publish.fields(instrumentation, request.id, outer, given, before)
    header = stamp(request.id, at if before is None else before.get("created"), at)
    del header["sent"]
    header |= context.to_header(fields, instrumentation.encoder)
    setattr(request, HEADER, header)
    _keep(request, with_token(request, header, at))


def _keep(request: Any, header: dict[str, Any]) -> None:
    """Keep the header of an eager attempt, and at least the latest `_EAGER_KEPT`; other threads may do so meanwhile."""
    key = request.id, request.retries
    _eager.pop(key, None)  # so that it becomes the latest
    _eager[key] = header
    if len(_eager) >= 2 * _EAGER_KEPT:
        for old in list(_eager)[:-_EAGER_KEPT]:
            _eager.pop(old, None)


@guard
def on_failure(sender: Any, task_id: str, exception: Any, einfo: Any = None, **_: Any) -> None:
    """Record a failure. The process that ran the body sends the signal, or the worker's main process for a child that
    cannot (killed, over its hard time limit). For a Reject, the main process sends it although the child has recorded
    that end itself."""
    if (instrumentation := instrumentation_of_task(sender)) is None:
        return
    inferred = get_current_task() is None
    if inferred and isinstance(exception, Reject):
        return
    request = sender.request
    if request.id != task_id and (request := context_of(request_in_flight(task_id))) is None:
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
        _record_retry(instrumentation, sender, request, reason, einfo)
        return
    live = request_in_flight(request.id)
    if live is not None and not is_acknowledged(live):
        end = cast("Event", {"again": True, "outcome": "requeued"})
        record_end(instrumentation, Kind.RETRIED, sender, request, end, inferred=True)
        return
    end = cast("Event", {})
    cause = "The worker was shut down before the task finished; its message was acknowledged, so it will not run again."
    extract.add_error(end, instrumentation.encoder, WorkerShutdown(cause))
    record_end(instrumentation, Kind.LOST, sender, request, end, inferred=True)


def on_postrun(sender: Any, task_id: str, retval: Any, state: Any, **_: Any) -> None:
    """Record all ends that have not been recorded before, as failures and retries have, in the process that ran the
    body. Successes are recorded here and not at task_success: each signal that Celery sends costs the task as much as
    our own work."""
    try:
        request = sender.request
        known = request.__dict__
        if _ATTACHED in known:
            tracing.detach(known.pop(_ATTACHED))
        instrumentation = instrumentation_of(sender.app)
        if instrumentation is None or not (policy := instrumentation.policies[sender.name]).recorded:
            return
        if known.get("id") is None:
            return
        if state == "SUCCESS":
            end: Event = {}  # type: ignore[typeddict-item]
            if retval is not None and policy.result:
                encoder = instrumentation.encoder
                if SECRETS in known:
                    encoder = encoder_of(instrumentation, sender.name, request)
                end["result"] = encoder.value(retval)
            record_end(instrumentation, Kind.SUCCEEDED, sender, request, end)
        elif state in ("IGNORED", "REJECTED"):
            _end_without_result(instrumentation, sender, request, retval, state)
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001 - as `guard` does, whose own call would cost every task
        report("on_postrun", task_id, exc)


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
        setattr(context, HEADER, _eager.get((task_id, context.retries), {}))
    if isinstance(exception, Retry):  # with task_eager_propagates, the tracer passes it on instead of handling it
        _record_retry(instrumentation, sender, context, exception, einfo)
        return
    end = cast("Event", {"ran": isinstance(kwargs, Mapping), "internal": True})
    encoder = encoder_of(instrumentation, sender.name, context)
    extract.add_error(end, encoder, exception, getattr(einfo, "traceback", None))
    record_end(instrumentation, Kind.FAILED, sender, context, end)


def _record_retry(instrumentation: Instrumentation, task: Any, request: Any, reason: Retry, einfo: Any) -> None:
    end = cast("Event", {})
    encoder = encoder_of(instrumentation, task.name, request)
    extract.add_error(end, encoder, reason.exc, getattr(einfo, "traceback", None))
    record_end(instrumentation, Kind.RETRIED, task, request, end, inferred=get_current_task() is None)


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
    if inferred:
        end["inferred"] = True
    elif CONTENT in known and (content := content_of(request)) is not None:
        end["noted"] = content
    start = None if inferred else known.get(START)
    if start is not None:
        instrumentation.write(encode_end(start, kind, at, end))
    else:
        instrumentation.record({**extract.from_request(kind, task.name, request, at), "ran": True, **end})
    if kind in _WITH_STEPS and not end.get("again") and (steps := extract.steps_of(request)):
        header = header_of(request)
        cause: Event = {**extract.from_request(kind, task.name, request, at), **end}
        cause["root"] = extract.lineage(header, request.root_id, None)[0]
        extract.add_context(cause, instrumentation, header)
        for unsent in extract.unsent(instrumentation, cause, steps):
            instrumentation.record(unsent)
