"""The health of journal and recorder as OpenTelemetry metrics, through the API: they cost nothing without an SDK.

Names and units follow the semantic conventions: dotted namespaces, UCUM units, ``error.type`` for a reason.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from celery_asynctask.journal.directory import Directory

_meter = metrics.get_meter("celery_asynctask")

_accepted = _meter.create_counter(
    "asynctask.event.accepted", unit="{event}", description="Events read from the journal: what processes accepted."
)
_stored = _meter.create_counter("asynctask.event.stored", unit="{event}", description="Events that are in the tables.")
_quarantined = _meter.create_counter(
    "asynctask.event.quarantined", unit="{event}", description="Events and damaged frames put aside."
)
_dropped = _meter.create_counter(
    "asynctask.event.dropped", unit="{event}", description="Events that could not be written to the journal."
)
_batch_size = _meter.create_histogram(
    "asynctask.recorder.batch.size", unit="{row}", description="Task rows written in one transaction."
)
_batch_duration = _meter.create_histogram(
    "asynctask.recorder.batch.duration", unit="s", description="Time one batch took, from the journal to the commit."
)


def dropped(reason: str) -> None:
    """Count an event that this process dropped. ``reason`` is a key of `Journal.dropped`."""
    _dropped.add(1, {"error.type": reason})


def batch(*, accepted: int, quarantined: int, rows: int, seconds: float) -> None:
    """Count a batch that the recorder stored: ``accepted`` events and damaged lines, ``quarantined`` of them put aside,
    in ``rows`` task rows."""
    _accepted.add(accepted)
    _stored.add(accepted - quarantined)
    if quarantined:
        _quarantined.add(quarantined)
    _batch_size.record(rows)
    _batch_duration.record(seconds)


def observe_journal(directory: Directory) -> None:
    """Report size and age of the segments in ``directory`` whenever metrics are collected, for as long as it lives."""
    _journals[directory.path] = directory


_journals: weakref.WeakValueDictionary[Path, Directory] = weakref.WeakValueDictionary()


def _observed(
    measure: Callable[[list[tuple[int, float]]], float],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_options: CallbackOptions) -> Iterable[Observation]:
        for directory in list(_journals.values()):
            files = []
            try:
                for segment in directory.segments():
                    status = segment.path.lstat()
                    files.append((status.st_size, status.st_mtime))
            except OSError:
                continue  # a file was removed meanwhile, or the directory is away: there is nothing to measure
            yield Observation(measure(files), {"asynctask.journal.directory": str(directory.path)})

    return callback


_meter.create_observable_gauge(
    "asynctask.journal.size",
    [_observed(lambda files: sum(size for size, _ in files))],
    unit="By",
    description="Bytes of the segments in the journal directory.",
)
_meter.create_observable_gauge(
    "asynctask.journal.age",
    [_observed(lambda files: max((time.time() - changed for _, changed in files), default=0.0))],
    unit="s",
    description="Time since the segment that has waited longest was written to.",
)
