"""The Celery application. Recording is switched on by ``task_cls``; everything else is ordinary Celery."""

from __future__ import annotations

from celery import Celery

from example_worker import spans

spans.record()

app = Celery(
    "example_worker",
    task_cls="celery_asynctask:RecordedTask",
    config_source="example_worker.config",
    include=["example_worker.tasks"],
)
