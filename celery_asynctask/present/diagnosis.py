"""Why a task is in its status: the evidence of `queries.diagnosis` in plain sentences. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.core.accounting import SILENT, plural
from celery_asynctask.core.keys import happened_at, is_planned, is_unsent
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.queries.diagnosis import Evidence, Process

MAX_HOSTS: Final = 3
"""Hosts that are named of which nobody knows what they did last."""
MAX_TEXT: Final = 400
"""Characters of an error's text in a sentence."""


class Words(NamedTuple):
    """How values are written, and at what time."""

    now: dt.datetime
    show: Callable[[Any], str]
    """A time, length of time or number as text."""
    age: Callable[[dt.timedelta], str]
    """How long ago something is."""
    errors: bool = True
    """Whether error messages are quoted, and lines of code named; if not, classes of errors alone."""

    def at(self, moment: dt.datetime | None) -> str:
        """A moment; empty where it is not known."""
        return "" if moment is None else self.show(moment)

    def ago(self, moment: dt.datetime) -> str:
        """A moment in the past and how long ago it is."""
        return f"{self.show(moment)} ({self.lasted(moment)} ago)"

    def said(self, message: str | None) -> str:
        """An error's text in one line, at most `MAX_TEXT` characters, without a full stop; empty: there is none, or it
        is not quoted."""
        line = " ".join((message or "").split()) if self.errors else ""
        return (line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}…").rstrip(".")

    def error(self, kind: str | None, message: str | None) -> str:
        """An error's class and text, without a full stop."""
        text = self.said(message)
        return f"{kind or 'an error'}: {text}" if text else kind or "an error"

    def lasted(self, since: dt.datetime) -> str:
        """How long it is since a moment; none where clocks differ and it is still to come."""
        return self.age(max(self.now - since, dt.timedelta()))


def explain(evidence: Evidence, words: Words) -> list[str]:
    """The short answer in sentences, the answer itself first, then those of its causes. Names and error texts stand in
    them as they were recorded, in one line each."""
    sentences: list[str] = []
    seen: set[tuple[str, str]] = set()
    at: Evidence | None = evidence
    while at is not None and (identity := (at.task.celery_task_id, at.task.customer_key)) not in seen:
        seen.add(identity)
        if at is not evidence:
            sentences.append(f"{at.task.name} [{at.task.celery_task_id}] {_BECAME[at.task.status]}:")
        sentences += [*_SENTENCES[at.task.status](at, words), *_unheard(at, words), *_used_again(at, words)]
        at = at.cause
    return [" ".join(sentence.split()) for sentence in sentences]


def _unheard(evidence: Evidence, words: Words) -> list[str]:
    """Where it may have ended without anybody knowing."""
    hosts = list(evidence.unheard.items())
    sentences = [
        f"{host} has not been heard since {words.ago(seen)}: it may have ended there."
        for host, seen in hosts[:MAX_HOSTS]
    ]
    if (others := len(hosts) - MAX_HOSTS) > 0:
        sentences.append(f"The same is true of {words.show(others)} more {plural(others, 'host')}.")
    return sentences


def _used_again(evidence: Evidence, words: Words) -> list[str]:
    """That the id was used before, for a reader who knows of other attempts."""
    count = evidence.of_earlier_executions
    if not count:
        return []
    attempts = f"{words.show(count)} {plural(count, 'attempt')}"
    return [
        f"Its id was used before: {attempts} of earlier executions {'is' if count == 1 else 'are'} not counted here."
    ]


def _success(evidence: Evidence, words: Words) -> list[str]:
    task = evidence.task
    took = ""
    if task.started_at is not None and task.completed_at is not None:
        took = f", {words.show(task.completed_at - task.started_at)} after it first started"
    where = f",{_where(evidence)}" if _where(evidence) else ""
    return [f"It succeeded at {words.at(task.completed_at)}{took}{where}.", *_earlier(evidence, words)]


def _failure(evidence: Evidence, words: Words) -> list[str]:
    task = evidence.task
    if is_unsent(task.order_key):
        return _unsent(evidence, words)
    text = words.error(task.error_type, task.error_message)
    if task.started_at is None and evidence.last is None:
        if task.error_type == "NotRegistered":
            return [
                f"The worker that received it knows no task called {task.name}: either the name is wrong, or that "
                "worker does not import the module that defines it."
            ]
        return [f"Its body never ran, because the worker could not run its message: {text}."]
    match task.error_type:
        case "TimeLimitExceeded":
            limit = re.search(r"[0-9.]+", words.said(task.error_message))
            seconds = f" of {limit[0]} s" if limit else ""
            answer = f"It exceeded its hard time limit{seconds}, and its process was ended."
        case "SoftTimeLimitExceeded":
            answer = "It exceeded its soft time limit and did not catch SoftTimeLimitExceeded."
        case "WorkerLostError":
            answer = f"Its process died while running it: {text}."
            if re.search(r"SIGKILL|signal 9\b", task.error_message or ""):
                answer += " If nobody sent that signal, the kernel probably did, because memory ran out."
        case _:
            answer = f"It failed with {text}."
    return [answer, *_place(evidence, words), *_attempt(evidence, words), *_earlier(evidence, words)]


def _unsent(evidence: Evidence, words: Words) -> list[str]:
    answer = "It was never sent, because a task before it in its workflow did not succeed."
    if evidence.cause is not None:
        return [answer]
    said = words.said(evidence.task.error_message)
    return [answer, f"{said}. {_NOT_SEEN}" if said else _NOT_SEEN]


_NOT_SEEN: Final = "That task has no row that you may see."


def _revoked(evidence: Evidence, words: Words) -> list[str]:
    task = evidence.task
    message = task.error_message or ""
    if message == "expired":
        after = f" and dropped {words.show(task.completed_at - task.created_at)} later" if task.completed_at else ""
        return [f"It expired before it could start: created at {words.show(task.created_at)}{after}."]
    if evidence.last is not None and evidence.last.outcome == "terminated":
        signal = words.said(message).removeprefix("terminated by ")
        return [
            f"It was terminated{f' with {signal}' if signal else ''} while it ran; by whom is not recorded.",
            *_attempt(evidence, words),
        ]
    ended = words.at(task.completed_at)
    return [f"It was revoked before it started; by whom is not recorded. A worker dropped its message at {ended}."]


def _rejected(evidence: Evidence, words: Words) -> list[str]:
    task = evidence.task
    if evidence.last is None:
        return [f"A worker could not read its message as a task: {words.error(task.error_type, task.error_message)}."]
    text = words.said(task.error_message)
    return [f"Its body raised Reject{f': {text}' if text else ''}.", *_attempt(evidence, words)]


def _ignored(evidence: Evidence, words: Words) -> list[str]:
    return [
        "Its body raised Ignore: neither a success nor a failure, and no later step of its workflow is sent.",
        *_attempt(evidence, words),
    ]


def _lost(evidence: Evidence, words: Words) -> list[str]:
    process = evidence.source
    if process is not None and process.ended_at is not None and evidence.last is not None:
        answer = f"Its outcome is unknown: process {process.pid} of {process.host} died before it reported one."
    else:
        text = words.said(evidence.task.error_message)
        answer = f"Its outcome is unknown. {text}." if text else "Its outcome is unknown."
    return [
        answer,
        *_attempt(evidence, words),
        *_ran_by(evidence, words),
        "If it reports back or is redelivered, this updates itself.",
    ]


def _started(evidence: Evidence, words: Words) -> list[str]:
    task, last = evidence.task, evidence.last
    known = last is not None and last.started_at is not None
    since = (last.started_at if last is not None else None) or task.started_at or task.created_at
    answer = f"Running since {words.show(since)} (for {words.lasted(since)})"
    if not known:
        return [f"{answer}."]
    return [f"{answer}{_where(evidence)}.", *_ran_by(evidence, words), *_earlier(evidence, words)]


def _retry(evidence: Evidence, words: Words) -> list[str]:
    task, last = evidence.task, evidence.last
    if last is None or last.ended_at is None:
        since = _since(evidence, words)
        waiting = f"Waiting for its next attempt, retry {task.retries}{f',{since}' if since else ''}."
        return [waiting, *(_released(evidence, words) or [_UNHEARD])]
    error = f" with {words.error(last.error_type, last.error_message)}" if last.error_type else ""
    count = f"{words.show(evidence.attempts)} {plural(evidence.attempts, 'attempt')}"
    answer = f"Waiting for its next attempt: the last one ended at {words.ago(last.ended_at)}{error}."
    so_far = f"{count} so far; when the next one is due is not recorded."
    return [answer, *_place(evidence, words), *_released(evidence, words), so_far]


def _received(evidence: Evidence, words: Words) -> list[str]:
    at = happened_at(evidence.task.order_key)
    when = "" if at is None else f" at {words.ago(at)}"
    holder = evidence.holder
    who = "a worker" if holder is None else _named(holder)
    return [
        f"Received by {who}{when}, not started: it waits for its ETA, a free process or a rate limit; which of them is "
        "not recorded.",
        *_process(words, holder),
    ]


def _pending(evidence: Evidence, words: Words) -> list[str]:
    since = _since(evidence, words)
    if is_planned(evidence.task.order_key):
        return _planned(evidence, words)
    released = _released(evidence, words)
    if evidence.last is not None:
        outcome = evidence.last.outcome or "put back"
        return [f"PENDING again{since}: its last attempt was {outcome}.", *(released or [_UNHEARD])]
    at = happened_at(evidence.task.order_key)
    sent = "Sent." if at is None else f"Sent at {words.ago(at)}."
    sentences = released or [sent, _UNHEARD]
    if evidence.ahead:
        more = " or more" if evidence.ahead_is_bounded else ""
        verb = "is" if evidence.ahead == 1 else "are"
        count = f"{words.show(evidence.ahead)}{more} {plural(evidence.ahead, 'task')}"
        sentences.append(f"{count} created before it {verb} PENDING too, in any queue.")
    elif evidence.ahead == 0 and not evidence.ahead_is_bounded:
        sentences.append("No task created before it is PENDING in any queue: check that a worker reads its queue.")
    return sentences


_UNHEARD: Final = (
    "No worker has said since that it has the message: it may wait in a queue, or the queue was purged or the broker "
    "has lost it."
)


def _released(evidence: Evidence, words: Words) -> list[str]:
    """What became of a message whose worker is gone; nothing where no worker had it."""
    if not evidence.task.holder:
        return []
    holder = evidence.holder
    if holder is None:
        had = "The worker that had its message is gone."
    else:
        gone = "and is gone" if holder.ended_at is None else f"and was found gone at {words.ago(holder.ended_at)}"
        had = f"{_named(holder, 'T')} had its message, {gone}."
    return [
        had,
        "The broker delivers it again, unless the queue was purged; no worker has said since that it has the message.",
    ]


def _named(process: Process, the: str = "t") -> str:
    return f"{the}he {process.role} process {process.pid} of {process.host}"


def _planned(evidence: Evidence, words: Words) -> list[str]:
    answer = "A later step of a workflow, not sent yet."
    if evidence.cause is not None:
        known = {
            AsyncTaskStatus.SUCCESS: "The task that it waits for has succeeded: its own message was lost, or is not "
            "stored yet.",
            AsyncTaskStatus.IGNORED: "It will not be sent: the task that it waits for was ignored.",
        }
        status = evidence.cause.task.status
        if status in known:
            return [f"{answer} {known[status]}"]
        if status in _ENDED:
            return [f"{answer} The task before it {_BECAME[status]}: it is sent only if that task succeeds after all."]
        return [f"{answer} It waits for another task."]
    if not evidence.open:
        return [f"{answer} No other known task of its workflow is under way."]
    count = len(evidence.open)
    named = ", ".join(f"{one.name} [{one.celery_task_id}] {one.status}" for one in evidence.open[:3])
    return [f"{answer} Under way in its workflow: {words.show(count)} {plural(count, 'task')}, such as {named}."]


_SENTENCES: Final[Mapping[AsyncTaskStatus, Callable[[Evidence, Words], list[str]]]] = {
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


_ENDED: Final = frozenset(
    {AsyncTaskStatus.FAILURE, AsyncTaskStatus.REVOKED, AsyncTaskStatus.REJECTED, AsyncTaskStatus.LOST}
)
"""Statuses of a task after which the next step is not sent."""
_BECAME: Final = {
    AsyncTaskStatus.PENDING: "waits",
    AsyncTaskStatus.RECEIVED: "was received",
    AsyncTaskStatus.STARTED: "runs",
    AsyncTaskStatus.RETRY: "is to be retried",
    AsyncTaskStatus.SUCCESS: "succeeded",
    AsyncTaskStatus.FAILURE: "failed",
    AsyncTaskStatus.REVOKED: "was revoked",
    AsyncTaskStatus.REJECTED: "was rejected",
    AsyncTaskStatus.IGNORED: "was ignored",
    AsyncTaskStatus.LOST: "was lost",
}
"""What became of a task, as the predicate of a sentence."""


def _since(evidence: Evidence, words: Words) -> str:
    """Since when it has its status; empty where the key does not say."""
    at = happened_at(evidence.task.order_key)
    return "" if at is None else f" since {words.ago(at)}"


def _place(evidence: Evidence, words: Words) -> list[str]:
    if not evidence.place or not words.errors:
        return []
    return [f"Raised at {re.sub(r' <[a-z]+>$', '', evidence.place)}."]  # without <listcomp>, <lambda>, <module>


def _attempt(evidence: Evidence, words: Words) -> list[str]:
    """When and where the latest attempt was."""
    last = evidence.last
    if last is None or last.ended_at is None:
        return []
    where = _where(evidence)
    if last.started_at is None:
        return [f"The attempt ended at {words.show(last.ended_at)}{where}."]
    if last.outcome == "lost":
        return [f"The attempt started at {words.show(last.started_at)}{where}."]
    took = words.show(last.ended_at - last.started_at)
    return [f"The attempt ended at {words.show(last.ended_at)}, after {took}{where}."]


def _where(evidence: Evidence) -> str:
    last, source = evidence.last, evidence.source
    if last is None:
        return ""
    process = "" if last.pid is None else f" process {last.pid}{f' of {source.host}' if source else ''}"
    worker = f" on {last.worker}" if last.worker else ""
    return f"{worker},{process}" if worker and process else f" in{process}" if process else worker


def _process(words: Words, source: Process | None) -> list[str]:
    """When a process that runs it, or has its message, was last seen alive."""
    if source is None:
        return []
    seen = f"That process was last seen alive at {words.ago(source.last_seen_at)}"
    if source.ended_at is not None:
        return [f"{seen}, and found gone at {words.show(source.ended_at)}."]
    if words.now - source.last_seen_at > SILENT:
        return [f"{seen}: since then no recorder of its node has written to this database."]
    return [f"{seen}."]


def _ran_by(evidence: Evidence, words: Words) -> list[str]:
    """`_process` of the process of the latest attempt."""
    if evidence.source is None and evidence.sources_are_seen:
        return ["The process that ran it is not recorded."]
    return _process(words, evidence.source)


def _earlier(evidence: Evidence, words: Words) -> list[str]:
    if evidence.attempts < 2:
        return []
    ends = ", ".join(f"{name or 'end not seen'} ({words.show(count)})" for name, count in evidence.earlier.items())
    return [f"That was attempt {words.show(evidence.attempts)}; those before it: {ends}."]
