"""Reads the records of one census, with ordinary SQLAlchemy queries over the models of celery-asynctask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt


class Progress(NamedTuple):
    """The progress of a workflow."""

    known: int
    """Number of its tasks, also those that wait for others: the steps of a workflow are recorded when it is sent."""
    done: int
    """Number of its tasks that have ended, with whatever status."""


class Records:
    """The records of the workflow with one root task."""

    def __init__(self, url: str, root_id: str) -> None:
        self.root_id = root_id
        self._engine = create_engine(url)
        self._has_tables = False

    def progress(self) -> Progress:
        """The progress until now. Raises `sqlalchemy.exc.SQLAlchemyError` if the database cannot be read."""
        # The recorder creates the tables with its first batch.
        self._has_tables = self._has_tables or inspect(self._engine).has_table(AsyncTask.__tablename__)
        if not self._has_tables:
            return Progress(0, 0)
        counts = select(func.count(), func.count(AsyncTask.completed_at)).where(AsyncTask.root_task_id == self.root_id)
        with Session(self._engine) as session:
            return Progress(*session.execute(counts).one())

    def tasks(self) -> Sequence[AsyncTask]:
        """All tasks, in the order of their creation."""
        query = select(AsyncTask).where(AsyncTask.root_task_id == self.root_id)
        with Session(self._engine) as session:
            return session.scalars(query.order_by(AsyncTask.created_at, AsyncTask.id)).all()

    def attempts(self) -> Sequence[AsyncTaskAttempt]:
        """All attempts of all tasks, in the order of their ends."""
        query = (
            select(AsyncTaskAttempt)
            .join(AsyncTask, AsyncTask.celery_task_id == AsyncTaskAttempt.celery_task_id)
            .where(AsyncTask.root_task_id == self.root_id)
            .order_by(AsyncTaskAttempt.ended_at)
        )
        with Session(self._engine) as session:
            return session.scalars(query).all()
