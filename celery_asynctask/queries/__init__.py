"""The only reader of the tables, for the command line, the API and the console."""

from __future__ import annotations

from celery_asynctask.queries.reader import Reader
from celery_asynctask.queries.search.filter import Filter, parse
from celery_asynctask.queries.search.page import Page, page

__all__ = ["Filter", "Page", "Reader", "page", "parse"]
