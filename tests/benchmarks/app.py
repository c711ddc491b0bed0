"""The app that is measured, in its variants.

As a module, it is the app of a live worker, described by the environment variable `ENVIRONMENT`.
"""

from __future__ import annotations

import json
import os
import time
from functools import cache
from typing import Any

from celery import Celery

ENVIRONMENT = "ASYNCTASK_BENCHMARK"
TASK = "benchmark.work"
ARGS = (1, 2)
KWARGS = {"note": ("lorem ipsum dolor sit amet " * 4)[:100]}
DOSE_NS = 20_000
"""The time that a task of the variant ``dose`` wastes: a known difference, which the method must find."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dose": {},
    "recorded": {},
    "database backend": {"result_extended": True, "task_track_started": True},
    "django-celery-results": {
        "result_backend": "django-db",
        "result_extended": True,
        "task_track_started": True,
    },
}


def build(variant: str, broker: str, url: str = "", journal: str = "", queue: str = "celery", pipe: str = "") -> Celery:
    """An app with one task that does nothing. ``url`` is the database of the variants that use one. Each execution
    writes a byte to the named ``pipe``."""
    task_cls = "celery_asynctask:RecordedTask" if variant == "recorded" else "celery.app.task:Task"
    app = Celery("benchmark", broker=broker, task_cls=task_cls)
    app.conf.update(VARIANTS[variant], task_default_queue=queue)
    if variant == "recorded":
        app.conf.update(asynctask_url=url, asynctask_journal_dir=journal)
    elif variant == "database backend":
        app.conf.result_backend = f"db+{url}"

    @app.task(name=TASK, shared=False)
    def work(_a: int, _b: int, note: str) -> None:
        if variant == "dose":
            end = time.perf_counter_ns() + DOSE_NS
            while time.perf_counter_ns() < end:
                pass
        if pipe:
            os.write(_opened(pipe), b".")

    app.finalize()
    return app


@cache
def _opened(pipe: str) -> int:
    return os.open(pipe, os.O_WRONLY)


if ENVIRONMENT in os.environ:
    app = build(**json.loads(os.environ[ENVIRONMENT]))
