"""The steps that a message carries and Celery sends later: the rest of a chain, a chord's body, callbacks.

Pure. Works on signatures as they travel: `celery.canvas.Signature` objects before they are sent, plain mappings
afterwards (``request.chain``, ``request.chord``, ``request.callbacks``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from celery_asynctask.core.event import count


class Step(NamedTuple):
    """A task that is sent when the task before it has succeeded."""

    id: str
    name: str
    args: Any
    kwargs: Any
    parent: str | None
    """The task that will send it; None where that is not known beforehand: the body of a chord is sent by whichever
    header task finishes last."""
    after_chord: bool
    """Whether it is, or follows, the body of a chord that has the carrying task in its header. Its root is then
    unknown beforehand if the header tasks are roots themselves."""
    joins: bool = False
    """Whether it is, or follows, the body of any chord. Each header task goes on with an execution of its own, and
    which of them the body goes on with is unknown beforehand."""
    hidden: str | None = None
    """Which arguments its caller hides, by representations of its own (``argsrepr``, ``kwargsrepr``): ``args``,
    ``kwargs``, or both with a space between."""
    nesting: int = 0
    """Celery's ``replaced_task_nesting``: how often the task was replaced that this one is a part of."""
    header: Any = None
    """The header ``asynctask`` that its caller gave it, as it is."""


def steps(task_id: str, chain: Any, chord: Any, callbacks: Any) -> list[Step]:
    """All steps behind the task ``task_id``, each id once, in the order they would be sent.

    The other arguments are those fields of its request. Steps without an id of their own (mostly callbacks) cannot be
    identified before they are sent and are left out, as is what is nested deeper than Python can follow.
    """
    by_id: dict[str, Step] = {}
    with contextlib.suppress(RecursionError):
        for step in _walk_all(task_id, chain, chord, callbacks):
            if step.id != task_id:
                by_id.setdefault(step.id, step)
    return list(by_id.values())


def _walk_all(task_id: str, chain: Any, chord: Any, callbacks: Any) -> Iterator[Step]:
    previous: str | None = task_id
    joins = False
    for signature in reversed(_list(chain)):  # a request has its chain with the last step first
        yield from _walk(signature, previous, after_chord=False, joins=joins)
        previous = _last_id(signature)
        joins = joins or _is_chord(signature)
    for signature in _list(callbacks):
        yield from _walk(signature, task_id, after_chord=False, joins=False)
    yield from _walk(chord, None, after_chord=True, joins=True)


def _walk(signature: Any, parent: str | None, *, after_chord: bool, joins: bool) -> Iterator[Step]:
    """The steps in a signature; none in any other value."""
    if not isinstance(signature, Mapping):
        return
    kwargs = _mapping(signature.get("kwargs"))
    options = _mapping(signature.get("options"))
    match signature.get("subtask_type"):
        case "chain" | "group" as kind:
            for member in _list(kwargs.get("tasks")):
                yield from _walk(member, parent, after_chord=after_chord, joins=joins)
                if kind == "chain":
                    parent, joins = _last_id(member), joins or _is_chord(member)
        case "chord":
            for member in _members(kwargs.get("header")):
                yield from _walk(member, parent, after_chord=after_chord, joins=joins)
            joins = True
            yield from _walk(kwargs.get("body"), None, after_chord=after_chord, joins=joins)
        case _:
            task_id, name = options.get("task_id"), signature.get("task")
            if isinstance(task_id, str) and isinstance(name, str):
                given = _mapping(options.get("headers")).get("asynctask")
                args, nesting = signature.get("args"), count(options.get("replaced_task_nesting"))
                yield Step(
                    task_id,
                    name,
                    args,
                    kwargs,
                    parent,
                    after_chord,
                    joins,
                    hidden_by(options),
                    nesting,
                    given,
                )
                parent = task_id
    previous = parent
    for later in reversed(_list(options.get("chain"))):  # a chord in a chain gives the rest of it to its body
        yield from _walk(later, previous, after_chord=after_chord, joins=joins)
        previous = _last_id(later)
        joins = joins or _is_chord(later)
    for callback in _list(options.get("link")):
        yield from _walk(callback, parent, after_chord=after_chord, joins=joins)
    yield from _walk(options.get("chord"), None, after_chord=after_chord, joins=True)


def _is_chord(signature: Any) -> bool:
    return isinstance(signature, Mapping) and signature.get("subtask_type") == "chord"


def hidden_by(options: Mapping[str, Any]) -> str | None:
    """`Step.hidden`, by the options that a task is sent with."""
    return " ".join(name for name in ("args", "kwargs") if options.get(f"{name}repr") is not None) or None


def _last_id(signature: Any) -> str | None:
    """Id of the task that sends what follows ``signature``; None where a race decides that."""
    if not isinstance(signature, Mapping):
        return None
    kwargs = _mapping(signature.get("kwargs"))
    match signature.get("subtask_type"):
        case "chain":
            tasks = _list(kwargs.get("tasks"))
            return _last_id(tasks[-1]) if tasks else None
        case "chord":
            return _last_id(kwargs.get("body"))
        case "group":
            return None
        case _:
            task_id = _mapping(signature.get("options")).get("task_id")
            return task_id if isinstance(task_id, str) else None


def _members(header: Any) -> list[Any]:
    """The header tasks of a chord, whose header is a group signature or a list of signatures."""
    if isinstance(header, Mapping):
        return _list(_mapping(header.get("kwargs")).get("tasks"))
    return _list(header)


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of a signature; empty if it is no mapping."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    """Signatures as a list: of a single signature, or of a sequence; empty for any other value."""
    if isinstance(value, Mapping):
        return [value]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
