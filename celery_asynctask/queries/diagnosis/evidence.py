"""What the rows say about where a task is; `present.diagnosis` makes sentences of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from celery_asynctask.queries.types import EvidentTask
from celery_asynctask.queries.workflow.tree import Member
from celery_asynctask.store.models import AsyncTaskAttempt, AsyncTaskSource


class Evidence(NamedTuple):
    """What the rows say about a task."""

    task: EvidentTask
    last: AsyncTaskAttempt | None = None
    """Its latest run; None: it never ran."""
    runs: int = 0
    """How many runs there were, the latest included."""
    earlier: Mapping[str, int] = {}
    """How the runs before it ended, with the class of which error or else with which outcome, and how often; the empty
    text: nobody saw it."""
    place: str | None = None
    """Where in the user's own code the error of the latest run came from; None: not known, or there is none."""
    source: AsyncTaskSource | None = None
    """The process of the latest run; None: not known."""
    sources_are_seen: bool = True
    """False: who asks may not see processes, so that none is known says nothing."""
    cause: Evidence | None = None
    """Of a task that was not sent: the one before it in its workflow for which it was not, or for which it waits."""
    open: Sequence[Member] = ()
    """Of a task that was not sent, where nobody knows which task will: what else is under way in its workflow."""
    ahead: int | None = None
    """Of a task that waits on its queue: how many that were asked for before it wait, too; None: not counted."""
    most_ahead: int = 0
    """Where counting them ended."""
