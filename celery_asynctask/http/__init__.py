"""The record over HTTP: an ASGI application with an OpenAPI document. Needs ``celery-asynctask[http]``; no worker
imports it."""

from __future__ import annotations

from celery_asynctask.core.rights import Right
from celery_asynctask.http.application import create_app
from celery_asynctask.web.access import Access

__all__ = ["Access", "Right", "create_app"]
