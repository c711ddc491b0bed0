"""What happens to a run: told by the process that runs the body, or by its worker's main process in its place."""

from __future__ import annotations

from typing import Any

from celery._state import _task_stack, get_current_task
from celery.app.task import Context
from celery.exceptions import Reject, Retry, WorkerShutdown

from celery_asynctask import facts, payload, provenance, publisher, tracing
from celery_asynctask.errors import guard
from celery_asynctask.events import Event, Kind, now
from celery_asynctask.hooks.hand import in_hand
from celery_asynctask.lifecycle import run_key
from celery_asynctask.note import content_of
from celery_asynctask.recording import Recording, recording_of, recording_of_task

_eager: dict[tuple[str, int], Any] = {}
"""Our headers of the latest eager runs by task id and retries: `on_internal_error` gets the request as it came, without
the token that the run was given."""
_EAGER_KEPT = 256


@guard
def on_task_init(task: Any) -> None:
    """Called by Celery's loader after every receiver of task_prerun and right before the body: whoever makes spans has
    made this run's by now, whatever the order in which we were connected."""
    recording = recording_of(task.app)
    if recording is None or not recording.settings.enabled:
        return
    request = task.request
    if (token := tracing.attach(request)) is not None:
        request.__dict__["asynctask_attached"] = token
    if not recording.chooses(task.name):
        return
    if request.is_eager:
        _inherit(recording, request)
    event = facts.from_request(Kind.STARTED, task.name, request, now())
    facts.add_asked(event, recording, request, request.args, request.kwargs)
    facts.add_run(event, request)
    tracing.describe(request.id, request.root_id, request.parent_id, run_key(event))
    recording.record(event)
    if request.is_eager:
        _eager[request.id, request.retries] = facts.header_of(request)
        if len(_eager) > _EAGER_KEPT:
            del _eager[next(iter(_eager))]
    if "created" not in event and not request.retries:  # its producer is not recorded: nobody has said what follows
        for one in facts.planned(recording, event, facts.steps_of(request)):
            recording.record(one)


def _inherit(recording: Recording, request: Any) -> None:
    """Give an eager run, which comes without a message, the context that its message would have had."""
    stack = _task_stack.stack
    outer = stack[-2].request if len(stack) > 1 else None
    fields = publisher.fields(recording, outer, facts.header_of(request), {"retries": request.retries})
    setattr(request, facts.HEADER, {**facts.header_of(request), **provenance.to_header(fields, recording.encoder)})


@guard
def on_success(sender: Any, result: Any, **_: Any) -> None:
    if (recording := recording_of_task(sender)) is None:
        return
    event = ended(Kind.SUCCEEDED, sender, sender.request)
    if recording.keeps(sender.name, "result"):
        event["result"] = recording.encoder.value(result)
    recording.record(event)


@guard
def on_failure(sender: Any, task_id: str, exception: Any, einfo: Any = None, **_: Any) -> None:
    """Sent by the process that ran the body, or by the worker's main process for a child that cannot (killed, over
    its hard time limit). For a Reject the main process says it once more: the run has said it itself."""
    if (recording := recording_of_task(sender)) is None:
        return
    inferred = get_current_task() is None
    if inferred and isinstance(exception, Reject):
        return
    request = sender.request
    if request.id != task_id and (request := _context_in_hand(task_id)) is None:
        return
    event = ended(Kind.FAILED, sender, request, inferred=inferred)
    facts.add_error(event, recording, exception, getattr(einfo, "traceback", None))
    record_end(recording, event, request)


@guard
def on_retry(sender: Any, request: Any, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    """With a reason: the run asked for another. Without: the worker cancelled it while shutting down or after losing
    its connection; there is no retry, and with its message acknowledged nobody will run it again (Celery 5.7 calls
    this RETRY all the same: celery/worker/request.py _announce_cancelled)."""
    if (recording := recording_of_task(sender)) is None:
        return
    if isinstance(reason, Retry):
        recording.record(_retried(recording, sender, request, reason, einfo))
        return
    live = in_hand(request.id)
    if live is not None and not live.acknowledged:
        event = ended(Kind.RETRIED, sender, request, inferred=True)
        event["again"], event["outcome"] = True, "requeued"
        recording.record(event)
        return
    event = ended(Kind.LOST, sender, request, inferred=True)
    cause = "The worker was shut down before the task finished; its message was acknowledged, so it will not run again."
    facts.add_error(event, recording, WorkerShutdown(cause))
    record_end(recording, event, request)


@guard
def on_postrun(sender: Any, retval: Any, state: Any, **_: Any) -> None:
    """The only word of a run that ended by Ignore or Reject; the other states have been told before."""
    request = sender.request
    if (token := request.__dict__.pop("asynctask_attached", None)) is not None:
        tracing.detach(token)
    if state not in ("IGNORED", "REJECTED") or (recording := recording_of_task(sender)) is None:
        return
    if state == "IGNORED":
        event = ended(Kind.IGNORED, sender, request)
        if request.__dict__.get("asynctask_replaced"):
            event["again"], event["outcome"] = True, "replaced"
        recording.record(event)
        return
    event = ended(Kind.REJECTED, sender, request)
    if getattr(retval, "requeue", False) and sender.acks_late:  # an early acknowledged message cannot be rejected
        event["again"], event["outcome"] = True, "requeued"
    reason = getattr(retval, "reason", None)
    facts.add_error(event, recording, retval)
    event["error_message"] = payload.reason_text(reason, recording.encoder)
    if event.get("again"):
        recording.record(event)
    else:
        record_end(recording, event, request)


@guard
def on_internal_error(
    sender: Any, task_id: str, request: Any, exception: Any, kwargs: Any, einfo: Any, **_: Any
) -> None:
    """Celery's tracer failed around the body: arguments or a result that it could not deliver fail the task."""
    if (recording := recording_of_task(sender)) is None:
        return
    context = Context({"id": task_id, **(request or {})})
    if context.is_eager:
        setattr(context, facts.HEADER, _eager.get((task_id, context.retries), {}))
    if isinstance(exception, Retry):  # with task_eager_propagates the tracer passes it on instead of handling it
        recording.record(_retried(recording, sender, context, exception, einfo))
        return
    event = ended(Kind.FAILED, sender, context)
    event["internal"] = True
    event["ran"] = payload.is_mapping(kwargs)
    facts.add_error(event, recording, exception, getattr(einfo, "traceback", None))
    record_end(recording, event, context)


def ended(kind: Kind, task: Any, request: Any, *, inferred: bool = False) -> Event:
    event = facts.from_request(kind, task.name, request, now())
    event["ran"] = True
    if inferred:
        event["inferred"] = True
    elif (content := content_of(request)) is not None:
        event["content"], event["noted"] = content, True
    return event


def _retried(recording: Recording, task: Any, request: Any, reason: Retry, einfo: Any) -> Event:
    event = ended(Kind.RETRIED, task, request, inferred=get_current_task() is None)
    facts.add_error(event, recording, reason.exc, getattr(einfo, "traceback", None))
    return event


def record_end(recording: Recording, event: Event, request: Any) -> None:
    """Record an end without success, and that what was to follow will not be sent."""
    recording.record(event)
    steps = facts.steps_of(request)
    if steps:
        header = facts.header_of(request)
        cause: Event = {**event, "root": facts.lineage(header, request.root_id, None)[0]}
        facts.add_context(cause, recording, header)
        for one in facts.unsent(recording, cause, steps):
            recording.record(one)


def _context_in_hand(task_id: str) -> Any:
    live = in_hand(task_id)
    return live._context if live is not None else None
