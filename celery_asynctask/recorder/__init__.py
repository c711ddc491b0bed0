"""From the journal into the store: one elected recorder a journal directory drains it, and tells who is gone."""

from __future__ import annotations

from celery_asynctask.recorder.recorder import Recorder

__all__ = ["Recorder"]
