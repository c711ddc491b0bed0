"""The rights of a caller of the HTTP API and the console, and the form in which a caller's token is configured."""

from __future__ import annotations

import enum
import hashlib


class Right(str, enum.Enum):
    """A right of a caller."""

    READ = "read"
    """To see everything about tasks except their values, error messages and tracebacks."""
    ERRORS = "errors"
    """To see, and to search in, error messages and tracebacks, which quote paths, code and sometimes values."""
    PAYLOADS = "payloads"
    """To see, and to search in, the values of tasks: args, kwargs, result, content."""
    RERUN = "rerun"
    """To rerun tasks."""
    PURGE = "purge"
    """To delete old tasks."""
    AUDIT = "audit"
    """To see who did what: sign-ins, reruns, purges, erasures, exports."""

    def __str__(self) -> str:
        return self.value


def hashed(token: str) -> str:
    """A token as it is configured: its SHA-256 in hex. Tokens are random, so a slower hash is not needed."""
    return hashlib.sha256(token.encode()).hexdigest()
