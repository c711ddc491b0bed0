"""The execution that a message goes on with: of a task that is sent again, or of the task that carried it as a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.capture import extract
from celery_asynctask.capture.headers import header_of
from celery_asynctask.capture.messages import open_message
from celery_asynctask.core import canvas

CHORD_UNLOCK: Final = "celery.chord_unlock"
"""The task that sends a chord's body where the result backend does not count the header tasks."""


def continued(
    request: Any, sender: str, name: str, task_id: Any, given: Any, message: Any, *, again: bool
) -> Mapping[str, Any] | None:
    """Our header of the message whose execution this one goes on with, empty if that has none; None: it begins its own.

    ``request`` is that of the task that sends it, or None, and ``sender`` its name; ``given`` the header that the
    message has already, ``again`` whether it is of a retry or a replacement. Everything that replaces a task goes on
    with its execution, as the last of it has its id.
    """
    if again and isinstance(given, dict) and ("sent" in given or "created" in given):  # not of a caller's fields alone
        return given
    if request is None:
        return None
    if (again and request.id == task_id) or sender == CHORD_UNLOCK or is_step_of(request, task_id):
        return header_of(request)
    carried = _carried(name, message)
    if carried and (request.id in carried or (name == CHORD_UNLOCK and not carried.isdisjoint(_steps_of(request)))):
        return header_of(request)
    return None


def is_step_of(request: Any, task_id: Any) -> bool:
    """Whether the running task carried this one as a step: then all steps behind it were planned before."""
    return request is not None and task_id in _steps_of(request)


def _steps_of(request: Any) -> frozenset[str]:
    known: frozenset[str] | None = request.__dict__.get("asynctask_steps")
    if known is None:
        known = request.__dict__["asynctask_steps"] = frozenset(step.id for step in extract.steps_of(request))
    return known


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
