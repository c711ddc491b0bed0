"""Makes events from Celery's messages, requests and exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from celery.app.task import Context

from celery_asynctask.capture import context, payload, tracing
from celery_asynctask.capture.headers import HEADER, TIMES_END, header_of, is_again, is_time, is_token, with_token
from celery_asynctask.capture.payload.plain import plain_text
from celery_asynctask.core import canvas
from celery_asynctask.core.event import Event, Kind, json_text, quote
from celery_asynctask.core.limits import MAX_MESSAGE, MAX_NAME
from celery_asynctask.core.reasons import NotSent
from celery_asynctask.core.time import read_microseconds

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation, RecordingPolicy

_OVER_ITEMS = frozenset({"celery.map", "celery.starmap"})


def from_request(kind: Kind, name: str, request: Any, at: int) -> Event:
    """An event at ``at``, microseconds since the epoch, about the delivery of ``request``, which gets a token if it has
    none."""
    header = with_token(request, header_of(request), at)
    event: Event = {
        "id": request.id,
        "run": header["run"],
        "kind": kind.value,
        "at": at,
        "name": name[:MAX_NAME],
        **delivery(request),
    }
    if "delivered" in header:
        event["delivered"] = True
    if is_time(created := header.get("created")):
        event["created"] = created
    return event


def delivery(request: Any) -> Event:
    """The keys of an event whose delivery is not the first of its task: retries, nesting, redelivered."""
    event = cast("Event", {})
    if request.retries:
        event["retries"] = request.retries
    if nesting := getattr(request, "replaced_task_nesting", 0):
        event["nesting"] = nesting
    if (request.delivery_info or {}).get("redelivered"):
        event["redelivered"] = True
    return event


def add_requested(event: Event, instrumentation: Instrumentation, name: str, request: Any) -> None:
    """Add what was requested: root, parent, context and arguments."""
    header = header_of(request)
    event["asked"] = True
    event["root"], event["parent"] = lineage(header, request.root_id, request.parent_id)
    add_context(event, instrumentation, header)
    if request.args is not None or request.kwargs is not None:  # else the body cannot be read
        _add_payload(event, instrumentation, name, request.args, request.kwargs)


def lineage(header: Mapping[str, Any], root: Any, parent: Any) -> tuple[str | None, str | None]:
    """The ids of root and parent of a message, as far as they lead to rows."""
    return (_text(header["root"]), None) if "root" in header else (_text(root), _text(parent))


def start(
    instrumentation: Instrumentation, policy: RecordingPolicy, name: str, request: Any, at: int, ids: tracing.Ids | None
) -> bytes:
    """A started event, encoded, in the process that runs the body: with everything that is known by then.

    It is written as text, from the request's own dict, because every task pays for it. A test
    (`tests/unit/capture/test_extract.py`) compares it with an event that is built from its keys.
    """
    known = request.__dict__.get
    header = known(HEADER)
    if type(header) is not dict:
        header = header_of(request)
    get = header.get
    run, created, sent = get("run"), get("created"), get("sent")
    if type(run) is not str or is_token(run) is None:
        run = with_token(request, header, at)["run"]
    sound = type(created) is int and type(sent) is int and 0 <= created < TIMES_END and 0 <= sent < TIMES_END
    if sound and "delivered" in header:
        text = f'"created":{created},"sent":{sent},"delivered":true,'
    else:
        text = _times_text(header)
    if ids is not None:
        text += f'"trace":"{ids.trace}","span":"{ids.span}",'
    info = known("delivery_info") or {}
    if known("retries") or known("replaced_task_nesting") or known("eta") or info.get("redelivered"):
        text += _again_text(request)
    if context.carries(header):
        text += _context_text(instrumentation, header)
    root, parent = known("root_id"), known("parent_id")
    if "root" in header:
        root, parent = lineage(header, root, parent)
    task_id = request.id
    quoted = quote(task_id)
    return (
        f'{{"id":{quoted},"run":"{run}","kind":"started","at":{at},'
        f'{instrumentation.places[name, known("hostname"), info.get("routing_key")]},{text}"asked":true,'
        f'"root":{quoted if root == task_id else _quoted(root)},"parent":{_quoted(parent)}'
        f"{_payload_text(instrumentation, policy, name, known('args'), known('kwargs'))}}}"
    ).encode("ascii")


def _times_text(header: Mapping[str, Any]) -> str:
    """The valid times in a message's header, as keys of an encoded event, with a comma after each."""
    times = {key: header[key] for key in ("created", "sent") if is_time(header.get(key))}
    if "delivered" in header:
        times["delivered"] = True
    return f"{json_text(times)[1:-1]}," if times else ""


def _again_text(request: Any) -> str:
    """`delivery` and the ETA, as keys of an encoded event, with a comma after each."""
    event = delivery(request)
    if request.eta and (eta := read_microseconds(request.eta)) is not None:
        event["eta"] = eta
    return f"{json_text(event)[1:-1]}," if event else ""


def add_error(event: Event, instrumentation: Instrumentation, exc: BaseException | None, traceback: Any = None) -> None:
    """Add class name, text and traceback of an exception. A traceback that is no text is left out."""
    if exc is not None:
        event["error_type"] = payload.error_type(exc)
        event["error_message"] = payload.error_message(exc, instrumentation.encoder)
    if (text := instrumentation.encoder.traceback(traceback)) is not None:
        event["traceback"] = text


def published(
    instrumentation: Instrumentation,
    policy: RecordingPolicy,
    name: str,
    message: Any,
    opened: OpenedMessage,
    header: dict[str, Any],
) -> bytes:
    """The event that a message was sent, encoded; written as text, as in `start`. ``message`` is a
    `celery.app.amqp.task_message`, ``opened`` its `open_message`, ``header`` ours."""
    about, args, kwargs, _ = opened
    task_id, root, parent = about["id"], about.get("root_id"), about.get("parent_id")
    quoted = quote(task_id)
    text = ""
    if is_again(about):
        if retries := about.get("retries"):
            text = f'"retries":{json_text(retries)},'
        if nesting := about.get("replaced_task_nesting"):
            text += f'"nesting":{json_text(nesting)},'
    elif (trace_id := tracing.trace_of(message.headers)) is not None:
        text = f'"trace":"{trace_id}",'
    if "root" in header:
        root, parent = lineage(header, root, parent)
    if context.carries(header):
        text += _context_text(instrumentation, header)
    return (
        f'{{"id":{quoted},"kind":"published","at":{header["sent"]},{instrumentation.names[name]},'
        f'"created":{header["created"]},{text}"asked":true,'
        f'"root":{quoted if root == task_id else _quoted(root)},"parent":{_quoted(parent)}'
        f"{_payload_text(instrumentation, policy, name, args, kwargs)}}}"
    ).encode("ascii")


def _context_text(instrumentation: Instrumentation, header: Mapping[str, Any]) -> str:
    """`add_context` as keys of an encoded event, with a comma after each."""
    event = cast("Event", {})
    add_context(event, instrumentation, header)
    return f"{json_text(event)[1:-1]}," if event else ""


def add_context(event: Event, instrumentation: Instrumentation, header: Mapping[str, Any]) -> None:
    """Add the `context` fields of the header."""
    fields = context.sound(header)
    if not fields:
        return
    if isinstance(fields.get("content"), str):
        fields["content"] = context.content_of(fields)
    elif "content" in fields:
        fields["content"] = instrumentation.encoder.value(fields["content"], "content")
    event.update(fields)  # type: ignore[typeddict-item]


def planned(instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]) -> list[Event]:
    """Events that these steps, which the message of ``event`` carries, are planned."""
    return [_step(Kind.PLANNED, instrumentation, event, step) for step in steps if instrumentation.records(step.name)]


def unsent(instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]) -> list[Event]:
    """Events that these steps are never sent, because of how the task of ``event`` ended."""
    events = []
    for step in steps:
        if not instrumentation.records(step.name):
            continue
        step_event = _step(Kind.UNSENT, instrumentation, event, step)
        if step.after_chord and step.parent is None:
            step_event["root"], step_event["parent"] = event.get("root"), event["id"]
        step_event["error_type"] = event.get("error_type", "Exception")
        reason = payload.PLAIN.text(event.get("error_message", ""), MAX_MESSAGE // 2)
        step_event["error_message"] = str(NotSent(event["name"], event["id"], reason))
        events.append(step_event)
    return events


def _step(kind: Kind, instrumentation: Instrumentation, event: Event, step: canvas.Step) -> Event:
    root = event.get("root")
    if step.after_chord and root == event["id"]:
        root = None
    step_event: Event = {
        "id": step.id,
        "kind": kind.value,
        "at": event["at"],
        "name": step.name[:MAX_NAME],
        "created": event.get("created", event["at"]),
        "asked": True,
        "root": root,
        "parent": step.parent,
    }
    for field in (*context.FIELDS, "trace"):
        if field in event:
            step_event[field] = event[field]
    _add_payload(step_event, instrumentation, step.name, step.args, step.kwargs)
    return step_event


def steps_of(request: Any) -> list[canvas.Step]:
    """The steps behind the task of a request; see `canvas.steps`."""
    if not (request.chain or request.chord or request.callbacks):
        return []
    return canvas.steps(request.id, request.chain, request.chord, request.callbacks)


OpenedMessage = tuple[Mapping[str, Any], Any, Any, Mapping[str, Any]]
"""The result of `open_message`."""


def open_message(headers: Any, body: Any) -> OpenedMessage:
    """The parts of a message of protocol 1 or 2: (header fields, args, kwargs, embed). ``embed`` has the steps: chain,
    chord, callbacks.

    Raises `ValueError` if it is no task message. args and kwargs are None, and embed is empty, if the body cannot be
    read.
    """
    if isinstance(headers, Mapping) and isinstance(headers.get("id"), str):
        if isinstance(body, (list, tuple)) and len(body) == 3:
            args, kwargs, embed = body
            return headers, args, kwargs, embed if isinstance(embed, Mapping) else {}
        return headers, None, None, {}
    if isinstance(body, Mapping) and isinstance(body.get("id"), str):
        return body, body.get("args"), body.get("kwargs"), body
    raise ValueError("no task message")


def request_of(message: Any) -> Context | None:
    """A request for a message of kombu that Celery has made no request from, as far as the message can be read and is
    valid; None: it has no id."""
    try:
        body = message.payload
    except Exception:  # noqa: BLE001 - whatever the decoder raises: the body cannot be read
        body = None
    try:
        about, args, kwargs, embed = open_message(message.headers, body)
    except ValueError:
        return None
    name, retries, nesting = about.get("task"), about.get("retries"), about.get("replaced_task_nesting")
    return Context(
        {key: embed.get(key) for key in ("chain", "chord", "callbacks")},
        id=about["id"],
        task=name if isinstance(name, str) else "unknown",
        args=args,
        kwargs=kwargs,
        root_id=about.get("root_id"),
        parent_id=about.get("parent_id"),
        retries=retries if isinstance(retries, int) else 0,
        replaced_task_nesting=nesting if isinstance(nesting, int) else 0,
        headers=message.headers,
        delivery_info=message.delivery_info,
    )


def _add_payload(event: Event, instrumentation: Instrumentation, name: str, args: Any, kwargs: Any) -> None:
    if name in _OVER_ITEMS and isinstance(kwargs, Mapping):
        kwargs = _over_items(instrumentation, kwargs)
    policy = instrumentation.policies[name]
    args_json, kwargs_json = instrumentation.encoder.arguments(args, kwargs, policy.parameters)
    if policy.args:
        event["args"] = args_json
    if policy.kwargs:
        event["kwargs"] = kwargs_json


def _payload_text(instrumentation: Instrumentation, policy: RecordingPolicy, name: str, args: Any, kwargs: Any) -> str:
    """`_add_payload` as keys of an encoded event, with a comma before each."""
    if policy.args and policy.kwargs and name not in _OVER_ITEMS:
        encoder = instrumentation.encoder
        text = plain_text(args, kwargs, policy.parameters, encoder.redaction, encoder.max_bytes)
        if text is not None:
            return f",{text}"
    event = cast("Event", {})
    _add_payload(event, instrumentation, name, args, kwargs)
    return f",{json_text(event)[1:-1]}" if event else ""


def _over_items(instrumentation: Instrumentation, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keyword arguments of celery.map and celery.starmap, without the items if the policy of the task that gets
    them leaves out its args."""
    inner = kwargs.get("task")
    name = inner.get("task") if isinstance(inner, Mapping) else None
    if isinstance(name, str) and not instrumentation.policies[name].args:
        return {key: value for key, value in kwargs.items() if key != "it"}
    return kwargs


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _quoted(value: Any) -> str:
    """`_text` as JSON."""
    return quote(value) if isinstance(value, str) else "null"
