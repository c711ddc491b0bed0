"""OpenTelemetry: the trace and span that a task runs in, and the trace's way through messages.

With ``opentelemetry-instrumentation-celery``, an attempt has a span of its own, and this module only reads it. Without,
the producer's context travels in the message headers, in the form of the configured propagator, and is attached around
the attempt, so that a workflow keeps its producer's trace. Without a trace, this costs a lookup of the context.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import Getter, TextMapPropagator, default_getter


class Ids(NamedTuple):
    """The ids of a span, as they are recorded."""

    trace: str
    """32 hex digits."""
    span: str
    """16 hex digits."""


def current() -> Ids | None:
    """The span that is current in this thread (or asyncio task, or greenlet); None: there is none."""
    span = trace.get_current_span()
    return None if span is trace.INVALID_SPAN else _ids(span.get_span_context())


def _ids(span: trace.SpanContext) -> Ids | None:
    if not span.is_valid:
        return None
    return Ids(trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id))


def inject(headers: MutableMapping[str, Any]) -> None:
    """Put the current context into the headers of a message. OpenTelemetry's instrumentation, if it is active, comes
    after us and overwrites it with its own span, under the same names."""
    if context.get_current() and trace.get_current_span().get_span_context().is_valid:
        propagate.inject(headers)


_MAX_HEADER: Final = 8192
"""Most characters of a header with a context: what the W3C allows the largest of them, baggage."""
_known: tuple[TextMapPropagator | None, frozenset[str]] = (None, frozenset())


def _fields() -> frozenset[str]:
    """Names of the headers in which a context travels, cached: a propagator makes this set anew for every call."""
    global _known  # noqa: PLW0603 - as global as the propagator
    propagator = propagate.get_global_textmap()
    if propagator is not _known[0]:
        _known = (propagator, frozenset(propagator.fields))
    return _known[1]


def trace_of(headers: Mapping[str, Any]) -> str | None:
    """The trace id, 32 hex digits, in the headers of a message; None: there is none."""
    if headers.keys().isdisjoint(_fields()):
        return None
    carried = {name: text for name in _fields() if (text := _text(headers.get(name))) is not None}
    found = _extract(carried, default_getter)
    return None if found is None else found[0].trace


def _text(value: Any) -> str | None:
    """A header as a propagator gets it; None: it is none that a propagator has written. They read the others by regular
    expressions that take seconds for a long text with line breaks."""
    if value is None or isinstance(value, (dict, list)):
        return None
    text = str(value)
    return text if len(text) <= _MAX_HEADER and "\n" not in text else None


def _extract(carrier: Any, getter: Getter[Any]) -> tuple[Ids, context.Context] | None:
    """The span that a carrier has, and its context; None: it has none, or nothing that a propagator can read."""
    try:
        carried = propagate.extract(carrier, getter=getter)
        ids = _ids(trace.get_current_span(carried).get_span_context())
    except Exception:  # noqa: BLE001 - whatever the propagator raises: the headers may come from anywhere
        return None
    return None if ids is None else (ids, carried)


class _RequestGetter(Getter[Any]):
    """Reads message headers of a Celery request, which are its attributes (protocol 2) or in its ``headers``."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        value = getattr(carrier, key, None)
        if value is None and isinstance(carrier.headers, Mapping):
            value = carrier.headers.get(key)
        text = _text(value)
        return None if text is None else [text]

    def keys(self, carrier: Any) -> list[str]:
        return [key for key in carrier.headers if isinstance(key, str)] if isinstance(carrier.headers, Mapping) else []


_getter = _RequestGetter()


def attach(request: Any) -> tuple[Ids | None, Any]:
    """Make the context that a request carries the current one, unless a span is current already.

    Returns the span that is current then, and the token for `detach`; None: nothing was attached.
    """
    if context.get_current() and (ids := current()) is not None:
        return ids, None
    headers, fields = request.headers, _fields()
    if request.__dict__.keys().isdisjoint(fields) and (
        not headers or not isinstance(headers, Mapping) or headers.keys().isdisjoint(fields)
    ):
        return None, None
    found = _extract(request, _getter)
    return (None, None) if found is None else (found[0], context.attach(found[1]))


def detach(token: Any) -> None:
    """Undo `attach`, in the same thread."""
    context.detach(token)


def describe(task_id: str, root_id: str | None, parent_id: str | None, run: str) -> None:
    """Give the current span, if it is being recorded, the attributes that lead from it to the row and the attempt."""
    span = trace.get_current_span()
    if span.is_recording():
        known = {
            "celery.task_id": task_id,
            "celery.root_id": root_id,
            "celery.parent_id": parent_id,
            "asynctask.run_key": run,
        }
        span.set_attributes({key: value for key, value in known.items() if value is not None})
