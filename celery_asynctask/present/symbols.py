"""A sign for each status; its word always stands beside it."""

from __future__ import annotations

from typing import Final

from celery_asynctask.core.status import AsyncTaskStatus

SIGNS: Final = {
    AsyncTaskStatus.PENDING: "…",
    AsyncTaskStatus.RECEIVED: "↓",
    AsyncTaskStatus.STARTED: "▶",
    AsyncTaskStatus.RETRY: "↻",
    AsyncTaskStatus.SUCCESS: "✔",
    AsyncTaskStatus.FAILURE: "✖",
    AsyncTaskStatus.REVOKED: "⊘",
    AsyncTaskStatus.REJECTED: "⊘",
    AsyncTaskStatus.IGNORED: "○",
    AsyncTaskStatus.LOST: "?",
}
