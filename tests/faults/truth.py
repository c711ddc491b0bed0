"""The statuses that a row may have, according to the notes of the bodies, after processes were killed at random.

Bodies note their starts and ends; whoever kills a process notes it. An attempt whose process was killed may have ended
in one of a few ways that nobody can tell apart; all others can have ended in only one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt
from tests.faults.notes import Note
from tests.faults.world import by_task

KILLED = frozenset({"FAILURE WorkerLostError", "LOST WorkerLostError"})
"""The record of an attempt that will not run again: the main process saw its child die, or nobody did."""
ENDS = {"end": "SUCCESS None", "fail": "FAILURE ValueError"}
LATE = ("late", "again_late")


class Run(NamedTuple):
    """One attempt, according to its notes."""

    task_id: str
    kind: str
    retries: int
    redelivered: bool
    started: int
    pid: int
    ended: str
    """Its last note: end, fail, retry; empty: none."""
    ended_at: int
    """When it was noted; 0: there is none."""
    killed: bool
    """Whether its process was killed after it had started."""

    @property
    def allowed(self) -> frozenset[str]:
        """The statuses that the row may have if this attempt decides."""
        if self.ended in ENDS:
            statuses = frozenset({ENDS[self.ended]})  # written right after the note, unless the process was killed
            return statuses | KILLED if self.killed else statuses
        return KILLED if self.killed else frozenset()


def runs_of(notes: Sequence[Note], killed: Mapping[int, int]) -> list[Run]:
    """The noted attempts, in the order of their starts. ``killed`` has the time at which each process was killed, by
    its id."""
    runs: list[Run] = []
    open_runs: dict[tuple[str, int], int] = {}
    for note in sorted(notes):
        key = note.task_id, note.pid
        if note.what == "start":
            open_runs[key] = len(runs)
            was_killed = killed.get(note.pid, 0) > note.at
            runs.append(
                Run(note.task_id, note.kind, note.retries, note.redelivered, note.at, note.pid, "", 0, was_killed)
            )
        else:
            at = open_runs.pop(key)
            runs[at] = runs[at]._replace(ended=note.what, ended_at=note.at)
    return runs


def status(row: AsyncTask) -> str:
    return f"{row.status.value} {row.error_type}"


class Verdict(NamedTuple):
    wrong: list[str]
    statuses: Counter[str]
    never_run: int
    """Tasks that a producer sent, that are no later steps, and that no body noted."""
    unnoted: int
    """Attempts without a note: the process was killed between the package's event and the body's own note."""


def judge(
    asks: Sequence[Note],
    runs: Sequence[Run],
    rows: Sequence[AsyncTask],
    attempts: Sequence[AsyncTaskAttempt],
    killed: Mapping[int, int],
) -> Verdict:
    """Check the stored rows against the notes."""
    wrong: list[str] = []
    ran, tried = by_task(runs), by_task(attempts)
    by_id = {row.celery_task_id: row for row in rows}
    shapes = {note.task_id: note.kind for note in asks}
    if len(by_id) != len(rows):
        wrong.append(f"{len(rows) - len(by_id)} rows twice")
    asked = {note.task_id for note in asks if note.what == "asked"}
    wrong += [f"{task_id}: no row" for task_id in sorted((asked | set(ran)) - set(by_id))]
    wrong += [f"{task_id}: a row of nothing" for task_id in sorted(set(by_id) - set(shapes) - set(ran))]
    never_run = unnoted = 0
    for task_id, row in by_id.items():
        mine, theirs = ran.get(task_id, []), tried.get(task_id, [])
        noted = Counter(run.pid for run in mine)
        recorded = Counter(attempt.pid for attempt in theirs)
        wrong += [f"{task_id}: an attempt of process {pid} has no row" for pid in noted if noted[pid] > recorded[pid]]
        extra = recorded - noted
        unnoted += extra.total()
        wrong += [f"{task_id}: an attempt nobody made, in process {pid}" for pid in extra if pid and pid not in killed]
        allowed = _allowed(mine, shapes.get(task_id, ""))
        if extra:
            allowed |= KILLED
        if not mine and shapes.get(task_id) in ("single", "group", "retried"):
            never_run += 1
        if status(row) not in allowed:
            wrong.append(f"{task_id} ({shapes.get(task_id)}): {status(row)}, not {sorted(allowed)}; {mine} {theirs}")
        if mine and row.started_at is None:
            wrong.append(f"{task_id}: ran, and has no start")
    return Verdict(wrong, Counter(map(status, rows)), never_run, unnoted)


def _allowed(runs: Sequence[Run], shape: str) -> set[str]:
    if not runs:
        waiting = {"PENDING None", "RECEIVED None"}
        return waiting | KILLED if shape not in {"chain", "chord"} else waiting | KILLED | {"FAILURE ValueError"}
    last = max(run.retries for run in runs)
    candidates = [run for run in runs if run.retries == last]
    allowed: set[str] = set().union(*(run.allowed for run in candidates))
    if all(run.kind in LATE for run in candidates):
        allowed -= KILLED  # not acknowledged: it is delivered again until an attempt ends
    if any(run.ended == "retry" and run.killed for run in candidates):
        allowed |= KILLED | {"RETRY KeyError", "RETRY None"}
    return allowed
