"""The console: the record as HTML pages, from the same queries and with the same access as the API."""

from __future__ import annotations

from celery_asynctask.console.application import console

__all__ = ["console"]
