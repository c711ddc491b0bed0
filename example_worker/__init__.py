"""A census of Python source trees: a small Celery application whose executions celery-asynctask records.

``python -m example_worker [DIR]`` runs it whole. ``celery -A example_worker worker`` runs the same app's worker alone.
"""

from __future__ import annotations

from example_worker.celery import app

__all__ = ["app"]
