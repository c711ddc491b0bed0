"""The node's durable queue of events: a directory with one file, a segment, per process that writes."""

from __future__ import annotations

from celery_asynctask.journal.directory import Directory, Segment
from celery_asynctask.journal.writer import Journal

__all__ = ["Directory", "Journal", "Segment"]
