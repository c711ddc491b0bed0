"""For Django projects: Celery's own `DjangoTask`, recorded.

Celery's Django support gives tasks ``delay_on_commit`` and ``apply_async_on_commit``, but only where no task class is
set. ``Celery("proj", task_cls="celery_asynctask.django:RecordedDjangoTask")`` has both.
"""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_asynctask.capture.task import RecordedTask


class RecordedDjangoTask(RecordedTask, DjangoTask):
    """`RecordedTask` with ``delay_on_commit`` and ``apply_async_on_commit``."""

    abstract = True
