"""The signal receivers, and installing them on an app.

Each receiver makes an event of what it is told and hands it over. None may raise: Celery logs what a receiver
raises, but our own words (`errors.report`) name the task and count.
"""

from __future__ import annotations

import signal
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals
from celery._state import get_current_task
from celery.app.task import Context
from celery.exceptions import NotRegistered as TaskNotRegistered
from celery.exceptions import Reject, Retry, TaskRevokedError, WorkerShutdown

from celery_asynctask import facts, payload, process, publisher
from celery_asynctask.errors import guard
from celery_asynctask.events import Event, Kind, now
from celery_asynctask.recording import Recording
from celery_asynctask.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

_ATTRIBUTE = "asynctask_recording"

_installed: weakref.WeakSet[Celery] = weakref.WeakSet()
_live: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""The worker's Request of every task this main process has in hand: some signals about a run (a hard time limit,
Celery 5.7, celery/worker/request.py on_timeout) come without it."""

_eager: dict[tuple[str, int], Any] = {}
"""Our headers of the latest eager runs by task id and retries: `on_internal_error` gets the request as it came, without
the token that the run was given."""
_EAGER_KEPT = 256


def install(app: Celery, *, whole_app: bool = True) -> None:
    """Record what ``app`` publishes and runs: all of it, or only tasks whose class says so (`RecordedTask`).

    May be called again; ``whole_app`` then only widens. Raises `SettingsError` when the app is configured already
    and a setting is wrong; else a worker refuses to start with it.
    """
    recording = recording_of(app)
    if recording is not None:
        recording.widen(whole_app)
        return
    if app.configured:
        Settings.from_app(app)
    recording = Recording(app, whole_app)
    setattr(app, _ATTRIBUTE, recording)
    publisher.wrap(app, recording)
    if not _installed:
        for signal_, receiver in _RECEIVERS.items():
            signal_.connect(receiver, weak=False, dispatch_uid=f"celery_asynctask.{receiver.__name__}")
    _installed.add(app)


def uninstall(app: Celery) -> None:
    """Undo `install`: store what was recorded, and leave the app as it was."""
    recording = recording_of(app)
    if recording is None:
        return
    recording.close()
    publisher.unwrap(app)
    delattr(app, _ATTRIBUTE)
    _installed.discard(app)
    if not _installed:
        for signal_, receiver in _RECEIVERS.items():
            signal_.disconnect(dispatch_uid=f"celery_asynctask.{receiver.__name__}")


def recording_of(app: Celery) -> Recording | None:
    """What is installed on ``app``."""
    recording: Recording | None = app.__dict__.get(_ATTRIBUTE)
    return recording


def _of_task(task: Any) -> Recording | None:
    """The recording of a task, None when it is not recorded."""
    recording = recording_of(task.app)
    return recording if recording is not None and recording.chooses(task.name) else None


# -- in the process that runs the body ---------------------------------------


@guard
def on_prerun(sender: Any, args: Any, kwargs: Any, **_: Any) -> None:
    if (recording := _of_task(sender)) is None:
        return
    request = sender.request
    event = facts.from_request(Kind.STARTED, sender.name, request, now())
    facts.add_asked(event, recording, request, args, kwargs)
    facts.add_run(event, request)
    recording.record(event)
    if request.is_eager:
        _eager[request.id, request.retries] = facts.header_of(request)
        if len(_eager) > _EAGER_KEPT:
            del _eager[next(iter(_eager))]
    if "created" not in event and not request.retries:  # its producer is not recorded: nobody has said what follows
        for one in facts.planned(recording, event, facts.steps_of(request)):
            recording.record(one)


@guard
def on_success(sender: Any, result: Any, **_: Any) -> None:
    if (recording := _of_task(sender)) is None:
        return
    event = _ended(Kind.SUCCEEDED, sender, sender.request)
    if recording.keeps(sender.name, "result"):
        event["result"] = payload.to_json(result)
    recording.record(event)


@guard
def on_failure(sender: Any, task_id: str, exception: Any, einfo: Any = None, **_: Any) -> None:
    """Sent by the process that ran the body, or by the worker's main process for a child that cannot (killed, over
    its hard time limit). For a Reject the main process says it once more: the run has said it itself."""
    if (recording := _of_task(sender)) is None:
        return
    inferred = get_current_task() is None
    if inferred and isinstance(exception, Reject):
        return
    request = sender.request
    if request.id != task_id and (request := _request_in_hand(task_id)) is None:
        return
    event = _ended(Kind.FAILED, sender, request, inferred=inferred)
    facts.add_error(event, exception, getattr(einfo, "traceback", None))
    _record_end(recording, event, request)


@guard
def on_retry(sender: Any, request: Any, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    """With a reason: the run asked for another. Without: the worker cancelled it while shutting down or after losing
    its connection; there is no retry, and with its message acknowledged nobody will run it again (Celery 5.7 calls
    this RETRY all the same: celery/worker/request.py _announce_cancelled)."""
    if (recording := _of_task(sender)) is None:
        return
    if isinstance(reason, Retry):
        recording.record(_retried(sender, request, reason, einfo))
        return
    live = _live.get(request.id)
    if live is not None and not live.acknowledged:
        event = _ended(Kind.RETRIED, sender, request, inferred=True)
        event["again"], event["outcome"] = True, "requeued"
        recording.record(event)
        return
    event = _ended(Kind.LOST, sender, request, inferred=True)
    cause = "The worker was shut down before the task finished; its message was acknowledged, so it will not run again."
    facts.add_error(event, WorkerShutdown(cause))
    _record_end(recording, event, request)


@guard
def on_postrun(sender: Any, retval: Any, state: Any, **_: Any) -> None:
    """The only word of a run that ended by Ignore or Reject; the other states have been told before."""
    if state not in ("IGNORED", "REJECTED") or (recording := _of_task(sender)) is None:
        return
    request = sender.request
    if state == "IGNORED":
        event = _ended(Kind.IGNORED, sender, request)
        if request.__dict__.get("asynctask_replaced"):
            event["again"], event["outcome"] = True, "replaced"
        recording.record(event)
        return
    event = _ended(Kind.REJECTED, sender, request)
    if getattr(retval, "requeue", False) and sender.acks_late:  # an early acknowledged message cannot be rejected
        event["again"], event["outcome"] = True, "requeued"
    reason = getattr(retval, "reason", None)
    facts.add_error(event, retval)
    event["error_message"] = payload.reason_text(reason)
    if event.get("again"):
        recording.record(event)
    else:
        _record_end(recording, event, request)


@guard
def on_internal_error(
    sender: Any, task_id: str, request: Any, exception: Any, kwargs: Any, einfo: Any, **_: Any
) -> None:
    """Celery's tracer failed around the body: arguments or a result that it could not deliver fail the task."""
    if (recording := _of_task(sender)) is None:
        return
    context = Context({"id": task_id, **(request or {})})
    if context.is_eager:
        setattr(context, facts.HEADER, _eager.get((task_id, context.retries), {}))
    if isinstance(exception, Retry):  # with task_eager_propagates the tracer passes it on instead of handling it
        recording.record(_retried(sender, context, exception, einfo))
        return
    event = _ended(Kind.FAILED, sender, context)
    event["internal"] = True
    event["ran"] = payload.is_mapping(kwargs)
    facts.add_error(event, exception, getattr(einfo, "traceback", None))
    _record_end(recording, event, context)


# -- in a worker's main process ----------------------------------------------


@guard
def on_received(request: Any, **_: Any) -> None:
    task = request.task
    if (recording := _of_task(task)) is None:
        return
    at = now()
    facts.mark_delivery(request, at)
    _live[request.id] = request
    context = Context(request.request_dict)
    event = facts.from_request(Kind.RECEIVED, task.name, context, at)
    if "created" not in event:  # its producer is not recorded
        facts.add_asked(event, recording, context, request.args, request.kwargs)
    recording.record(event)


@guard
def on_revoked(sender: Any, request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
    if (recording := _of_task(sender)) is None:
        return
    event = _ended(Kind.REVOKED, sender, request, inferred=True)
    event["ran"] = bool(terminated)
    facts.add_asked(event, recording, request, request.args, request.kwargs)
    if expired:
        event["outcome"] = "expired"
        facts.add_error(event, TaskRevokedError("expired"))
    elif terminated:
        event["outcome"] = "terminated"
        facts.add_error(event, TaskRevokedError(f"terminated by {_signal_name(signum)}"))
    else:
        facts.add_error(event, TaskRevokedError("revoked"))
    _record_end(recording, event, request)


@guard
def on_unknown(sender: Any, message: Any, name: str, **_: Any) -> None:
    _record_message(Kind.FAILED, sender.app, message, TaskNotRegistered(name))


@guard
def on_rejected(sender: Any, message: Any, exc: Any, **_: Any) -> None:
    _record_message(Kind.REJECTED, sender.app, message, exc or ValueError("not a task message"))


def _record_message(kind: Kind, app: Celery, message: Any, exc: Exception) -> None:
    """A message that the worker could make no task of."""
    recording = recording_of(app)
    event = facts.from_message(kind, recording, message, now()) if recording is not None else None
    if recording is None or event is None or not recording.chooses(event["name"]):
        return
    event["inferred"] = True
    facts.add_error(event, exc)
    recording.record(event)
    _, _, _, embed = facts.open_message(message.headers, _readable(message))
    request = Context({**embed, "id": event["id"]})
    for one in facts.unsent(recording, event, facts.steps_of(request)):
        recording.record(one)


def _readable(message: Any) -> Any:
    try:
        return message.payload
    except Exception:  # noqa: BLE001 - whatever the decoder raises: it cannot be read
        return None


@guard
def on_worker_init(sender: Any, **_: Any) -> None:
    if recording_of(sender.app) is not None:
        process.become_worker()


@guard
def on_worker_ready(sender: Any, **_: Any) -> None:
    recording = recording_of(sender.app)
    if recording is None:
        return
    recording.start()
    decode_error = sender.on_decode_error

    def on_decode_error(message: Any, exc: Exception) -> Any:
        """Celery sends no signal for a body that it cannot decode: it logs and acknowledges."""
        guard(_record_message)(Kind.REJECTED, sender.app, message, exc)
        return decode_error(message, exc)

    sender.on_decode_error = on_decode_error


def on_import_modules(sender: Any, **_: Any) -> None:
    """Refuse to start a worker with a wrong setting: what this raises, Celery's loader raises."""
    if recording_of(sender) is not None:
        Settings.from_app(sender)


# -- in all of them -----------------------------------------------------------


def _ended(kind: Kind, task: Any, request: Any, *, inferred: bool = False) -> Event:
    event = facts.from_request(kind, task.name, request, now())
    event["ran"] = True
    if inferred:
        event["inferred"] = True
    return event


def _retried(task: Any, request: Any, reason: Retry, einfo: Any) -> Event:
    event = _ended(Kind.RETRIED, task, request, inferred=get_current_task() is None)
    facts.add_error(event, reason.exc, getattr(einfo, "traceback", None))
    return event


def _record_end(recording: Recording, event: Event, request: Any) -> None:
    """Record an end without success, and that what was to follow will not be sent."""
    recording.record(event)
    steps = facts.steps_of(request)
    if steps:
        cause: Event = {**event, "root": request.root_id}
        for one in facts.unsent(recording, cause, steps):
            recording.record(one)


def _request_in_hand(task_id: str) -> Any:
    live = _live.get(task_id)
    return live._context if live is not None else None


def _signal_name(signum: Any) -> str:
    try:
        return signal.Signals(int(signum)).name
    except (TypeError, ValueError):
        return str(signum)


_RECEIVERS: dict[Any, Callable[..., None]] = {
    signals.task_prerun: on_prerun,
    signals.task_success: on_success,
    signals.task_failure: on_failure,
    signals.task_retry: on_retry,
    signals.task_postrun: on_postrun,
    signals.task_internal_error: on_internal_error,
    signals.task_received: on_received,
    signals.task_revoked: on_revoked,
    signals.task_unknown: on_unknown,
    signals.task_rejected: on_rejected,
    signals.worker_init: on_worker_init,
    signals.worker_ready: on_worker_ready,
    signals.import_modules: on_import_modules,
}
