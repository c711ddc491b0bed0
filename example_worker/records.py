"""Reading what celery-asynctask recorded of one census: ordinary SQLAlchemy queries over its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask, AsyncTaskAttempt


class Progress(NamedTuple):
    """How far a workflow is."""

    known: int
    """Tasks, those that wait for others among them: a workflow's steps are recorded when it is sent."""
    done: int
    """Tasks that have ended, one way or another."""


class Records:
    """The records of the workflow that began with one task."""

    def __init__(self, url: str, root_id: str) -> None:
        self.root_id = root_id
        self._engine = create_engine(url)
        self._there = False

    def progress(self) -> Progress:
        """Raises `sqlalchemy.exc.SQLAlchemyError` where the database cannot be asked."""
        # The recorder creates the tables with its first batch.
        self._there = self._there or inspect(self._engine).has_table(AsyncTask.__tablename__)
        if not self._there:
            return Progress(0, 0)
        counts = select(func.count(), func.count(AsyncTask.completed_at)).where(AsyncTask.root_task_id == self.root_id)
        with Session(self._engine) as session:
            return Progress(*session.execute(counts).one())

    def tasks(self) -> Sequence[AsyncTask]:
        """Every task, in the order they were asked for."""
        query = select(AsyncTask).where(AsyncTask.root_task_id == self.root_id)
        with Session(self._engine) as session:
            return session.scalars(query.order_by(AsyncTask.created_at, AsyncTask.id)).all()

    def attempts(self) -> Sequence[AsyncTaskAttempt]:
        """Every run of every task, in the order they ended."""
        query = (
            select(AsyncTaskAttempt)
            .join(AsyncTask, AsyncTask.celery_task_id == AsyncTaskAttempt.celery_task_id)
            .where(AsyncTask.root_task_id == self.root_id)
            .order_by(AsyncTaskAttempt.ended_at)
        )
        with Session(self._engine) as session:
            return session.scalars(query).all()
