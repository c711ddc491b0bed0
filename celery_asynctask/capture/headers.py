"""Our header of a message, from the process that sends the task to the one that runs it.

Every message of a recorded task carries ``asynctask``, with these fields:

========== ===========================================================================================================
field      meaning
========== ===========================================================================================================
for        CRC-32 of the task id. The header of a task may be handed on with another's message (a task that sends its
           ``request.headers`` along); it says nothing there
created    when the execution was created, in microseconds since the epoch: its identity, which retries and replacements
           keep. Absent where the producer of the first message is not recorded
sent       when this message was sent
root       in place of a root or parent that would lead to no row, where the task that sends it is not recorded
           (``celery.chord_unlock`` sends the bodies of chords)
blind      true where the producer does not know the task, and so tells no arguments
hidden     ``args``, ``kwargs`` or both: the caller gave a representation of its own in their place (``argsrepr``)
body       in a message of ``celery.chord_unlock``: when the chord's body was created
run        the token of the delivery, and
delivered  true: a worker's main process adds both to its own copy, so that its events and the child's have the same
           attempt key, with
here       a tuple, which no message can carry, so that none can pretend to have come from there: empty, or `SIGNED` of
           `signing` if the header was signed, with
text       that header as the message has it. What a message says of these four is left out
mac        in a text of version 2: its signature, see `signing`
hearsay    true in a signed header if a task that speaks for no customer has sent the message: the header's own customer
           counts, but those do not that the steps in the message name, see `signing`
========== ===========================================================================================================

and the fields of `context` under their names, also if the task is not recorded. In version 1 it is a mapping; in
version 2 the same as JSON text, which costs AMQP less to encode than a table, and can be signed. Both are read; the
settings ``asynctask_header_version`` and ``asynctask_header_keys`` decide which is written. A mapping that a caller or
a schedule gives has the fields of `context` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeGuard
from zlib import crc32

from celery_asynctask.capture.messages import task_id_text
from celery_asynctask.capture.payload.mappings import mapping_of
from celery_asynctask.core.event import json_text
from celery_asynctask.core.keys import new_token

HEADER: Final = "asynctask"
HEARSAY: Final = "hearsay"
TIMES_END: Final = 2**56
"""In microseconds since the epoch, in the year 4253: as much as keys can hold, and the times of every database."""
is_token: Final = re.compile(r"[0-9a-f]{20}").fullmatch
"""Whether a text is the token of a delivery."""


_HERE: Final = ("run", "delivered", "here", "text")
"""Fields that count only in a header that `is_read`."""


def is_read(header: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is our header in the form in which the processes of one worker hand it on, and not a message's."""
    return type(header) is dict and type(header.get("here")) is tuple


def header_of(request: Any) -> dict[str, Any]:
    """Our header in a request (a Context, or a worker's Request); empty if the producer is not recorded."""
    header = getattr(request, HEADER, None)
    if header is None and isinstance(headers := getattr(request, "headers", None), Mapping):
        header = headers.get(HEADER)
    if header is None:
        return {}
    header = read(header, request.id)
    return header if isinstance(header, dict) else {}


def read(header: Any, task_id: Any) -> Any:
    """The fields of our header in a message of the task: a new dict, or the one given; empty if it is another task's.
    Any value that is no header is returned as it is."""
    if isinstance(header, str):
        try:
            fields = json.loads(header)
        except (ValueError, RecursionError):
            return header
        if type(fields) is not dict or fields.pop("v", None) != 2:
            return header
        fields.pop("mac", None)
    elif (fields := header if type(header) is dict else mapping_of(header)) is None:
        return header
    if "for" in fields and fields["for"] != checksum(task_id):
        return {}
    if is_read(fields) or fields.keys().isdisjoint(_HERE):
        return fields
    return {name: value for name, value in fields.items() if name not in _HERE}


def write(header: dict[str, Any], version: int) -> Any:
    """The header in the form in which a message carries it."""
    return header if version == 1 else json_text({"v": version, **header})


def checksum(task_id: Any) -> int:
    """The field ``for``: the CRC-32 of a task id."""
    text = task_id if type(task_id) is str else task_id_text(task_id) or ""
    return crc32(text.encode("utf-8", "surrogatepass"))


def stamp(task_id: Any, created: Any, at: int) -> dict[str, Any]:
    """Our header for a message that is sent at ``at``, microseconds since the epoch, without the fields of `context`.
    ``created`` is left out if it is no time."""
    if not is_time(created):
        return {"for": checksum(task_id), "sent": at}
    return {"for": checksum(task_id), "created": created, "sent": at}


def is_again(about: Mapping[str, Any]) -> bool:
    """Whether a message, by its header fields, sends a task again: for a retry or a replacement."""
    return bool(about.get("retries") or about.get("replaced_task_nesting"))


def header_of_delivery(request: Any) -> dict[str, Any]:
    """Our header in the message of a worker's Request; empty as for `header_of`."""
    raw = request.request_dict
    header = raw.get(HEADER)
    if header is None and isinstance(headers := raw.get("headers"), Mapping):
        header = headers.get(HEADER)
    known = read(header, request.id) if header is not None else None
    return known if isinstance(known, dict) else {}


def mark_delivery(request: Any, at: int) -> dict[str, Any]:
    """Give the delivery of a worker's Request its token, in our header, where the child finds it; the header."""
    marked = {"here": (), **header_of_delivery(request), "run": new_token(at), "delivered": True}
    request.request_dict[HEADER] = marked
    return marked


def with_token(request: Any, header: dict[str, Any], at: int) -> dict[str, Any]:
    """Our header of a request, with a new token unless it has one; any other value of ``run`` is not ours."""
    run = header.get("run")
    if type(run) is not str or is_token(run) is None:
        header = {"here": (), **header, "run": new_token(at)}
        setattr(request, HEADER, header)
    return header


def is_time(value: Any) -> TypeGuard[int]:
    """Whether a value is a time in microseconds since the epoch, as events have it."""
    return type(value) is int and 0 <= value < TIMES_END
