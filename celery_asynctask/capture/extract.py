"""Makes events from Celery's messages, requests and exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from celery_asynctask.capture import context, payload, tracing
from celery_asynctask.capture.attempt import SECRETS, hidden_secrets
from celery_asynctask.capture.headers import (
    HEADER,
    TIMES_END,
    header_of,
    is_again,
    is_read,
    is_time,
    is_token,
    with_token,
)
from celery_asynctask.capture.messages import (
    OpenedMessage,
    hidden_by_caller,
    name_text,
    place_of,
    recorded_id,
    task_id_text,
)
from celery_asynctask.capture.payload.inspection import Calls
from celery_asynctask.capture.payload.plain import plain_text
from celery_asynctask.core.event import Event, Kind, count, json_text, quote
from celery_asynctask.core.limits import MAX_NAME, MAX_TASK_ID
from celery_asynctask.core.time import AGO, AHEAD, read_microseconds

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation, RecordingPolicy
    from celery_asynctask.capture.payload.secrets import Secret

OVER_ITEMS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})
"""Celery's tasks that call another task, ``task``, for each item of ``it``."""


def from_request(kind: Kind, name: str, request: Any, at: int) -> Event:
    """An event at ``at``, microseconds since the epoch, about the delivery of ``request``, which gets a token if it has
    none."""
    header = with_token(request, header_of(request), at)
    event: Event = {
        "id": recorded_id(request.id),
        "run": header["run"],
        "kind": kind.value,
        "at": at,
        "name": name_text(name),
        **delivery(request),
        **execution(header),
    }
    if "delivered" in header:
        event["delivered"] = True
    event.update(context.identity(header))  # type: ignore[typeddict-item]
    return event


def execution(header: Mapping[str, Any]) -> Event:
    """The keys of an event that say which execution and which delivery it is about: created and run."""
    event = cast("Event", {"run": header["run"]})
    if is_time(created := header.get("created")):
        event["created"] = created
    return event


def delivery(request: Any) -> Event:
    """The keys of an event whose delivery is not the first of its task: retries, nesting, redelivered."""
    event = cast("Event", {})
    if retries := count(request.retries):
        event["retries"] = retries
    if nesting := count(getattr(request, "replaced_task_nesting", 0)):
        event["nesting"] = nesting
    info = request.delivery_info
    if isinstance(info, Mapping) and info.get("redelivered"):
        event["redelivered"] = True
    return event


def add_requested(event: Event, instrumentation: Instrumentation, name: str, request: Any) -> None:
    """Add what was requested: root, parent, context and arguments."""
    header = header_of(request)
    event["asked"] = True
    event["root"], event["parent"] = lineage(header, request.root_id, request.parent_id)
    add_context(event, instrumentation, header)
    if request.args is not None or request.kwargs is not None:  # else the body cannot be read
        hidden = hidden_by_caller(header, request)
        add_payload(event, instrumentation, name, request.args, request.kwargs, hidden)


def lineage(header: Mapping[str, Any], root: Any, parent: Any) -> tuple[str | None, str | None]:
    """The ids of root and parent of a message, as far as they lead to rows."""
    if "root" in header:
        return task_id_text(header["root"]), None
    return task_id_text(root), task_id_text(parent)


def start(
    instrumentation: Instrumentation, policy: RecordingPolicy, name: str, request: Any, at: int, ids: tracing.Ids | None
) -> bytes:
    """A started event, encoded, in the process that runs the body: with everything that is known by then.

    It is written as text, from the request's own dict, because every task pays for it. A test
    (`tests/unit/capture/test_extract.py`) compares it with an event that is built from its keys.
    """
    known = request.__dict__.get
    header = known(HEADER)
    if not is_read(header):
        header = header_of(request)
    get = header.get
    run, created, sent = get("run"), get("created"), get("sent")
    if type(run) is not str or is_token(run) is None:
        run = with_token(request, header, at)["run"]
    sound = type(created) is int and type(sent) is int and 0 <= created < TIMES_END and _is_near(sent, at)
    if sound and "delivered" in header:
        text = f'"created":{created},"sent":{sent},"delivered":true,'
    else:
        text = _times_text(header, at)
    if ids is not None:
        text += f'"trace":"{ids.trace}","span":"{ids.span}",'
    if type(info := known("delivery_info")) is not dict:
        info = info if isinstance(info, Mapping) else {}
    worker, routing_key = known("hostname"), info.get("routing_key")
    if type(worker) is not str or type(routing_key) is not str or len(worker) + len(routing_key) > MAX_NAME:
        worker, routing_key = place_of(worker, routing_key)
    if known("retries") or known("replaced_task_nesting") or known("eta") or info.get("redelivered"):
        text += _again_text(request)
    if context.carries(header):
        text += _context_text(instrumentation, header)
    root, parent = known("root_id"), known("parent_id")
    if "root" in header:
        root, parent = lineage(header, root, parent)
    task_id = request.id
    quoted = quote(task_id) if type(task_id) is str else ""
    if not quoted or "\\" in quoted or len(quoted) > MAX_TASK_ID:
        quoted = quote(recorded_id(task_id))
    hidden = get("hidden")
    if hidden is not None or created is None:
        hidden = hidden_by_caller(header, request)
    return (
        f'{{"id":{quoted},"run":"{run}","kind":"started","at":{at},'
        f'{instrumentation.places[name, worker, routing_key]},{text}"asked":true,'
        f'"root":{quoted if root == task_id else _quoted(root)},"parent":{_quoted(parent)}'
        f"{_payload_text(instrumentation, policy, name, known('args'), known('kwargs'), hidden, request)}}}"
    ).encode("ascii")


def _is_near(sent: int, at: int) -> bool:
    """Whether a start at ``at`` believes when its message was sent."""
    return at - AGO <= sent <= at + AHEAD


def _times_text(header: Mapping[str, Any], at: int) -> str:
    """The valid times in a message's header, as keys of an encoded start at ``at``, with a comma after each."""
    times = {key: header[key] for key in ("created", "sent") if is_time(header.get(key))}
    if "sent" in times and not _is_near(times["sent"], at):
        del times["sent"]
    if "delivered" in header:
        times["delivered"] = True
    return f"{json_text(times)[1:-1]}," if times else ""


def _again_text(request: Any) -> str:
    """`delivery` and the ETA, as keys of an encoded event, with a comma after each."""
    event = delivery(request)
    if request.eta and is_time(eta := read_microseconds(request.eta)):
        event["eta"] = eta
    return f"{json_text(event)[1:-1]}," if event else ""


def add_error(event: Event, encoder: payload.Encoder, exc: BaseException | None, traceback: Any = None) -> None:
    """Add class name, text and traceback of an exception. A traceback that is no text is left out."""
    if exc is not None:
        event["error_type"] = payload.error_type(exc)
        event["error_message"] = payload.error_message(exc, encoder)
    if (text := encoder.traceback(traceback)) is not None:
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
    quoted = quote(task_id) if type(task_id) is str else ""
    if not quoted or "\\" in quoted or len(quoted) > MAX_TASK_ID:
        quoted = quote(recorded_id(task_id))
    created = header.get("created")
    text = f'"created":{created},' if created is not None else ""
    if is_again(about):
        if retries := count(about.get("retries")):
            text += f'"retries":{retries},'
        if nesting := count(about.get("replaced_task_nesting")):
            text += f'"nesting":{nesting},'
    elif (trace_id := tracing.trace_of(message.headers)) is not None:
        text += f'"trace":"{trace_id}",'
    if "root" in header:
        root, parent = lineage(header, root, parent)
    if context.carries(header):
        text += _context_text(instrumentation, header)
    return (
        f'{{"id":{quoted},"kind":"published","at":{header["sent"]},{instrumentation.names[name]},{text}"asked":true,'
        f'"root":{quoted if root == task_id else _quoted(root)},"parent":{_quoted(parent)}'
        f"{_payload_text(instrumentation, policy, name, args, kwargs, header.get('hidden'))}}}"
    ).encode("ascii")


def _context_text(instrumentation: Instrumentation, header: Mapping[str, Any]) -> str:
    """`add_context` as keys of an encoded event, with a comma after each."""
    event = cast("Event", {})
    add_context(event, instrumentation, header)
    return f"{json_text(event)[1:-1]}," if event else ""


def add_context(event: Event, instrumentation: Instrumentation, header: Mapping[str, Any]) -> None:
    """Add the `context` fields of the header."""
    event.update(header_context(instrumentation, header))  # type: ignore[typeddict-item]


def header_context(instrumentation: Instrumentation, header: Any) -> dict[str, Any]:
    fields = context.sound(header)
    if isinstance(fields.get("content"), str):
        fields["content"] = instrumentation.encoder.again(context.content_of(fields))
    elif "content" in fields:
        fields["content"] = instrumentation.encoder.value(fields["content"], "content")
    return context.ids(fields)


def add_payload(
    event: Event,
    instrumentation: Instrumentation,
    name: str,
    args: Any,
    kwargs: Any,
    hidden: str | None,
    request: Any = None,
) -> None:
    """Add the arguments, and note on the ``request``, if it is the attempt's, what redaction took from them, or the
    caller hides."""
    policy = instrumentation.policies[name]
    if not policy.known:  # what to leave out and to redact is known where the task is
        event["blind"] = True
        return
    secrets: list[Secret] | None = None if request is None else []
    shown = (args, kwargs) if name not in OVER_ITEMS else _over_items(instrumentation, name, args, kwargs, secrets)
    args_json, kwargs_json = instrumentation.encoder.arguments(*shown, policy.parameters, secrets)
    hides = hidden.split() if hidden is not None else ()
    if secrets is not None and hides:
        secrets += hidden_secrets(instrumentation.encoder, policy.parameters, hides, args, kwargs)
    if secrets:
        request.__dict__[SECRETS] = secrets
    if policy.args and "args" not in hides:
        event["args"] = args_json
    if policy.kwargs and "kwargs" not in hides:
        event["kwargs"] = kwargs_json


def _payload_text(
    instrumentation: Instrumentation,
    policy: RecordingPolicy,
    name: str,
    args: Any,
    kwargs: Any,
    hidden: str | None,
    request: Any = None,
) -> str:
    """`add_payload` as keys of an encoded event, with a comma before each."""
    if policy.plain and hidden is None:  # those of `OVER_ITEMS` are never plain: one is a signature
        encoder = instrumentation.encoder
        text = plain_text(args, kwargs, policy.parameters, encoder.redaction, encoder.max_bytes)
        if text is not None:
            return f",{text}"
    event = cast("Event", {})
    add_payload(event, instrumentation, name, args, kwargs, hidden, request)
    return f",{json_text(event)[1:-1]}" if event else ""


def _over_items(
    instrumentation: Instrumentation, name: str, args: Any, kwargs: Any, secrets: list[Secret] | None
) -> tuple[Any, Any]:
    """The arguments of one of `OVER_ITEMS`, whose items are the arguments of another task: judged as in a direct call
    of that; without them if its policy leaves out its args or is not known, but what redaction takes from them is noted
    in ``secrets`` all the same."""
    if (task := _inner(args, kwargs)) is None:
        return args, kwargs
    policy = instrumentation.policies[task]
    is_shown, starred = policy.known and policy.args, name != "celery.map"
    left_out = []
    if isinstance(kwargs, Mapping) and "it" in kwargs:
        left_out.append(calls := Calls(kwargs["it"], policy.parameters, starred=starred))
        kwargs = {key: calls if key == "it" else value for key, value in kwargs.items() if is_shown or key != "it"}
    if isinstance(args, (list, tuple)) and len(args) > 1:
        left_out.append(calls := Calls(args[1], policy.parameters, starred=starred))
        args = [args[0], calls, *args[2:]] if is_shown else args[:1]
    if not is_shown and secrets is not None:
        instrumentation.encoder.arguments(left_out, {}, (), secrets)
    return args, kwargs


def _inner(args: Any, kwargs: Any) -> str | None:
    """The name of the task that one of `OVER_ITEMS` calls; None: its arguments do not say."""
    inner = kwargs.get("task") if isinstance(kwargs, Mapping) else None
    if inner is None and isinstance(args, (list, tuple)) and args:
        inner = args[0]
    task = inner.get("task") if isinstance(inner, Mapping) else None
    return task if isinstance(task, str) else None


def records_items(instrumentation: Instrumentation, request: Any) -> bool:
    """Whether the result of one of `OVER_ITEMS`, the results of another task, is recorded."""
    task = _inner(request.args, request.kwargs)
    return task is None or instrumentation.policies[task].result


def _quoted(value: Any) -> str:
    """`task_id_text` as JSON."""
    text = None if value is None else task_id_text(value)
    return "null" if text is None else str(quote(text))
