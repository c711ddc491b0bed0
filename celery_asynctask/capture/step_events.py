"""Events about the steps that a message carries: that they are planned, that they are never sent, or not recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from celery_asynctask.capture import context, extract, payload
from celery_asynctask.capture.headers import read
from celery_asynctask.capture.messages import name_text, recorded_id, task_id_text
from celery_asynctask.core import canvas
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.limits import MAX_MESSAGE
from celery_asynctask.core.reasons import NotSent

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation


def planned(instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]) -> list[Event]:
    """Events that these steps, which the message of ``event`` carries, are planned."""
    return [step_event for _, step_event in _each(Kind.PLANNED, instrumentation, event, steps)]


def unsent(instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]) -> list[Event]:
    """Events that these steps are never sent, because of how the task of ``event`` ended."""
    events = []
    for step, step_event in _each(Kind.UNSENT, instrumentation, event, steps):
        if step.after_chord and step.parent is None:
            step_event["root"], step_event["parent"] = event.get("root"), event["id"]
        if step.nesting:  # what replaces a task has its id: it fails with what is not sent
            step_event["nesting"] = step.nesting
        step_event["error_type"] = event.get("error_type", "Exception")
        reason = _OF_ANOTHER
        if _is_of_customer(event, step_event):
            reason = payload.PLAIN.text(event.get("error_message", ""), MAX_MESSAGE // 2)
        step_event["error_message"] = str(NotSent(event["name"], event["id"], reason))
        events.append(step_event)
    return events


def _each(
    kind: Kind, instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]
) -> Iterator[tuple[canvas.Step, Event]]:
    """The steps that are recorded, each with an event of its own. A step has the context of the one before it, which
    sends it, as far as it is not given another."""
    bare = {key: value for key, value in event.items() if key not in _CONTEXT_FIELDS}
    last, by_id = event, {event["id"]: event}
    for step in steps:
        if instrumentation.records(step.name):
            step_event = _step(kind, instrumentation, by_id.get(step.parent or "", last), step)
            yield step, step_event
            own = {key: step_event[key] for key in _CONTEXT_FIELDS if key in step_event}  # type: ignore[literal-required]
            last = by_id[step.id] = cast("Event", {**bare, **own})


_OF_ANOTHER: Final = "an error of another customer"
"""In place of a reason that only the customer of the failed task may read."""


def _is_of_customer(event: Event, other: Mapping[str, Any]) -> bool:
    """Whether the keys of another event name the customer of ``event``, or like that one none."""
    return all(event.get(key) == other.get(key) for key in ("customer", "customer_key"))


def unrecorded(instrumentation: Instrumentation, event: Event, steps: list[canvas.Step]) -> list[Event]:
    """Events that those of these steps that this process does not record are not to be recorded, whatever the producer
    of the message of ``event`` has said."""
    about = [
        _about_step(Kind.UNRECORDED, instrumentation, event, step)
        for step in steps
        if instrumentation.policies[step.name].known and not instrumentation.records(step.name)
    ]
    return [cast("Event", {key: value for key, value in named.items() if key not in _SAID}) for named in about]


_SAID: Final = ("content", "created_by", "created_by_key", "created_by_name")
"""Keys of an event that do not say which task it is about."""


def _step(kind: Kind, instrumentation: Instrumentation, event: Event, step: canvas.Step) -> Event:
    step_event = _about_step(kind, instrumentation, event, step)
    root = event.get("root")
    step_event["asked"] = True
    step_event["root"] = None if step.after_chord and root == event["id"] else root
    step_event["parent"] = task_id_text(step.parent)
    if "trace" in event:
        step_event["trace"] = event["trace"]
    extract.add_payload(step_event, instrumentation, step.name, step.args, step.kwargs, step.hidden)
    return step_event


def _about_step(kind: Kind, instrumentation: Instrumentation, event: Event, step: canvas.Step) -> Event:
    """Which step it is, in which execution and for whom."""
    step_event: Event = {
        "id": recorded_id(step.id),
        "kind": kind.value,
        "at": event["at"],
        "name": name_text(step.name),
    }
    if "created" in event:
        step_event["created"] = event["created"]
    if step.joins and not step.nesting:  # all that replaces a task goes on with its execution
        step_event["chord"] = True
    inherited = {field: event[field] for field in _CONTEXT_FIELDS if field in event}  # type: ignore[literal-required]
    own = extract.header_context(instrumentation, read(step.header, step.id)) if step.header is not None else {}
    for name in context.IDS:
        if name in own or f"{name}_key" in own:
            inherited.pop(name, None)
            inherited.pop(f"{name}_key", None)
    if not _is_of_customer(event, {**inherited, **own}):
        inherited = {}  # another customer's rows have nothing of this context
    step_event.update({**inherited, **own})  # type: ignore[typeddict-item]
    return step_event


_CONTEXT_FIELDS: Final = (*context.FIELDS, *(f"{name}_key" for name in context.IDS))


def steps_of(request: Any) -> list[canvas.Step]:
    """The steps behind the task of a request; see `canvas.steps`."""
    if not (request.chain or request.chord or request.callbacks):
        return []
    return canvas.steps(request.id, request.chain, request.chord, request.callbacks)
