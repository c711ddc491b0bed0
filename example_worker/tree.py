"""Draws a workflow as a tree, from the ``celery_task_id`` and ``parent_task_id`` of its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich.text import Text
from rich.tree import Tree

from celery_asynctask import AsyncTask, AsyncTaskStatus
from example_worker.report import duration_text, seconds, short_name, style_of, subject

MAX_EVENTFUL, MAX_CALM = 6, 2
"""Children of a task, of one name, that are drawn: those with a failure or a retry, and the others."""

Children = dict[str | None, list[AsyncTask]]


def draw(tasks: Sequence[AsyncTask], root_id: str) -> Tree:
    """The tree of a workflow whose rows are ``tasks``, in the order of their creation."""
    known = {task.celery_task_id: task for task in tasks}
    children: Children = defaultdict(list)
    for task in tasks:
        if task.celery_task_id != root_id:
            # A chord's body may be sent by celery.chord_unlock, which is not recorded.
            children[task.parent_task_id if task.parent_task_id in known else root_id].append(task)
    tree = Tree(_label(known[root_id]), guide_style="dim")
    _grow(tree, children[root_id], children)
    return tree


def _grow(tree: Tree, tasks: Sequence[AsyncTask], children: Children) -> None:
    groups: dict[str, list[AsyncTask]] = defaultdict(list)
    for task in tasks:
        groups[task.name].append(task)
    # A task that waited for others comes after them.
    for group in sorted(groups.values(), key=lambda group: max(map(_started, group))):
        drawn = _choose(group, children)
        for task in drawn:
            _grow(tree.add(_label(task)), children[task.celery_task_id], children)
        if rest := len(group) - len(drawn):
            others = Counter(task.status for task in group) - Counter(task.status for task in drawn)
            statuses = ", ".join(f"{count:,} {status}" for status, count in others.items())
            branch = ", each with its own branch" if children[group[-1].celery_task_id] else ""
            tree.add(Text(f"{rest:,} more {short_name(group[0].name)}{branch}: {statuses}", "dim"))


def _started(task: AsyncTask) -> float:
    return (task.started_at or task.created_at).timestamp()


def _choose(group: Sequence[AsyncTask], children: Children) -> list[AsyncTask]:
    """The tasks of the group that are drawn, in order."""
    eventful = [task for task in group if _is_eventful(task, children)]
    calm = [task for task in group if task not in eventful]
    chosen = {task.celery_task_id for task in (*eventful[:MAX_EVENTFUL], *calm[:MAX_CALM])}
    return [task for task in group if task.celery_task_id in chosen]


def _is_eventful(task: AsyncTask, children: Children) -> bool:
    """Whether the task, or any task below it, was retried or did not succeed."""
    below: Iterable[AsyncTask] = children[task.celery_task_id]
    return (
        task.status != AsyncTaskStatus.SUCCESS
        or task.retries > 0
        or any(_is_eventful(child, children) for child in below)
    )


def _label(task: AsyncTask) -> Text:
    label = Text.assemble((short_name(task.name), "bold"), " ")
    if name := subject(task):
        label.append(f"{name} ", "cyan")
    label.append(task.status, style_of(task.status))
    if task.retries:
        label.append(f" after {task.retries} {'retry' if task.retries == 1 else 'retries'}", "yellow")
    if task.error_type:
        label.append(f" {task.error_type}")
    label.append(f" {duration_text(seconds(task.started_at, task.completed_at))}", "dim")
    return label
