"""What a caller of the HTTP API and the console may do, and how the token is configured that says who it is."""

from __future__ import annotations

import enum
import hashlib


class Right(str, enum.Enum):
    """What a caller may do."""

    READ = "read"
    """Everything about tasks but their values."""
    PAYLOADS = "payloads"
    """Their values: args, kwargs, result, content; to search in them, too."""
    RERUN = "rerun"
    """Send tasks again."""
    PURGE = "purge"
    """Delete old tasks."""

    def __str__(self) -> str:
        return self.value


def hashed(token: str) -> str:
    """A token as it is configured: SHA-256, in hex. Tokens are random, so nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()
