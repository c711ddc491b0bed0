"""Records what an app publishes, by wrapping the app's own ``amqp.send_task_message``.

Celery's publish signals name only the task, not the app that sends it, and there is no signal for a publish that
failed. The wrapper knows both, and costs one call. It is put in place without making the app read its configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from celery.app.task import Context
from kombu.utils.imports import symbol_by_name

from celery_asynctask.capture import context, extract, step_events, tracing
from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.celery_private import (
    SEND_TASK_MESSAGE,
    amqp_class,
    amqp_of,
    hook_entries,
    log_missing,
    own_send_task_message,
    sends_messages,
)
from celery_asynctask.capture.continuation import CHORD_UNLOCK, Before, continued, created_by, is_step_of
from celery_asynctask.capture.headers import (
    HEADER,
    HEARSAY,
    checksum,
    header_of,
    is_again,
    is_read,
    is_time,
    read,
    stamp,
    write,
)
from celery_asynctask.capture.instrumentation import is_worker
from celery_asynctask.capture.messages import hidden_by_caller, open_message
from celery_asynctask.capture.running import running
from celery_asynctask.capture.signing import believes, is_verified, sign, unbelieved, without_claims
from celery_asynctask.core import canvas
from celery_asynctask.core.canvas import hidden_by
from celery_asynctask.core.event import count, decode
from celery_asynctask.errors import guard, report

if TYPE_CHECKING:
    from celery import Celery

    from celery_asynctask.capture.instrumentation import Instrumentation
    from celery_asynctask.settings import Settings


_entry: ContextVar[str | None] = ContextVar("celery_asynctask_periodic_entry", default=None)
"""Name of the schedule entry that this thread of beat is sending. Celery 5.7 does not put it into the message
(celery/beat.py)."""


SENT_AGAIN: Final = attribute("sent_again")
"""Attribute of an attempt's request: it has sent its task again, for a retry or by what replaces it."""


def wrap(app: Celery, instrumentation: Instrumentation) -> None:
    """Record what ``app`` publishes from now on."""
    if (amqp := amqp_of(app)) is not None:
        _wrap_amqp(amqp, instrumentation)
    elif (made_of := amqp_class(app)) is not None:
        app.amqp_cls = _AMQPMaker(made_of, instrumentation)


def unwrap(app: Celery) -> None:
    """Undo `wrap`."""
    if isinstance(maker := amqp_class(app), _AMQPMaker):
        app.amqp_cls = maker.made_of
    amqp = amqp_of(app)
    publisher = amqp.__dict__.get(SEND_TASK_MESSAGE) if amqp is not None else None
    if isinstance(publisher, _Publisher):
        del amqp.__dict__[SEND_TASK_MESSAGE]  # Celery makes its own again on the next use
        if publisher.given is not None:
            amqp.__dict__[SEND_TASK_MESSAGE] = publisher.given


def is_wrapped(app: Celery) -> bool:
    """Whether what the app sends is seen here: nobody has put something else in its place since."""
    if (amqp := amqp_of(app)) is None:
        return isinstance(amqp_class(app), _AMQPMaker)
    return isinstance(amqp.__dict__.get(SEND_TASK_MESSAGE), _Publisher)


class _AMQPMaker:
    """Replaces ``app.amqp_cls``: makes an AMQP with it, and wraps that. Pickles as the original, for Celery pickles its
    apps."""

    def __init__(self, made_of: Any, instrumentation: Instrumentation) -> None:
        self.made_of = made_of
        self._instrumentation = instrumentation

    def __call__(self, app: Celery) -> Any:
        amqp = symbol_by_name(self.made_of)(app=app)
        _wrap_amqp(amqp, self._instrumentation)
        return amqp

    def __reduce__(self) -> Any:
        return _same, (self.made_of,)


def _same(value: Any) -> Any:
    return value


def _wrap_amqp(amqp: Any, instrumentation: Instrumentation) -> None:
    if sends_messages(amqp):
        amqp.__dict__[SEND_TASK_MESSAGE] = _Publisher(amqp, instrumentation, amqp.__dict__.get(SEND_TASK_MESSAGE))


class _Publisher:
    """Replaces ``amqp.send_task_message``; makes Celery's own on first use, when the queues are configured."""

    def __init__(self, amqp: Any, instrumentation: Instrumentation, send: Any) -> None:
        self._amqp = amqp
        self._instrumentation = instrumentation
        self._send = send
        self.given = send
        """What was here before us; None: nothing."""

    def __call__(self, producer: Any, name: str, message: Any, **options: Any) -> Any:
        send = self._send
        if send is None:
            send = self._send = own_send_task_message(self._amqp)
        prepared = _before(self._instrumentation, name, message, options)
        if prepared is None:
            return send(producer, name, message, **options)
        header, about, sender, attached = prepared
        try:
            result = send(producer, name, message, **options)
        finally:
            if attached is not None:
                tracing.detach(attached)
        if header is not None:
            _after(self._instrumentation, name, message, header, about, sender)
        return result

    def __getattr__(self, name: str) -> Any:
        """Any other attribute is the original's: a mock of a user's test has assertions."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._send, name)


_Prepared = tuple[dict[str, Any] | None, Mapping[str, Any], Any, Any]
"""A message that is ready to be sent: our header (None: its task is not recorded), its header fields, the request of
the task that sends it (None: no task does), the token for `tracing.detach` (or None)."""


@guard
def _before(  # noqa: PLR0912 - a function a case would cost every publish
    instrumentation: Instrumentation, name: str, message: Any, options: dict[str, Any]
) -> _Prepared | None:
    """Put our header and the trace's on a message that is about to be sent; None: recording is switched off."""
    if not instrumentation.settings.enabled:
        return None
    given = options.get("headers")
    headers = dict(given) if given else message.headers  # given headers override the message's own
    about = message.headers if "id" in message.headers else message.body
    task_id = about["id"]
    again = is_again(about)
    task: Any
    sender: Any
    task, sender = running() or (None, None)
    request = sender if task is not None and task.app is instrumentation.app else None
    sends = task.name if request is not None else ""
    settings = instrumentation.settings
    given_header, hearsay = headers.get(HEADER), _NO_HEARSAY
    if given_header is not None or settings.header_keys is not None:
        given_header, hearsay = _given(instrumentation, given_header, task_id, sender, again=again)
    goes_on: Before | None = None
    if again or request is not None:
        goes_on = continued(request, sends, name, task_id, given_header, message, again=again)
    known = fields(instrumentation, task_id, request, given_header, goes_on)
    if known:
        known = context.to_header(known, instrumentation.encoder)
    at = time_ns() // 1000
    header = None
    is_mapping = settings.header_version == 1 and settings.header_keys is None
    if (policy := instrumentation.policies[name]).recorded:
        header = stamp(task_id, at if goes_on is None else created_by(goes_on.header), at)
        if goes_on is not None and goes_on.is_same:
            if isinstance(root := goes_on.header.get("root"), str):
                header["root"] = root
        elif request is not None and not instrumentation.policies[sends].recorded:
            header["root"] = request.root_id if request.root_id != request.id else task_id
        if not policy.known:
            header["blind"] = True
        if "argsrepr" in options or "kwargsrepr" in options:
            header["hidden"] = hidden_by(options)
        elif goes_on is not None and goes_on.is_same and (hidden := hidden_by_caller(goes_on.header, request)):
            header["hidden"] = hidden
        header.update(known, **hearsay)
        headers[HEADER] = header if is_mapping else _written(settings, header, task_id)
    elif name == CHORD_UNLOCK:
        body = at if goes_on is None else created_by(goes_on.header)
        of_body = {"body": body} if is_time(body) else {}
        headers[HEADER] = _written(settings, {"for": checksum(task_id), **of_body, **known, **hearsay}, task_id)
    elif known:
        headers[HEADER] = _written(settings, {"for": checksum(task_id), **known, **hearsay}, task_id)
    tracing.inject(headers)
    if given:
        options["headers"] = headers
    # A retry that a worker's main process sends for a killed child comes from no span. The span that OpenTelemetry's
    # instrumentation makes for it now must still belong to the trace of the first attempt.
    return header, about, sender, tracing.attach(Context(headers))[1] if again else None


_NO_HEARSAY: Final[dict[str, Any]] = {}


def _given(
    instrumentation: Instrumentation, header: Any, task_id: Any, sender: Any, *, again: bool
) -> tuple[Any, dict[str, Any]]:
    """The header that a message has already, read, as far as it is believed, and the field `HEARSAY` of ours if neither
    that header nor those of the steps in the message may name customers: they may come from a message that was not
    signed. So may what a worker sends without a task, such as the error callbacks of a child that was killed."""
    fields = read(header, task_id) if header is not None else None
    if instrumentation.settings.header_keys is None:
        return fields, _NO_HEARSAY
    if sender is None and is_worker() and _entry.get() is None:
        is_believed = again and is_verified(fields)
    else:
        is_believed = believes(instrumentation, sender)
    if is_believed:
        return fields, _NO_HEARSAY
    if isinstance(fields, dict) and not is_read(fields):
        fields = without_claims(fields)
    return fields, {HEARSAY: True}


def _written(settings: Settings, header: dict[str, Any], task_id: Any) -> Any:
    """The header in the form in which a message of the task carries it."""
    keys = settings.header_keys
    return write(header, settings.header_version) if keys is None else sign(header, task_id, keys[0])


def fields(
    instrumentation: Instrumentation, task_id: Any, request: Any, given: Any, goes_on: Before | None = None
) -> dict[str, Any]:
    """The `context` fields of a message that is sent, each from the nearest source. ``given`` is the header that it has
    already, ``request`` that of the task that sends it, ``goes_on`` the message whose execution it goes on with."""
    own = context.sound(given, functools.partial(report, "the header asynctask", task_id)) if given else {}
    if goes_on is not None:
        before = context.sound(goes_on.header)
        if goes_on.keeps_customer:
            own.pop("customer", None)
        return {**before, **own}
    if context.stands_alone():
        return dict(context.given())
    known = instrumentation.context(task_id) if instrumentation.settings.context is not None else {}
    if request is not None and context.carries(header := header_of(request)):
        known |= context.sound(header)
    known |= own
    known |= context.given()
    if (entry := _entry.get()) is not None:
        known["content"] = {"periodic_task_name": entry, **context.content_of(known)}
    return known


@guard
def _after(
    instrumentation: Instrumentation,
    name: str,
    message: Any,
    header: dict[str, Any],
    about: Mapping[str, Any],
    request: Any,
) -> None:
    """Record that the message was sent, and the steps that it carries."""
    opened = open_message(message.headers, message.body)
    event = extract.published(instrumentation, instrumentation.policies[name], name, message, opened, header)
    instrumentation.write(event)
    embed = opened[3]
    if request is not None and request.id == about["id"]:
        request.__dict__[SENT_AGAIN] = True
    chain, chord, callbacks = embed.get("chain"), embed.get("chord"), embed.get("callbacks")
    if not (chain or chord or callbacks) or count(about.get("retries")) or is_step_of(request, about["id"]):
        return
    if chord and not chain and not callbacks and instrumentation.planned_chord(chord):
        return
    steps = canvas.steps(about["id"], chain, chord, callbacks)
    if HEARSAY in header:
        steps = unbelieved(steps)
    for planned in step_events.planned(instrumentation, decode(event), steps):
        instrumentation.record(planned)
    if request is not None and any(step.id == request.id for step in steps):
        request.__dict__[SENT_AGAIN] = True


@guard
def on_beat_init(sender: Any, **_: Any) -> None:
    """Wrap the scheduler of a beat service that starts, so that we know which entry it sends."""
    hook_entries(sender, _named)
    log_missing(sender.app)


def _named(send: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(send)
    def apply_async(entry: Any, *args: Any, **kwargs: Any) -> Any:
        token = _entry.set(str(entry.name))
        try:
            return send(entry, *args, **kwargs)
        finally:
            _entry.reset(token)

    return apply_async
