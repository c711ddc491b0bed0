"""Attributes that we add to a request, which no message can set."""

from __future__ import annotations

import secrets
from typing import Final

_SUFFIX: Final = secrets.token_hex(8)


def attribute(name: str) -> str:
    """The name of an attribute of ours. Every field of a message becomes an attribute of its request
    (celery/app/task.py, ``Context``), so ours have names that nobody knows outside of this process."""
    return f"asynctask_{name}_{_SUFFIX}"
