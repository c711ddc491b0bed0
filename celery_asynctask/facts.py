"""What Celery's messages, requests and exceptions say, read into events.

The header: every message that a recorded app sends carries ``asynctask``, a mapping with ``created`` (when the task
was first asked for) and ``sent`` (when this message was), microseconds since the epoch. A message sent by a task that
is not recorded itself (``celery.chord_unlock`` sends the bodies of chords) also has ``root``, in place of a root or
parent that would lead to no row. For whom and by whom is in it under the names that `context` gives them, also where
the task is not recorded. In a worker, the main process adds ``run``, the token of the delivery, to its own
copy, so that what it says about a run and what the child says have the same name.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Context

from celery_asynctask import payload, provenance, tracing, workflow
from celery_asynctask.events import Event, Kind, new_run

if TYPE_CHECKING:
    from celery_asynctask.recording import Recording

HEADER = "asynctask"
_MAX_NAME = 255
_OVER_ITEMS = frozenset({"celery.map", "celery.starmap"})


def header_of(request: Any) -> dict[str, Any]:
    """Our header in a request (a Context, or a worker's Request), empty where the producer is not recorded."""
    header = getattr(request, HEADER, None)
    if header is None and isinstance(headers := getattr(request, "headers", None), Mapping):
        header = headers.get(HEADER)
    return header if isinstance(header, dict) else {}


def stamp(about: Mapping[str, Any], inherited: Any, sender: Any, at: int) -> dict[str, Any]:
    """Our header for a message that is sent at ``at``, without its context.

    ``about`` are its header fields, ``inherited`` is the header it has already: a retry has its predecessor's, and
    keeps when the task was first asked for. ``sender`` is the request of an unrecorded task that sends it, or None.
    """
    header: dict[str, Any] = {"created": at, "sent": at}
    if isinstance(inherited, dict) and is_again(about):
        header.update((key, inherited[key]) for key in ("created", "root") if key in inherited)
    elif sender is not None:
        header["root"] = sender.root_id if sender.root_id != sender.id else about["id"]
    return header


def is_again(about: Mapping[str, Any]) -> bool:
    """Whether a message, by its header fields, asks once more for a task that was asked for before."""
    return bool(about.get("retries") or about.get("replaced_task_nesting"))


def mark_delivery(request: Any, at: int) -> None:
    """Give the delivery of a worker's Request its token, where the child will find it."""
    raw = request.request_dict
    raw[HEADER] = {**header_of(Context(raw)), "run": new_run(at), "delivered": True}


def from_request(kind: Kind, name: str, request: Any, at: int) -> Event:
    """An event about the delivery that ``request`` stands for. One that has no token yet gets one."""
    header = header_of(request)
    if "run" not in header:
        header = {**header, "run": new_run(at)}
        setattr(request, HEADER, header)
    event: Event = {
        "kind": kind.value,
        "id": request.id,
        "name": name[:_MAX_NAME],
        "at": at,
        "run": header["run"],
    }
    if request.retries:
        event["retries"] = request.retries
    if nesting := getattr(request, "replaced_task_nesting", 0):
        event["nesting"] = nesting
    if (request.delivery_info or {}).get("redelivered"):
        event["redelivered"] = True
    if header.get("delivered"):
        event["delivered"] = True
    if isinstance(header.get("created"), int):
        event["created"] = header["created"]
    return event


def add_asked(event: Event, recording: Recording, request: Any, args: Any, kwargs: Any) -> None:
    """Add what was asked for."""
    header = header_of(request)
    event["root"], event["parent"] = lineage(header, request.root_id, request.parent_id)
    add_context(event, recording, header)
    _add_payload(event, recording, args, kwargs)


def lineage(header: Mapping[str, Any], root: Any, parent: Any) -> tuple[str | None, str | None]:
    """Root and parent of a message, as far as they lead to rows."""
    return (_text(header["root"]), None) if "root" in header else (_text(root), _text(parent))


def add_run(event: Event, request: Any) -> None:
    """Add where and how the body runs; for a started event in the process that runs it."""
    event["pid"] = os.getpid()
    if request.hostname:
        event["worker"] = request.hostname
    if queue := (request.delivery_info or {}).get("routing_key"):
        event["queue"] = str(queue)[:_MAX_NAME]
    if isinstance(sent := header_of(request).get("sent"), int):
        event["sent"] = sent
    if (ids := tracing.current()) is not None:
        event["trace"], event["span"] = ids
    if (eta := _microseconds(request.eta)) is not None:
        event["eta"] = eta


def add_error(event: Event, recording: Recording, exc: BaseException | None, traceback: Any = None) -> None:
    """Add class name, text and traceback (text, else ignored) of an exception."""
    if (error_type := payload.error_type(exc)) is not None:
        event["error_type"] = error_type
    if (message := payload.error_message(exc, recording.encoder)) is not None:
        event["error_message"] = message
    if (text := payload.traceback_text(traceback, recording.encoder)) is not None:
        event["traceback"] = text


def published(recording: Recording, name: str, message: Any, header: dict[str, Any]) -> Event:
    """The message that was sent (a `celery.app.amqp.task_message`, protocol 1 or 2)."""
    about, args, kwargs, _ = open_message(message.headers, message.body)
    root, parent = lineage(header, about.get("root_id"), about.get("parent_id"))
    event: Event = {
        "kind": Kind.PUBLISHED.value,
        "id": about["id"],
        "name": name[:_MAX_NAME],
        "at": header["sent"],
        "created": header["created"],
        "root": root,
        "parent": parent,
    }
    if retries := about.get("retries"):
        event["retries"] = retries
    if nesting := about.get("replaced_task_nesting"):
        event["nesting"] = nesting
    trace_id = None if is_again(about) else tracing.trace_of(message.headers)
    if trace_id is not None:
        event["trace"] = trace_id
    add_context(event, recording, header)
    _add_payload(event, recording, args, kwargs)
    return event


def add_context(event: Event, recording: Recording, header: Mapping[str, Any]) -> None:
    """Add for whom and by whom, as the header has it."""
    known = provenance.sound(header)
    if isinstance(known.get("content"), str):
        known["content"] = provenance.content_of(known)
    elif "content" in known:
        known["content"] = recording.encoder.value(known["content"], "content")
    event.update(known)  # type: ignore[typeddict-item]


def planned(recording: Recording, event: Event, steps: list[workflow.Step]) -> list[Event]:
    """Events for the steps that the message behind ``event`` carries."""
    return [_step(Kind.PLANNED, recording, event, step) for step in steps if recording.chooses(step.name)]


def unsent(recording: Recording, event: Event, steps: list[workflow.Step]) -> list[Event]:
    """Events for the steps that will not be sent because of how the task of ``event`` ended."""
    found = []
    for step in steps:
        if not recording.chooses(step.name):
            continue
        one = _step(Kind.UNSENT, recording, event, step)
        if step.after_chord and step.parent is None:
            one["root"], one["parent"] = event.get("root"), event["id"]
        one["error_type"] = event.get("error_type", "Exception")
        reason = payload.text(event.get("error_message", ""), payload.MAX_MESSAGE // 2)
        one["error_message"] = (
            f"Not sent: upstream task {event['name']} [{event['id']}] ended with {reason or 'no message'}"
        )
        found.append(one)
    return found


def _step(kind: Kind, recording: Recording, event: Event, step: workflow.Step) -> Event:
    root = event.get("root")
    if step.after_chord and root == event["id"]:
        root = None
    one: Event = {
        "kind": kind.value,
        "id": step.id,
        "name": step.name[:_MAX_NAME],
        "at": event["at"],
        "created": event.get("created", event["at"]),
        "root": root,
        "parent": step.parent,
    }
    for field in (*provenance.FIELDS, "trace"):
        if field in event:
            one[field] = event[field]
    _add_payload(one, recording, step.args, step.kwargs)
    return one


def steps_of(request: Any) -> list[workflow.Step]:
    """The steps behind the task of a request."""
    if not (request.chain or request.chord or request.callbacks):
        return []
    return workflow.steps(request.id, request.chain, request.chord, request.callbacks)


def open_message(headers: Any, body: Any) -> tuple[Mapping[str, Any], Any, Any, Mapping[str, Any]]:
    """Who and what a message is about: (header fields, args, kwargs, embed), of message protocol 1 or 2.

    Raises `ValueError` when it is no task message; args, kwargs and embed are empty where the body cannot be read.
    """
    if isinstance(headers, Mapping) and isinstance(headers.get("id"), str):
        if isinstance(body, (list, tuple)) and len(body) == 3:
            args, kwargs, embed = body
            return headers, args, kwargs, embed if isinstance(embed, Mapping) else {}
        return headers, None, None, {}
    if isinstance(body, Mapping) and isinstance(body.get("id"), str):
        return body, body.get("args"), body.get("kwargs"), body
    raise ValueError("no task message")


def from_message(kind: Kind, recording: Recording, message: Any, at: int) -> Event | None:
    """An event about a message that no request was made of (a kombu Message); None when it tells no id."""
    try:
        body = message.payload
    except Exception:  # noqa: BLE001 - whatever the decoder raises: it cannot be read
        body = None
    try:
        about, args, kwargs, _ = open_message(message.headers, body)
    except ValueError:
        return None
    name = about.get("task")
    header = (message.headers or {}).get(HEADER)
    event: Event = {
        "kind": kind.value,
        "id": about["id"],
        "name": name[:_MAX_NAME] if isinstance(name, str) else "unknown",
        "at": at,
        "run": new_run(at),
        "root": _text(about.get("root_id")),
        "parent": _text(about.get("parent_id")),
        "retries": about["retries"] if isinstance(about.get("retries"), int) else 0,
        "redelivered": bool((message.delivery_info or {}).get("redelivered")),
    }
    if isinstance(header, dict):
        if isinstance(header.get("created"), int):
            event["created"] = header["created"]
        add_context(event, recording, header)
    if args is not None or kwargs is not None:
        _add_payload(event, recording, args, kwargs)
    return event


def _add_payload(event: Event, recording: Recording, args: Any, kwargs: Any) -> None:
    name = event["name"]
    if name in _OVER_ITEMS and isinstance(kwargs, Mapping):
        kwargs = _over_items(recording, kwargs)
    args_json, kwargs_json = recording.encoder.arguments(args, kwargs, recording.parameters(name))
    if recording.keeps(name, "args"):
        event["args"] = args_json
    if recording.keeps(name, "kwargs"):
        event["kwargs"] = kwargs_json


def _over_items(recording: Recording, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keyword arguments of celery.map and celery.starmap, without the items when the task they are passed to
    leaves out its args."""
    inner = kwargs.get("task")
    name = inner.get("task") if isinstance(inner, Mapping) else None
    if isinstance(name, str) and not recording.keeps(name, "args"):
        return {key: value for key, value in kwargs.items() if key != "it"}
    return kwargs


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _microseconds(eta: Any) -> int | None:
    """An ETA (datetime or ISO 8601 text) as microseconds since the epoch, None where there is none."""
    if isinstance(eta, str):
        try:
            eta = dt.datetime.fromisoformat(eta)
        except ValueError:
            return None
    if not isinstance(eta, dt.datetime):
        return None
    if eta.tzinfo is None:
        eta = eta.replace(tzinfo=dt.timezone.utc)
    return int(eta.timestamp() * 1_000_000)
