"""The recorder's metrics, as an application with OpenTelemetry's SDK collects them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.pace import patience

SCRIPT = """
import gc
import sys
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from celery_asynctask.recorder.drain import Drain
from celery_asynctask.core.event import encode
from celery_asynctask.journal import Directory, Journal, spare
from celery_asynctask.settings import Settings

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
here = Path(sys.argv[1])
settings = Settings(url=f"sqlite:///{here / 'rows.db'}", journal_dir=here / "journal")
drain = Drain(Directory(settings.directory, settings.store_id), settings)
journal = Journal(settings.directory, settings.store_id)
for number in range(3):
    journal.append(encode({"kind": "published", "id": f"t{number}", "name": "n", "at": 5, "root": None}))
journal.append(b'{"no": "event"}')


def collected():
    measured = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                point = metric.data.data_points[0]
                value = point.value if hasattr(point, "value") else (point.count, point.sum)
                measured[metric.name] = (metric.unit, value, dict(point.attributes))
    return measured


waiting = collected()
assert waiting["asynctask.journal.size"][0] == "By" and waiting["asynctask.journal.size"][1] > 300, waiting
assert waiting["asynctask.journal.age"][:1] == ("s",) and 0 <= waiting["asynctask.journal.age"][1] < 60
drain.work()
drain.close()
spare.spare_of = lambda *_: None
nowhere = Journal(Path("/dev/null/journal"), settings.store_id)
nowhere.append(b"{}")
nowhere.abandon()
stored = collected()
assert stored["asynctask.event.accepted"] == ("{event}", 4, {})
assert stored["asynctask.event.stored"] == ("{event}", 3, {})
assert stored["asynctask.event.quarantined"] == ("{event}", 1, {})
assert stored["asynctask.event.dropped"] == ("{event}", 1, {"error.type": "unusable directory"})
assert stored["asynctask.recorder.batch.size"][:2] == ("{row}", (1, 3))
assert stored["asynctask.recorder.batch.duration"][0] == "s"
assert "asynctask.journal.size" in stored
del drain
gc.collect()
assert "asynctask.journal.size" not in collected(), "nobody drains it here any longer"
"""


def test_metrics(tmp_path: Path) -> None:
    """In a process of its own: a meter provider can be set once."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        encoding="utf-8",
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
