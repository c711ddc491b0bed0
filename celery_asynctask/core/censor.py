"""Which settings people may see, in ``doctor``, ``celery report``, ``celery inspect conf`` and errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery_asynctask.core.url import parse, without_secrets

OPEN: Final = frozenset(
    {
        *("enabled", "create_tables", "journal_dir", "journal_max_bytes", "journal_keep"),
        *("flush_interval", "batch_size"),
        *("header_version", "max_value_bytes", "include", "exclude", "context", "access", "redact", "redact_rule"),
        *("audit_retention", "trusted_proxies"),
    }
)
"""Settings that hold no secret. What is in neither of the two is not shown: a new setting is hidden until somebody
decides otherwise."""
PARTLY_OPEN: Final = frozenset({"trace_url", "links", "retention"})
"""Settings that are shown by `core.url.without_secrets`."""
_MASK: Final = "********"
"""As Celery writes it."""


def censored(configuration: Mapping[Any, Any]) -> dict[Any, Any]:
    """A Celery configuration for people to see, with ours as far as it holds no secret: URLs without theirs, mappings
    that may have some not at all. Raises nothing."""
    return {key: _shown(key.lower(), value) if isinstance(key, str) else value for key, value in configuration.items()}


def _shown(name: str, value: Any) -> Any:
    plain = name.rpartition("asynctask_")[2]
    if plain == name or value is None:
        return value
    if plain in PARTLY_OPEN and isinstance(value, Mapping):
        return without_secrets(value)
    if plain.endswith("url") and isinstance(value, str) and "://" in value:
        try:
            return parse(value).shown
        except ValueError:
            return _MASK
    return value if plain in OPEN and not isinstance(value, Mapping) else _MASK
