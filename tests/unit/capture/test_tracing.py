"""Reading, carrying and linking traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.app.task import Context
from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from celery_asynctask.capture import tracing

TRACER = TracerProvider().get_tracer("tests")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture(autouse=True)
def nothing_stays_attached() -> Iterator[None]:
    before = context.get_current()
    yield
    assert context.get_current() == before


def test_no_span_is_none() -> None:
    assert tracing.current() is None
    headers: dict[str, str] = {}
    tracing.inject(headers)
    assert headers == {}


def test_the_current_span() -> None:
    with TRACER.start_as_current_span("here") as span:
        ids = tracing.current()
        headers: dict[str, str] = {}
        tracing.inject(headers)
    assert ids is not None
    known = span.get_span_context()
    assert ids == (format(known.trace_id, "032x"), format(known.span_id, "016x"))
    assert tracing.trace_of(headers) == ids.trace


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": 7}, {"tracestate": "a=b"}])
def test_headers_without_a_trace(headers: dict[str, object]) -> None:
    assert tracing.trace_of(headers) is None
    assert tracing.attach(Context(headers)) == (None, None)


@pytest.mark.parametrize("value", [f"{PARENT}-{' ' * 200_000}\nx", f"{PARENT}-{'x' * 8192}", [PARENT], {}])
def test_a_header_that_no_propagator_wrote_is_not_parsed(value: Any) -> None:
    """The first one would take OpenTelemetry's regular expression minutes."""
    assert tracing.trace_of({"traceparent": value}) is None
    assert tracing.attach(Context({"traceparent": value})) == (None, None)


def test_a_propagator_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Jaeger's does for numbers that are none."""

    def extract(*_: Any, **__: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(propagate, "extract", extract)
    assert tracing.trace_of({"traceparent": PARENT}) is None
    assert tracing.attach(Context({"traceparent": PARENT})) == (None, None)


@pytest.mark.parametrize("carried", [{"traceparent": PARENT}, {"headers": {"traceparent": PARENT}}])
def test_attach_and_detach(carried: dict[str, Any]) -> None:
    """From an attribute, as in protocol 2, or from the headers."""
    ids, token = tracing.attach(Context(carried))
    assert tracing.current() == ids == (TRACE, SPAN)
    tracing.detach(token)
    assert tracing.current() is None


def test_a_span_that_is_there_is_left_alone() -> None:
    with TRACER.start_as_current_span("theirs"):
        assert tracing.attach(Context({"traceparent": PARENT})) == (tracing.current(), None)


def test_describe() -> None:
    with TRACER.start_as_current_span("run/x") as span:
        tracing.describe("id", "root", None, "0001")
    assert isinstance(span, ReadableSpan)
    assert dict(span.attributes or {}) == {
        "celery.task_id": "id",
        "celery.root_id": "root",
        "asynctask.run_key": "0001",
    }
    tracing.describe("id", "root", "parent", "0001")  # no span, no error


class Single(TextMapPropagator):
    """A propagator with its own header."""

    fields = {"x-trace"}  # noqa: RUF012 - as the interface has it

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        trace_id, span_id = (int(part, 16) for part in getter.get(carrier, "x-trace")[0].split("/"))
        span = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, is_remote=True))
        return trace.set_span_in_context(span, context)

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        span = trace.get_current_span(context).get_span_context()
        carrier["x-trace"] = f"{span.trace_id:032x}/{span.span_id:016x}"


def test_another_propagator() -> None:
    """Any configured propagator carries the trace, with its own header names."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Single())
    try:
        assert tracing.trace_of({"x-trace": f"{TRACE}/{SPAN}"}) == TRACE
        _, token = tracing.attach(Context({"x-trace": f"{TRACE}/{SPAN}"}))
        headers: dict[str, str] = {}
        tracing.inject(headers)
        tracing.detach(token)
    finally:
        propagate.set_global_textmap(before)
    assert headers == {"x-trace": f"{TRACE}/{SPAN}"}
