"""OpenTelemetry's SDK and its instrumentation of Celery, with spans written to a file per process."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class FileExporter(SpanExporter):
    """Appends each span as a JSON line to a file of the process that ended it, so that nothing waits in a child's
    memory."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        directory = Path(os.environ["SHAPES_SPANS"])
        directory.mkdir(exist_ok=True)
        with (directory / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{line(span)}\n" for span in spans)
        return SpanExportResult.SUCCESS


def line(span: ReadableSpan) -> str:
    return json.dumps(
        {
            "name": span.name,
            "trace": trace.format_trace_id(span.context.trace_id),
            "span": trace.format_span_id(span.context.span_id),
            "attributes": dict(span.attributes or {}),
        },
        default=str,
    )


def provide() -> None:
    """Make this process record spans; repeated calls do nothing."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
        trace.set_tracer_provider(provider)


def instrument(**options: bool) -> None:
    """Record spans, and let OpenTelemetry instrument Celery."""
    provide()
    CeleryInstrumentor().instrument(**options)


def uninstrument() -> None:
    CeleryInstrumentor().uninstrument()


def read(directory: Path) -> list[dict[str, str]]:
    """The spans that were written into the directory."""
    return [
        json.loads(line) for file in directory.glob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()
    ]
