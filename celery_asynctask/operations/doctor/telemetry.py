"""Checks of OpenTelemetry: what is installed, and whether traces are made."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import metrics, trace

from celery_asynctask.core.text import reason
from celery_asynctask.core.url import hidden
from celery_asynctask.operations.doctor.finding import Check, Finding
from celery_asynctask.settings import Settings

_TELEMETRY = Check("telemetry")
_INSTRUMENTATION = "opentelemetry-instrumentation-celery"
_NONE = frozenset({"ProxyTracerProvider", "NoOpTracerProvider", "_ProxyMeterProvider", "NoOpMeterProvider"})
"""Classes that stand in for a provider until there is one."""


def telemetry(settings: Settings | None) -> Iterator[Finding]:
    """The state of this process after the app is loaded; a worker may configure more when it starts."""
    api = _version("opentelemetry-api")
    is_traced = _has_provider(trace.get_tracer_provider())
    if is_traced:
        providers = f"{type(trace.get_tracer_provider()).__name__} makes traces"
        if _has_provider(metrics.get_meter_provider()):
            providers += f", {type(metrics.get_meter_provider()).__name__} the recorder's metrics"
        yield _TELEMETRY.ok(f"OpenTelemetry API {api}; {providers}.")
    else:
        yield _TELEMETRY.note(
            f"OpenTelemetry API {api}; nothing in this process makes traces, so rows have none, unless the workers are "
            "started with a provider.",
            "For traces, configure the OpenTelemetry SDK, for example by `opentelemetry-instrument celery ...`.",
        )
    yield from _instrumentation()
    if settings is not None and settings.trace_url is not None:
        yield _TELEMETRY.ok(f"Traces are linked to {hidden(settings.trace_url)}.")
    elif settings is not None and is_traced:
        yield _TELEMETRY.note("asynctask_trace_url is not set: `show` prints a trace's id without a link to it.")


def _instrumentation() -> Iterator[Finding]:
    installed = _version(_INSTRUMENTATION)
    if installed is None:
        yield _TELEMETRY.note(
            f"{_INSTRUMENTATION} is not installed: attempts have no spans of their own, only their producer's.",
        )
        return
    try:
        active = import_module("opentelemetry.instrumentation.celery").CeleryInstrumentor()
        is_active = bool(active.is_instrumented_by_opentelemetry)
    except Exception as exc:  # noqa: BLE001 - another release may have it elsewhere, or need other packages
        yield _TELEMETRY.note(f"{_INSTRUMENTATION} {installed} cannot be used: {reason(exc)}.")
        return
    if is_active:
        yield _TELEMETRY.ok(f"{_INSTRUMENTATION} {installed} is active in this process.")
    else:
        yield _TELEMETRY.note(
            f"{_INSTRUMENTATION} {installed} is installed, but not active in this process.",
            "Call CeleryInstrumentor().instrument() in worker_process_init, or use `opentelemetry-instrument`.",
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_provider(provider: object) -> bool:
    """Whether a provider is set; the API's own stand-in does nothing."""
    return type(provider).__name__ not in _NONE
