"""A census of Python source trees: a small Celery application whose executions celery-asynctask records.

``python -m example_worker [DIR]`` takes a census with a worker of its own and shows what was recorded.
``celery -A example_worker worker`` runs only the worker.
"""

from __future__ import annotations

from example_worker.celery import app

__all__ = ["app"]
