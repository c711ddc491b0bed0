"""`core.reasons`, why a task is not rerun or what to know first, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from celery_asynctask.core.reasons import Code, Reason

_SENTENCES: Final = {
    Code.ELSEWHERE: "it is from another record than the app's: its name and arguments may be made up, and the app "
    "would run it for real",
    Code.STEP: "it is a workflow step that was never sent: what the step before would have given it is not known",
    Code.UNFINISHED: "it is still {status}",
    Code.NOT_RECORDED: "its {name} were not recorded",
    Code.NOT_SAID: "its {name} are not known yet: the process that sent it does not know the task, and no worker has "
    "said them",
    Code.NOT_WHOLE: "its {name} are incomplete{detail}",
    Code.WRONG_KIND: "its {name} are not a {kind}",
    Code.SENT_BEFORE: "it was already rerun {times}, last as {last}",
    Code.JUST_SENT: "it was rerun a moment ago",
    Code.UNREADABLE: "its arguments cannot be read back{detail}",
    Code.UNKNOWN_NAME: "this app has no task of that name",
    Code.UNCHECKED_NAME: "this app has no task of that name: name and arguments are not checked",
    Code.MISFIT: "its arguments do not fit the task's present signature{detail}",
    Code.NO_ROUTE: "it cannot be routed{detail}",
    Code.UNSENDABLE: "its arguments cannot be serialized, or the app refuses to send it. The server's log says which",
    Code.MAY_RUN_TWICE: "it is {status}: if it still runs, or is redelivered, its work is done twice",
    Code.CAME_BY: "its last attempt had the routing key {queue}",
    Code.CONTENT_CHANGED: "its content is not passed on: an attempt changed it",
    Code.CONTENT_TOO_LONG: "its content is not passed on: it is too long",
    Code.CONTENT_NOT_WHOLE: "its content is not passed on: it is incomplete",
    Code.BOUNDED: "earlier reruns were searched among the newest {tasks:,} tasks of its name only, since {since}",
}


def reason(one: Reason, remedies: Mapping[str, str] = {}) -> str:
    """A part of a sentence, without a full stop; in parentheses the remedy. ``remedies`` says, by field of
    `operations.rerun.Options`, how a person overrides a refusal."""
    fields: dict[str, Any] = {**one.fields}
    if times := fields.get("times"):
        fields["times"] = "once" if times == 1 else f"{times:,} times"
    if detail := fields.get("detail"):
        fields["detail"] = f": {detail}"
    text = _SENTENCES[one.code].format_map(fields)
    remedy = remedies.get(one.remedy) if one.remedy is not None else None
    return text if remedy is None else f"{text} ({remedy})"


def reasons(some: Iterable[Reason], remedies: Mapping[str, str] = {}) -> list[str]:
    """`reason` of each."""
    return [reason(one, remedies) for one in some]
