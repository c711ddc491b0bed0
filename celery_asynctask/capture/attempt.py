"""What the request of an attempt keeps for the attempt's later events."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from celery_asynctask.capture.attribute import attribute
from celery_asynctask.capture.headers import header_of
from celery_asynctask.capture.messages import hidden_by_caller
from celery_asynctask.capture.payload.secrets import secrets_in

if TYPE_CHECKING:
    from celery_asynctask.capture.instrumentation import Instrumentation
    from celery_asynctask.capture.payload import Encoder
    from celery_asynctask.capture.payload.secrets import Secret

START: Final = attribute("start")
"""Attribute of an attempt's request: its encoded start, for the end to carry."""
SLOT: Final = attribute("slot")
"""Attribute of an attempt's request: where the journal keeps that start until then; None: it was written as an
event."""
SECRETS: Final = attribute("secrets")
"""Attribute of an attempt's request: what redaction took from its arguments, if it took anything. It is noted at the
start, because the body may remove it from them: ``data.pop("password")``."""
_ENCODER: Final = attribute("encoder")
"""Attribute of a request: its `encoder_of`."""


def encoder_of(instrumentation: Instrumentation, name: str, request: Any) -> Encoder:
    """The encoder for what an attempt of the task ``name`` says: it leaves out, wherever they stand, the values that
    redaction took from the arguments of ``request``."""
    known = request.__dict__
    encoder: Encoder | None = known.get(_ENCODER)
    if encoder is None:
        encoder = instrumentation.encoder
        secrets: list[Secret] = known.get(SECRETS, [])
        if START not in known:  # the attempt is another process's
            names = instrumentation.policies[name].parameters
            encoder.arguments(request.args, request.kwargs, names, secrets)
            hides = (hidden_by_caller(header_of(request), request) or "").split()
            secrets += hidden_secrets(encoder, names, hides, request.args, request.kwargs)
        if secrets:
            encoder = encoder.knowing(secrets)
        known[_ENCODER] = encoder
    return encoder


def hidden_secrets(
    encoder: Encoder, names: tuple[str, ...], hides: Collection[str], args: Any, kwargs: Any
) -> list[Secret]:
    """What the caller hides of the arguments, which ``hides`` names: it is treated as redacted."""
    hidden = [value for what, value in (("args", args), ("kwargs", kwargs)) if what in hides]
    return secrets_in(hidden, encoder.redaction, names) if hidden and encoder.redaction is not None else []
