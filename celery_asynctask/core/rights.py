"""What a caller of the HTTP API and the console may do."""

from __future__ import annotations

import enum


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
