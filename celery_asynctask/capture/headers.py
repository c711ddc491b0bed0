"""Our header of a message: what is told to whoever runs the task, from whoever sent it.

Every message that a recorded app sends carries ``asynctask``, a mapping with ``created`` (when the task
was first asked for) and ``sent`` (when this message was), microseconds since the epoch. A message sent by a task that
is not recorded itself (``celery.chord_unlock`` sends the bodies of chords) also has ``root``, in place of a root or
parent that would lead to no row. For whom and by whom is in it under the names that `context` gives them, also where
the task is not recorded. In a worker, the main process adds ``run``, the token of the delivery, to its own
copy, so that what it says about a run and what the child says have the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from celery_asynctask.capture.payload.mappings import mapping_of
from celery_asynctask.core.keys import new_token

HEADER: Final = "asynctask"
TIMES_END: Final = 2**56
"""Microseconds since the epoch, in the year 4253: as large as a key takes, and every database's times."""
is_token: Final = re.compile(r"[0-9a-f]{20}").fullmatch
"""Whether a text is a token of a run."""


def header_of(request: Any) -> dict[str, Any]:
    """Our header in a request (a Context, or a worker's Request), empty where the producer is not recorded."""
    header = getattr(request, HEADER, None)
    if header is None and isinstance(headers := getattr(request, "headers", None), Mapping):
        header = headers.get(HEADER)
    if isinstance(header, dict):
        return header
    return {} if header is None else mapping_of(header) or {}


def stamp(about: Mapping[str, Any], inherited: Any, sender: Any, at: int) -> dict[str, Any]:
    """Our header for a message that is sent at ``at``, without its context.

    ``about`` are its header fields. ``inherited`` is the header that one has which asks for a task again, its
    predecessor's, sound or not: it keeps when the task was first asked for. ``sender`` is the request of an
    unrecorded task that sends it, or None.
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
    """Whether a message, by its header fields, asks once more for a task that was asked for before."""
    return bool(about.get("retries") or about.get("replaced_task_nesting"))


def mark_delivery(request: Any, at: int) -> dict[str, Any]:
    """Give the delivery of a worker's Request its token, where the child will find it: in our header, returned."""
    raw = request.request_dict
    header = raw.get(HEADER)
    if header is None and isinstance(headers := raw.get("headers"), Mapping):
        header = headers.get(HEADER)
    marked = raw[HEADER] = {**header} if isinstance(header, dict) else {}
    marked["run"], marked["delivered"] = new_token(at), True
    return marked


def with_token(request: Any, header: dict[str, Any], at: int) -> dict[str, Any]:
    """Our header of a request, given a token where it has none; what else stands there is not from us."""
    run = header.get("run")
    if type(run) is not str or is_token(run) is None:
        header = {**header, "run": new_token(at)}
        setattr(request, HEADER, header)
    return header


def is_time(value: Any) -> TypeGuard[int]:
    """Whether a value is a time as events have it: microseconds since the epoch."""
    return type(value) is int and 0 <= value < TIMES_END
