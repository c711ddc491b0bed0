"""What only a worker's main process sees: deliveries, revocations, and messages that no task can be made of."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.exceptions import NotRegistered, TaskRevokedError

from celery_asynctask import facts, process
from celery_asynctask.errors import guard
from celery_asynctask.events import Kind, now
from celery_asynctask.hooks.hand import take
from celery_asynctask.hooks.run import ended, record_end
from celery_asynctask.recording import recording_of, recording_of_task

if TYPE_CHECKING:
    from celery import Celery


@guard
def on_received(request: Any, **_: Any) -> None:
    task = request.task
    if (recording := recording_of_task(task)) is None:
        return
    at = now()
    facts.mark_delivery(request, at)
    take(request)
    context = Context(request.request_dict)
    event = facts.from_request(Kind.RECEIVED, task.name, context, at)
    if "created" not in event:  # its producer is not recorded
        facts.add_asked(event, recording, context, request.args, request.kwargs)
    recording.record(event)


@guard
def on_revoked(sender: Any, request: Any, terminated: bool, signum: Any, expired: bool, **_: Any) -> None:
    if (recording := recording_of_task(sender)) is None:
        return
    event = ended(Kind.REVOKED, sender, request, inferred=True)
    event["ran"] = bool(terminated)
    facts.add_asked(event, recording, request, request.args, request.kwargs)
    if expired:
        event["outcome"] = "expired"
        facts.add_error(event, recording, TaskRevokedError("expired"))
    elif terminated:
        event["outcome"] = "terminated"
        facts.add_error(event, recording, TaskRevokedError(f"terminated by {_signal_name(signum)}"))
    else:
        facts.add_error(event, recording, TaskRevokedError("revoked"))
    record_end(recording, event, request)


@guard
def on_unknown(sender: Any, message: Any, name: str, **_: Any) -> None:
    _record_message(Kind.FAILED, sender.app, message, NotRegistered(name))


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
    facts.add_error(event, recording, exc)
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


def _signal_name(signum: Any) -> str:
    try:
        return signal.Signals(int(signum)).name
    except (TypeError, ValueError):
        return str(signum)
