"""Why a task is where it is: the evidence in rows, told in plain sentences.

Pure. `queries.diagnosis` collects the evidence.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.core.accounting import SILENT
from celery_asynctask.core.keys import happened_at, is_planned, is_unsent
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.diagnosis import MAX_AHEAD, Evidence

MAX_TEXT: Final = 400
"""Characters of an error's text that are told."""


class Words(NamedTuple):
    """How things are said, and when."""

    now: dt.datetime
    show: Callable[[Any], str]
    """A time, length of time or number as text."""
    age: Callable[[dt.timedelta], str]
    """How long ago something is."""

    def at(self, moment: dt.datetime | None) -> str:
        """A moment; empty where it is not known."""
        return "" if moment is None else self.show(moment)

    def since(self, moment: dt.datetime) -> str:
        """A moment in the past and how long ago it is."""
        return f"{self.show(moment)} ({self.age(max(self.now - moment, dt.timedelta()))} ago)"


def explain(evidence: Evidence, words: Words) -> list[str]:
    """The short answer, in sentences, the first of which is the answer itself. They hold texts from anywhere."""
    found: list[str] = []
    seen: set[str] = set()
    at: Evidence | None = evidence
    while at is not None and at.task.celery_task_id not in seen:
        seen.add(at.task.celery_task_id)
        if at is not evidence:
            found.append(f"{at.task.name} [{at.task.celery_task_id}] is {at.task.status}:")
        found += _SAID[at.task.status](at, words)
        at = at.cause
    return [" ".join(sentence.split()) for sentence in found]


def _success(told: Evidence, words: Words) -> list[str]:
    task = told.task
    took = ""
    if task.started_at is not None and task.completed_at is not None:
        took = f", {words.show(task.completed_at - task.started_at)} after it first started"
    where = f",{_where(told)}" if _where(told) else ""
    return [f"It succeeded at {words.at(task.completed_at)}{took}{where}.", *_earlier(told, words)]


def _failure(told: Evidence, words: Words) -> list[str]:
    task = told.task
    if is_unsent(task.order_key):
        return _unsent(told)
    text = _error(task.error_type, task.error_message)
    if task.started_at is None and told.last is None:
        if task.error_type == "NotRegistered":
            return [
                f"The worker that got its message knows no task called {task.name}: either the name is wrong, or that "
                "worker does not import the module that defines it."
            ]
        return [f"Its body never ran, for the worker could not run its message: {text}."]
    match task.error_type:
        case "TimeLimitExceeded":
            limit = re.search(r"[0-9.]+", task.error_message or "")
            answer = (
                f"It ran over its hard time limit{f' of {limit[0]} s' if limit else ''}, and its process was ended."
            )
        case "SoftTimeLimitExceeded":
            answer = "It ran over its soft time limit, and did not catch SoftTimeLimitExceeded."
        case "WorkerLostError":
            answer = f"The process that ran it died in the middle of it: {text}."
            if re.search(r"SIGKILL|signal 9\b", task.error_message or ""):
                answer += " Where nobody sent that signal, it is mostly the kernel, out of memory."
        case _:
            answer = f"It failed with {text}."
    return [answer, *_place(told), *_run(told, words), *_earlier(told, words)]


def _unsent(told: Evidence) -> list[str]:
    answer = "It was never sent, because a task before it in its workflow did not succeed."
    if told.cause is not None:
        return [answer]
    return [answer, f"{_in_a_line(told.task.error_message)}. Of that task there is no row that may be seen."]


def _revoked(told: Evidence, words: Words) -> list[str]:
    task = told.task
    ended = words.at(task.completed_at)
    message = task.error_message or ""
    if message == "expired":
        waited = words.show(task.completed_at - task.created_at) if task.completed_at else ""
        return [
            f"It expired before it could start: asked for at {words.show(task.created_at)}, given up {waited} later."
        ]
    if told.last is not None and told.last.outcome == "terminated":
        how = message.removeprefix("terminated by ")
        return [
            f"Somebody had it terminated with {how} while it ran; who, is not recorded.",
            *_run(told, words),
        ]
    return [f"Somebody revoked it before it started; who, is not recorded. A worker dropped its message at {ended}."]


def _rejected(told: Evidence, words: Words) -> list[str]:
    task = told.task
    if told.last is None:
        return [f"A worker could make no task of its message: {_error(task.error_type, task.error_message)}."]
    why = f": {_in_a_line(task.error_message)}" if task.error_message else ""
    return [f"Its body raised Reject{why}.", *_run(told, words)]


def _ignored(told: Evidence, words: Words) -> list[str]:
    return [
        "Its body raised Ignore: neither a success nor a failure, and no later step of its workflow is sent.",
        *_run(told, words),
    ]


def _lost(told: Evidence, words: Words) -> list[str]:
    return [
        f"Nobody knows how it ended. {_in_a_line(told.task.error_message)}.",
        *_run(told, words),
        *_process(told, words),
        "If word comes after all, or the broker delivers it again, the row is put right.",
    ]


def _started(told: Evidence, words: Words) -> list[str]:
    run = told.last
    if run is None or run.started_at is None:
        return [f"It runs since {words.since(told.task.started_at or told.task.created_at)}."]
    return [
        f"It runs since {words.since(run.started_at)}{_where(told)}.",
        *_process(told, words),
        *_earlier(told, words),
    ]


def _retry(told: Evidence, words: Words) -> list[str]:
    task, run = told.task, told.last
    if run is None or run.ended_at is None:
        since = _since(told, words)
        return [f"It waits for its next run, retry {task.retries}{f',{since}' if since else ''}."]
    runs = "One run has" if told.runs == 1 else f"{words.show(told.runs)} runs have"
    because = f", because of {_error(run.error_type, run.error_message)}" if run.error_type else ""
    return [
        f"It waits to be tried again, since {words.since(run.ended_at)}{because}.",
        *_place(told),
        f"{runs} ended so far; when the next one is due, only its message knows.",
    ]


def _received(told: Evidence, words: Words) -> list[str]:
    return [
        f"A worker has its message{_since(told, words)} and has not started it: it waits for its ETA, for a free "
        "process of that worker, or for a rate limit."
    ]


def _pending(told: Evidence, words: Words) -> list[str]:
    task, run = told.task, told.last
    since = _since(told, words)
    if is_planned(task.order_key):
        return _planned(told, words)
    if run is not None:
        return [f"Its last run was {run.outcome or 'put back'}, and it is back on its queue{since}."]
    found = [f"It is still queued{since}: no worker has said that it has its message."]
    if told.ahead:
        count = f"{words.show(told.ahead)}{' or more' if told.ahead >= MAX_AHEAD else ''}"
        found.append(f"Waiting, too, and asked for before it: {count}.")
    elif told.ahead == 0:
        found.append("Nothing that was asked for before it waits on any queue: does a worker read its queue?")
    return found


def _planned(told: Evidence, words: Words) -> list[str]:
    answer = "It is a later step of a workflow and was not sent yet."
    if told.cause is not None:
        more = {
            AsyncTaskStatus.SUCCESS: " What it waits for has succeeded: its message got lost, or is not stored yet.",
            AsyncTaskStatus.IGNORED: " It will not be: what it waits for was ignored.",
        }
        return [answer + more.get(told.cause.task.status, " It waits for another task.")]
    if not told.open:
        return [f"{answer} Nothing else that is known of its workflow is under way."]
    named = ", ".join(f"{one.name} [{one.celery_task_id}] {one.status}" for one in told.open[:3])
    return [f"{answer} Under way in its workflow: {words.show(len(told.open))}, such as {named}."]


_SAID: Final[Mapping[AsyncTaskStatus, Callable[[Evidence, Words], list[str]]]] = {
    AsyncTaskStatus.PENDING: _pending,
    AsyncTaskStatus.RECEIVED: _received,
    AsyncTaskStatus.STARTED: _started,
    AsyncTaskStatus.RETRY: _retry,
    AsyncTaskStatus.SUCCESS: _success,
    AsyncTaskStatus.FAILURE: _failure,
    AsyncTaskStatus.REVOKED: _revoked,
    AsyncTaskStatus.REJECTED: _rejected,
    AsyncTaskStatus.IGNORED: _ignored,
    AsyncTaskStatus.LOST: _lost,
}


def _since(told: Evidence, words: Words) -> str:
    """Since when its status is so; empty where nobody knows."""
    at = happened_at(told.task.order_key)
    return "" if at is None else f" since {words.since(at)}"


def _place(told: Evidence) -> list[str]:
    return [f"That was at {told.place}."] if told.place else []


def _run(told: Evidence, words: Words) -> list[str]:
    """When and where the latest run was."""
    run = told.last
    if run is None or run.ended_at is None:
        return []
    if run.started_at is None:
        return [f"Its run ended at {words.show(run.ended_at)}{_where(told)}."]
    if run.outcome == "lost":
        return [f"It ran since {words.show(run.started_at)}{_where(told)}."]
    took = words.show(run.ended_at - run.started_at)
    return [f"Its run ended at {words.show(run.ended_at)}, after {took}{_where(told)}."]


def _where(told: Evidence) -> str:
    run, source = told.last, told.source
    if run is None:
        return ""
    process = "" if run.pid is None else f" process {run.pid}{f' of {source.host}' if source else ''}"
    worker = f" on {run.worker}" if run.worker else ""
    return f"{worker},{process}" if worker and process else f" in{process}" if process else worker


def _process(told: Evidence, words: Words) -> list[str]:
    """When the process of the latest run was last seen alive."""
    source = told.source
    if source is None:
        return ["Nothing is noted of the process that ran it."] if told.sources_are_seen else []
    found = f"That process was last seen alive at {words.since(source.last_seen_at)}"
    if source.ended_at is not None:
        return [f"{found}, and found gone at {words.show(source.ended_at)}."]
    if words.now - source.last_seen_at > SILENT:
        return [f"{found}: since then no recorder of its node has written to this database."]
    return [f"{found}."]


def _earlier(told: Evidence, words: Words) -> list[str]:
    if told.runs < 2:
        return []
    ends = ", ".join(
        f"{name or 'an end that nobody saw'} ({words.show(count)})" for name, count in told.earlier.items()
    )
    return [f"That was run {words.show(told.runs)}; before it: {ends}."]


def _error(kind: str | None, message: str | None) -> str:
    """An error's class and text, without a full stop."""
    return f"{kind or 'an error'}: {_in_a_line(message)}" if message else kind or "an error"


def _in_a_line(message: str | None) -> str:
    """An error's text in one line, bounded, without a full stop."""
    line = " ".join((message or "").split())
    return (line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}…").rstrip(".")
