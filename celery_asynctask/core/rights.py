"""The rights of a caller of the HTTP API and the console."""

from __future__ import annotations

import enum


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
