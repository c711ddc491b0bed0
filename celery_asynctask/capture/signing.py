"""Signed headers: with ``asynctask_header_keys``, a customer or creator is believed only from who has a key.

Every header is then a text of version 2 that ends with ``mac``: HMAC-SHA256 over the task id and the text before it,
cut to 128 bits. Who has no key reads the text as any other. A process of a worker reads a message's header once, and
hands it on in the form that `headers.is_read`, in which ``here`` says whether it was signed. A task whose own header is
not signed speaks for no customer: neither in what it sends, nor through headers that the steps in its message carry.
What it sends is signed all the same, for a customer that its code names, but as ``hearsay``: the steps in that message
may be of its own message, so they are not believed either, and so on.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from celery_asynctask.capture.headers import HEADER, HEARSAY, header_of, is_read, read
from celery_asynctask.capture.messages import task_id_text
from celery_asynctask.core import canvas
from celery_asynctask.core.event import json_text, quote
from celery_asynctask.errors import logger

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation

CLAIMS: Final = ("customer", "created_by", "created_by_name")
"""The fields of a header that are believed only if it is signed."""
SIGNED: Final = ("signed",)
"""The field ``here`` of a header that was signed and is no hearsay, or that this process has made."""
_NAME: Final = ',"mac":"'
_DIGITS: Final = 32
_TAIL: Final = len(_NAME) + _DIGITS + len('"}')

_logged = 0
"""The process that has logged an unsigned header; 0: none has."""


def sign(header: Mapping[str, Any], task_id: Any, key: bytes) -> str:
    """The header as the text that a message of this task carries, signed with the key."""
    text = json_text({"v": 2, **header})
    return f'{text[:-1]}{_NAME}{_mac(text, task_id, key)}"}}'


def is_signed(text: str, task_id: Any, keys: Sequence[bytes]) -> bool:
    """Whether a text is a header that was signed for this task with one of the keys."""
    if len(text) < _TAIL or not text.isascii():
        return False
    head, tail = f"{text[:-_TAIL]}}}", text[-_TAIL:]
    return any(hmac.compare_digest(tail, f'{_NAME}{_mac(head, task_id, key)}"}}') for key in keys)


def _mac(text: str, task_id: Any, key: bytes) -> str:
    quoted = quote(task_id if type(task_id) is str else task_id_text(task_id) or "")
    mac = _keyed(key).copy()
    mac.update(f"{quoted}\n{text}".encode("ascii"))
    return mac.hexdigest()[:_DIGITS]


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")  # to copy it costs half of making one


def is_verified(header: Any) -> bool:
    """Whether a header that a process of this worker has read was signed, and is no hearsay."""
    return is_read(header) and header["here"] == SIGNED


def without_claims(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header without customer and creator."""
    return {name: value for name, value in header.items() if name not in CLAIMS}


def check(instrumentation: Instrumentation, request: Any) -> bool:
    """`settle` the header of a request (a Context), if the app has keys."""
    keys = instrumentation.settings.header_keys
    return keys is not None and settle(request.__dict__, request.id, keys)


def settle(fields: dict[str, Any], task_id: Any, keys: Sequence[bytes]) -> bool:
    """Bring our header in the fields of a message, or of its request, into the form that `is_read`, without customer
    and creator unless it is signed. Returns whether it named one and was not; the first is logged."""
    header, others = fields.get(HEADER), fields.get("headers")
    if is_read(header) and type(others) is dict and others.get(HEADER) is header:  # as in most requests
        return False
    nested = others.get(HEADER) if isinstance(others, Mapping) else None
    header = nested if header is None else header
    if header is None:
        return False
    is_unsigned = False
    if not is_read(header):
        header, is_unsigned = _checked(header, task_id, keys)
        fields[HEADER] = header
    if isinstance(others, Mapping) and nested is not None and not is_read(nested):  # a retry takes it from there
        fields["headers"] = {**others, HEADER: header}
    if is_unsigned:
        _log(task_id)
    return is_unsigned


def _checked(given: Any, task_id: Any, keys: Sequence[bytes]) -> tuple[dict[str, Any], bool]:
    # Some brokers take a message back with what this module has made of its header: the text is still in it.
    text = given.get("text") if isinstance(given, Mapping) else given
    if isinstance(text, str) and is_signed(text, task_id, keys) and isinstance(header := read(text, task_id), dict):
        return {**header, "here": () if HEARSAY in header else SIGNED, "text": text}, False
    header = read(given, task_id)
    if not isinstance(header, dict):
        return {"here": ()}, False
    return {**without_claims(header), "here": ()}, any(header.get(name) is not None for name in CLAIMS)


def believes(instrumentation: Instrumentation, sender: Any) -> bool:
    """Whether customers are believed that a task names, or its message for the steps behind it. ``sender``: the
    request of the task; None: no task runs here."""
    return instrumentation.settings.header_keys is None or sender is None or is_verified(header_of(sender))


def believed(instrumentation: Instrumentation, request: Any, steps: list[canvas.Step]) -> list[canvas.Step]:
    """The steps behind a task, without what their own headers say and is not believed."""
    return steps if believes(instrumentation, request) else unbelieved(steps)


def unbelieved(steps: list[canvas.Step]) -> list[canvas.Step]:
    """The steps without the customers and creators that their own headers name."""
    return [step if step.header is None else step._replace(header=_unbelieved(step)) for step in steps]


def _unbelieved(step: canvas.Step) -> Any:
    header = read(step.header, step.id)
    return without_claims(header) if isinstance(header, dict) else None


def _log(task_id: Any) -> None:
    global _logged  # noqa: PLW0603 - as global as the process
    if _logged == os.getpid():
        return
    _logged = os.getpid()
    logger.warning(
        "celery-asynctask: the message of task %.80r names a customer or creator, and is not signed with a key of "
        "asynctask_header_keys: neither is recorded. Give its sender the first key. This process logs no more of "
        "these; `celery -A APP asynctask doctor` has their number.",
        task_id,
    )
