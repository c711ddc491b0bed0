"""The execution that a message goes on with: of a task that is sent again, or of the task that carried it as a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.capture import step_events
from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.headers import header_of
from celery_asynctask.capture.messages import open_message
from celery_asynctask.core import canvas
from celery_asynctask.core.time import now

_STEPS: Final = attribute("steps")
"""Attribute of an attempt's request: the ids of the steps behind it."""
CHORD_UNLOCK: Final = "celery.chord_unlock"
"""The task that sends a chord's body where the result backend does not count the header tasks."""


class Before(NamedTuple):
    """The message whose execution another goes on with."""

    header: Mapping[str, Any]
    """Our header in it; empty if it has none."""
    is_same: bool = False
    """Whether it is of the same task, which is sent again."""
    keeps_customer: bool = False
    """Whether the message cannot be for another customer: it, or what it carries, has the id of the one before."""


def continued(
    request: Any, sender: str, name: str, task_id: Any, given: Any, message: Any, *, again: bool
) -> Before | None:
    """What a message goes on with; None: it begins an execution.

    ``request`` is that of the task that sends it, or None, and ``sender`` its name; ``given`` the header that the
    message has already, ``again`` whether it is of a retry or a replacement. Everything that replaces a task goes on
    with its execution, as the last of it has its id.
    """
    if request is not None:
        if again and request.id == task_id:
            return Before(header_of(request), is_same=True, keeps_customer=True)
        if sender == CHORD_UNLOCK:
            header = header_of(request)
            is_known = "body" in header or "created" in header
            return Before(header if is_known else {**header, "body": now()})  # an earlier release has sent it
        if is_step_of(request, task_id):
            return Before(header_of(request))
        carried = _carried(name, message)
        if request.id in carried:
            return Before(header_of(request), keeps_customer=True)
        if name == CHORD_UNLOCK and not carried.isdisjoint(_steps_of(request)):
            return Before(header_of(request))
    if again and isinstance(given, dict) and ("sent" in given or "created" in given):  # not of a caller's fields alone
        return Before(given, is_same=True, keeps_customer=True)
    return None


def created_by(header: Mapping[str, Any]) -> Any:
    """When what goes on with this header was created."""
    return header.get("body", header.get("created"))


def is_step_of(request: Any, task_id: Any) -> bool:
    """Whether the running task carried this one as a step: then all steps behind it were planned before."""
    return request is not None and task_id in _steps_of(request)


def note_steps(request: Any, steps: Iterable[canvas.Step]) -> frozenset[str]:
    """Keep the ids of the steps behind a task. When it starts: before Celery 5.7, the request lacks the step that is
    just being sent."""
    ids: frozenset[str] = frozenset(step.id for step in steps)
    request.__dict__[_STEPS] = ids
    return ids


def _steps_of(request: Any) -> frozenset[str]:
    known: frozenset[str] | None = request.__dict__.get(_STEPS)
    return note_steps(request, step_events.steps_of(request)) if known is None else known


def _carried(name: str, message: Any) -> frozenset[str]:
    """The ids of the steps that a message carries."""
    opened = open_message(message.headers, message.body)
    if name == CHORD_UNLOCK:
        args = opened[1]
        body = args[1] if isinstance(args, (list, tuple)) and len(args) > 1 else None
        return frozenset(step.id for step in canvas.steps("", None, body, None))
    embed = opened[3]
    chain, chord, callbacks = embed.get("chain"), embed.get("chord"), embed.get("callbacks")
    if not (chain or chord or callbacks):
        return frozenset()
    return frozenset(step.id for step in canvas.steps("", chain, chord, callbacks))
