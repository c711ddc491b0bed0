"""Checks of OpenTelemetry: what is installed, and whether anything is configured that makes traces."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import metrics, trace

from celery_asynctask.core.text import reason
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.settings import Settings

_TELEMETRY = Check("telemetry")
_INSTRUMENTATION = "opentelemetry-instrumentation-celery"
_NONE = frozenset({"ProxyTracerProvider", "NoOpTracerProvider", "_ProxyMeterProvider", "NoOpMeterProvider"})
"""Classes of what stands for a provider until there is one."""


def telemetry(settings: Settings | None) -> Iterator[Finding]:
    """As it is in this process, after the app is loaded; a worker may configure more when it starts."""
    api = _version("opentelemetry-api")
    is_traced = _has_provider(trace.get_tracer_provider())
    if is_traced:
        made = f"{type(trace.get_tracer_provider()).__name__} makes traces"
        if _has_provider(metrics.get_meter_provider()):
            made += f", {type(metrics.get_meter_provider()).__name__} the recorder's metrics"
        yield _TELEMETRY.ok(f"OpenTelemetry API {api}; {made}.")
    else:
        yield _TELEMETRY.note(
            f"OpenTelemetry API {api}, and nothing in this process that makes traces: rows have no trace unless the "
            "workers are started with a provider.",
            "To have traces, configure the OpenTelemetry SDK, for example by `opentelemetry-instrument celery ...`.",
        )
    yield from _instrumentation()
    if settings is not None and settings.trace_url is not None:
        yield _TELEMETRY.ok(f"Traces are linked to {settings.trace_url}.")
    elif settings is not None and is_traced:
        yield _TELEMETRY.note("asynctask_trace_url is not set: `show` has the trace's id, and no link to it.")


def _instrumentation() -> Iterator[Finding]:
    installed = _version(_INSTRUMENTATION)
    if installed is None:
        yield _TELEMETRY.note(
            f"{_INSTRUMENTATION} is not installed: runs have no spans of their own, and are in their producer's.",
        )
        return
    try:
        active = import_module("opentelemetry.instrumentation.celery").CeleryInstrumentor()
        is_active = bool(active.is_instrumented_by_opentelemetry)
    except Exception as exc:  # noqa: BLE001 - another release may have it elsewhere, or want other packages
        yield _TELEMETRY.note(f"{_INSTRUMENTATION} {installed} cannot be used: {reason(exc)}.")
        return
    if is_active:
        yield _TELEMETRY.ok(f"{_INSTRUMENTATION} {installed} is active in this process.")
    else:
        yield _TELEMETRY.note(
            f"{_INSTRUMENTATION} {installed} is installed and not active in this process.",
            "CeleryInstrumentor().instrument() in worker_process_init activates it, or `opentelemetry-instrument`.",
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_provider(provider: object) -> bool:
    """Whether somebody has set it: what the API has until then does nothing."""
    return type(provider).__name__ not in _NONE
