"""Which attempts belong to a task: those with its id and its customer; and of them, those of its newest execution.

An id that a sender uses again is another execution of the same row. The attempts of earlier ones stay, for they have
happened, but say nothing of how the row came about.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from celery_asynctask.core.keys import ORDER_DIGITS, TIME_DIGITS, least_attempt_key
from celery_asynctask.queries.scope import Scope
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

Condition = ColumnElement[bool]


def of_task(task: Any = AsyncTask) -> Condition:
    """Condition of the attempts of a task, whatever their execution: of a row of the outer query, or of one that is
    known."""
    return sa.and_(
        AsyncTaskAttempt.celery_task_id == task.celery_task_id, AsyncTaskAttempt.customer_key == task.customer_key
    )


def of_newest(task: Any = AsyncTask) -> Condition:
    """Condition of the attempts of a task's newest execution, as `of_task`. An imported row may have an order key of
    another form, which does not say it: then all attempts count."""
    order_key = task.order_key
    if isinstance(order_key, str):
        return sa.and_(of_task(task), AsyncTaskAttempt.run_key >= least_attempt_key(order_key))
    is_of_other_form = sa.func.length(order_key) != ORDER_DIGITS
    since = sa.func.substr(order_key, 1, TIME_DIGITS)
    return sa.and_(of_task(task), sa.or_(is_of_other_form, AsyncTaskAttempt.run_key >= since))


def seen_of(scope: Scope, task: Any) -> Condition:
    """Condition of the attempts of a task that is in ``scope``, as far as they are. Attempts do not say who created
    their execution: those of earlier ones are only for readers of all creators' tasks."""
    return of_task(task) if scope.creators is None else of_newest(task)
