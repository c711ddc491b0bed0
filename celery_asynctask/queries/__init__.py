"""The only reader of the tables: what the command line, and whatever else shows tasks, asks of them."""

from __future__ import annotations

from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.filter import Filter, parse
from celery_asynctask.queries.search.page import Page, page

__all__ = ["Filter", "Page", "Reader", "page", "parse"]
