"""Our header of a message, from the process that sends the task to the one that runs it.

Every message of a recorded task carries ``asynctask``, a mapping with ``created`` (when the task was created) and
``sent`` (when this message was sent), in microseconds since the epoch. If the task that sends it is not recorded
(``celery.chord_unlock`` sends the bodies of chords), it also has ``root``, in place of a root or parent that would lead
to no row. The fields of `context` are in it under their names, also if the task is not recorded. A worker's main
process adds ``run``, the token of the delivery, to its own copy, so that its events and the child's have the same
attempt key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from celery_asynctask.capture.payload.mappings import mapping_of
from celery_asynctask.core.keys import new_token

HEADER: Final = "asynctask"
TIMES_END: Final = 2**56
"""In microseconds since the epoch, in the year 4253: as much as keys can hold, and the times of every database."""
is_token: Final = re.compile(r"[0-9a-f]{20}").fullmatch
"""Whether a text is the token of a delivery."""


def header_of(request: Any) -> dict[str, Any]:
    """Our header in a request (a Context, or a worker's Request); empty if the producer is not recorded."""
    header = getattr(request, HEADER, None)
    if header is None and isinstance(headers := getattr(request, "headers", None), Mapping):
        header = headers.get(HEADER)
    if isinstance(header, dict):
        return header
    return {} if header is None else mapping_of(header) or {}


def stamp(about: Mapping[str, Any], inherited: Any, sender: Any, at: int) -> dict[str, Any]:
    """Our header for a message that is sent at ``at``, microseconds since the epoch, without the fields of `context`.

    ``about`` are the message's header fields. ``inherited`` is our header of the message before it, valid or not, if
    this one sends the task again: ``created`` stays. ``sender`` is the request of the task that sends it, if that is
    not recorded; else None.
    """
    header: dict[str, Any] = {"created": at, "sent": at}
    if isinstance(inherited, dict):
        if is_time(created := inherited.get("created")):
            header["created"] = created
        if isinstance(root := inherited.get("root"), str):
            header["root"] = root
    elif sender is not None:
        header["root"] = sender.root_id if sender.root_id != sender.id else about["id"]
    return header


def is_again(about: Mapping[str, Any]) -> bool:
    """Whether a message, by its header fields, sends a task again: for a retry or a replacement."""
    return bool(about.get("retries") or about.get("replaced_task_nesting"))


def mark_delivery(request: Any, at: int) -> dict[str, Any]:
    """Give the delivery of a worker's Request its token, in our header, where the child finds it; the header."""
    raw = request.request_dict
    header = raw.get(HEADER)
    if header is None and isinstance(headers := raw.get("headers"), Mapping):
        header = headers.get(HEADER)
    marked = raw[HEADER] = {**header} if isinstance(header, dict) else {}
    marked["run"], marked["delivered"] = new_token(at), True
    return marked


def with_token(request: Any, header: dict[str, Any], at: int) -> dict[str, Any]:
    """Our header of a request, with a new token unless it has one; any other value of ``run`` is not ours."""
    run = header.get("run")
    if type(run) is not str or is_token(run) is None:
        header = {**header, "run": new_token(at)}
        setattr(request, HEADER, header)
    return header


def is_time(value: Any) -> TypeGuard[int]:
    """Whether a value is a time in microseconds since the epoch, as events have it."""
    return type(value) is int and 0 <= value < TIMES_END
