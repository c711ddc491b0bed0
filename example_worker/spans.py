"""OpenTelemetry for the example: it instruments Celery and writes the spans of each process to a file in the data
directory.

An application sends its spans to a collector instead. The lines that matter are the provider and the instrumentor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class Span(NamedTuple):
    """A finished span."""

    trace: str
    """Trace id, 32 hex digits."""
    span: str
    """Span id, 16 hex digits."""
    name: str
    seconds: float
    """Its duration."""


class FileExporter(SpanExporter):
    """Appends each span, when it ends, to a file of its process: a forked child has no thread that could send it."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        directory = _directory(Path(os.environ.get("EXAMPLE_DATA_DIR") or "example_worker_data"))
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(_read(span))}\n" for span in spans)
        return SpanExportResult.SUCCESS


def record() -> None:
    """Record spans for the messages that this process and its children publish and the tasks that they run."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


def load(data_dir: Path) -> list[Span]:
    """All spans in the data directory."""
    files = sorted(_directory(data_dir).glob("*.jsonl"))
    return [Span(*json.loads(line)) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def _directory(data_dir: Path) -> Path:
    return data_dir / "spans"


def _read(span: ReadableSpan) -> Span:
    context = span.get_span_context()
    assert context is not None, "every exported span has a context"
    return Span(
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
        span.name,
        ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
    )
