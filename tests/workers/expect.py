"""The expected contents of a row, checked field by field."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_asynctask import AsyncTask, AsyncTaskAttempt
from celery_asynctask.capture import context
from celery_asynctask.core.status import TERMINAL
from tests.waiting import wait_for
from tests.workers.harness import ANY, World

RUNS = {"succeeded": "SUCCESS", "failed": "FAILURE", "ignored": "IGNORED", "rejected": "REJECTED"}


@dataclass
class Row:
    """An expected row. ``id`` None: any row of the workflow with this name, args and parent."""

    name: str
    status: str = "SUCCESS"
    id: str | None = None
    args: Any = ()
    kwargs: Any = None
    result: Any = None
    retries: int = 0
    root: Any = None
    parent: Any = None
    error: str | None = None
    message: str | None = None
    outcomes: Sequence[str | None] = ("succeeded",)
    """The outcomes of its attempts, in order; empty: the body never ran."""
    foreign: bool = False
    """Whether its producer is not recorded: no customer, and no trace except the worker's own."""
    blind: bool = False
    """Whether no process that knows the task has had it, so that its arguments are not recorded."""
    noted: dict[str, Any] | None = None
    """What it has added to its content."""
    started: bool | None = None
    """Whether the body ran; None: if there are ``outcomes``."""

    def mismatches(self, row: AsyncTask, attempts: Sequence[AsyncTaskAttempt], trace_id: str | None) -> list[str]:
        """All differences between the row and the expected one, in words. ``trace_id`` is its producer's trace."""
        found = []

        def check(what: str, actual: Any, expected: Any) -> None:
            if expected is not ANY and actual != expected:
                found.append(f"{self.name}: {what} is {actual!r}, expected {expected!r}")

        check("name", row.name, f"tests.workers.app.{self.name}" if "." not in self.name else self.name)
        check("status", str(row.status), self.status)
        args = list(self.args) if isinstance(self.args, tuple) else self.args
        check("task_args", row.task_args, None if self.blind else args)
        check("task_kwargs", row.task_kwargs, None if self.blind else self.kwargs or {})
        check("result", row.result, self.result)
        check("retries", row.retries, self.retries)
        check("root_task_id", row.root_task_id, row.celery_task_id if self.root is None else self.root)
        check("parent_task_id", row.parent_task_id, self.parent)
        check("error_type", row.error_type, self.error)
        if self.message is None:
            check("an error_message", row.error_message is not None, self.error is not None)
        elif self.message not in (row.error_message or ""):
            found.append(f"{self.name}: error_message is {row.error_message!r}, expected to hold {self.message!r}")
        check("outcomes", [one.outcome for one in attempts], list(self.outcomes))
        check("body ran", row.started_at is not None, bool(self.outcomes) if self.started is None else self.started)
        check("completed_at is set", row.completed_at is not None, row.status in TERMINAL)
        if not self.foreign:
            given = context.given()
            check("customer", row.customer, given.get("customer"))
            check("created_by", row.created_by, given.get("created_by"))
            check("created_by_name", row.created_by_name, given.get("created_by_name"))
            check("content", row.content, {**given["content"], **self.noted} if self.noted else given.get("content"))
            check("trace_id", row.trace_id, trace_id)
            if trace_id is not ANY:
                check("traces of attempts", {one.trace_id for one in attempts if one.started_at} - {trace_id}, set())
        times = [time for time in (row.created_at, row.started_at, row.completed_at) if time is not None]
        check("times in order", times, sorted(times))
        for number, one in enumerate(attempts, 1):
            check("attempt", one.attempt, number)
            inner = [one.published_at, one.received_at, one.started_at, one.ended_at]
            check("attempt times in order", known := [time for time in inner if time], sorted(known))
            if one.started_at:
                check("worker and pid", (bool(one.worker), bool(one.pid)), (True, True))
            if one.outcome == "failed":
                check("traceback of a failed attempt", bool(one.traceback), True)
        if str(row.status) in RUNS.values() and attempts:
            check("error of last attempt", attempts[-1].error_type, self.error)
        return found


def expect(world: World, *rows: Row, seconds: float = 30, ids: Sequence[str] = ()) -> None:
    """Wait until the workflow of these rows consists of exactly the expected rows, and each is right. ``ids`` are
    further ids by which rows of the workflow are found."""
    known = [row.id for row in rows if row.id] + list(ids)
    trace_id = world.expected_trace()

    def missing() -> list[str]:
        workflow = _closure(world, known)
        left = list(workflow)
        found = []
        for row in sorted(rows, key=lambda row: row.id is None):
            best = _best(world, row, left, trace_id)
            if best is None:
                found.append(f"{row.name}: no such row")
                continue
            match, wrong = best
            left.remove(match)
            found += wrong
            if wrong:
                times = f"created {match.created_at}, started {match.started_at}, completed {match.completed_at}"
                found.append(f"{match!r}: {times}")
        return found + [
            f"unexpected row {row!r} (root {row.root_task_id}, parent {row.parent_task_id})" for row in left
        ]

    last: list[str] = []

    def right() -> bool:
        world.check_worker()
        last[:] = missing()
        return not last

    try:
        wait_for(right, seconds, "rows to be right")
    except AssertionError:
        raise AssertionError("\n".join(last)) from None


def _closure(world: World, known: list[str]) -> Sequence[AsyncTask]:
    """All rows connected with the known ids by root and parent."""
    ids = list(known)
    while True:
        rows = world.workflow(ids)
        new = [row.celery_task_id for row in rows if row.celery_task_id not in ids]
        if not new:
            return rows
        ids += new


def _best(world: World, row: Row, candidates: Sequence[AsyncTask], trace_id: Any) -> tuple[AsyncTask, list[str]] | None:
    """The candidate that fits best, and its differences."""
    fitting = [one for one in candidates if row.id in (None, one.celery_task_id)]
    judged = [(one, row.mismatches(one, world.attempts(one.celery_task_id), trace_id)) for one in fitting]
    return min(judged, key=lambda pair: len(pair[1]), default=None)


def fresh_id() -> str:
    """A task id chosen by the caller, as applications may do."""
    return f"order-{uuid.uuid4().hex[:8]}"
