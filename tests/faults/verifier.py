"""Asks the ledger while everything is broken whether the record is complete, and holds it to its word.

A child that starts its next task has handed over the end of the one before. So once the ledger, asked later, has said
that the record is complete, the row of that end must come, and where it said that the journal is empty, the row must be
there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from celery_asynctask.errors import StoreError
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.store.models import AsyncTaskAttempt
from tests.faults.truth import Run, runs_of
from tests.faults.world import World, by_task
from tests.pace import patience

WINDOW_SECONDS = 60
"""How far back the ends are that one answer is held to at once; the last look is at all of them."""
COMMAND = ("asynctask", "verify", "--json")
OUTCOMES = {"end": "succeeded", "fail": "failed", "retry": "retried"}


class Answer(NamedTuple):
    """One answer of the ledger."""

    at: int
    """When it was asked, in nanoseconds."""
    is_complete: bool
    in_journal: int


class Verifier:
    """Asks, and looks at the answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.reader = Reader(world.store)
        self.answers: list[Answer] = []
        self.lies: list[str] = []
        self.failed = 0
        """How often the ledger could not be read, because the database had just come up."""

    def look(self, killed: Mapping[int, int]) -> None:
        """Ask. The database must be up."""
        at = time.time_ns()
        try:
            ledger = completeness(self.reader, survey_of(self.world.journal)).ledger
        except StoreError:
            self.failed += 1
            return
        answer = Answer(at, ledger.complete is True, ledger.in_journal)
        self.answers.append(answer)
        if answer.is_complete and not answer.in_journal:
            runs = runs_of(self.world.runs.read(), killed)
            self.lies += self._untrue(runs, killed, at, at - WINDOW_SECONDS * 10**9)

    def command(self) -> tuple[int, dict[str, Any]]:
        """The exit code of `verify` as an operator runs it, and the total that it prints."""
        process, log = self.world.start("verify", "-m", "celery", "-A", "tests.faults.app", *COMMAND)
        code = process.wait(patience(30))
        printed = log.read_text(encoding="utf-8")
        total = next((line for line in printed.splitlines() if line.startswith('{"')), None)
        assert total is not None, printed
        return code, json.loads(total)

    def lied(self, runs: Iterable[Run], killed: Mapping[int, int]) -> list[str]:
        """Once everything is stored: what has no true row of all that had ended before the ledger said for the last
        time that the record is complete; and what was found before."""
        last = max((answer.at for answer in self.answers if answer.is_complete), default=0)
        return self.lies + self._untrue(runs, killed, last, 0)

    def close(self) -> None:
        self.reader.close()

    def _untrue(self, runs: Iterable[Run], killed: Mapping[int, int], before: int, since: int) -> list[str]:
        told = [run for run, at in handed_over(runs, killed) if since < at < before]
        attempts = by_task(self.world.attempts({run.task_id for run in told}))
        return [
            f"{run.task_id}: the record was complete, they said, but of {run} there is {attempts.get(run.task_id)}"
            for run in told
            if not any(_tells(attempt, run) for attempt in attempts.get(run.task_id, ()))
        ]


def handed_over(runs: Iterable[Run], killed: Mapping[int, int]) -> Iterator[tuple[Run, int]]:
    """The ended runs whose process started another one afterwards, and when it did."""
    last: dict[int, Run] = {}
    for run in runs:
        before = last.get(run.pid)
        if before is not None and before.ended and not before.ended_at < killed.get(run.pid, 0) < run.started:
            yield before, run.started
        last[run.pid] = run


def _tells(attempt: AsyncTaskAttempt, run: Run) -> bool:
    return (attempt.pid, attempt.retries, attempt.outcome) == (run.pid, run.retries, OUTCOMES[run.ended])
