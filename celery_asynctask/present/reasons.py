"""`core.reasons` in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from celery_asynctask.core.reasons import Code, Reason

_SENTENCES: Final = {
    Code.STEP: "it is a step of a workflow that was never sent: what it was to get from the step before is not known",
    Code.UNFINISHED: "it is not over, but {status}",
    Code.NOT_RECORDED: "its {name} were not recorded",
    Code.NOT_WHOLE: "its {name} are not whole{detail}",
    Code.WRONG_KIND: "its {name} are no {kind}",
    Code.SENT_BEFORE: "it was sent again before, {times}, last as {last}",
    Code.JUST_SENT: "it was sent again a moment ago",
    Code.UNREADABLE: "its arguments cannot be read back{detail}",
    Code.UNKNOWN_NAME: "this app knows no task of that name",
    Code.UNCHECKED_NAME: "this app does not know the task: nobody has checked name and arguments",
    Code.MISFIT: "its arguments do not fit the task as it is now{detail}",
    Code.NO_ROUTE: "it cannot be routed{detail}",
    Code.UNSENDABLE: "its arguments cannot be serialized, or the app does not want it sent like this. The server's log "
    "says which",
    Code.MAY_RUN_TWICE: "it is {status}: if it runs still, or is delivered again, it is done twice",
    Code.CAME_BY: "its last run came by {queue}",
    Code.CONTENT_CHANGED: "its content is not given again: the run has changed it",
    Code.CONTENT_TOO_LONG: "its content is not given again: it is too long",
    Code.CONTENT_NOT_WHOLE: "its content is not given again: it is not whole",
    Code.BOUNDED: "earlier reruns were looked for in the newest {tasks:,} tasks of its name alone, since {since}",
}


def reason(one: Reason, remedies: Mapping[str, str] = {}) -> str:
    """A part of a sentence, without a full stop. ``remedies`` says, by field of `operations.rerun.Options`, what a
    person does who wants it nevertheless."""
    fields: dict[str, Any] = {**one.fields}
    if times := fields.get("times"):
        fields["times"] = "once" if times == 1 else f"{times:,} times"
    if detail := fields.get("detail"):
        fields["detail"] = f": {detail}"
    told = _SENTENCES[one.code].format_map(fields)
    remedy = remedies.get(one.remedy) if one.remedy is not None else None
    return told if remedy is None else f"{told} ({remedy})"


def reasons(some: Iterable[Reason], remedies: Mapping[str, str] = {}) -> list[str]:
    """`reason` of each."""
    return [reason(one, remedies) for one in some]
