"""The templates in the setting ``asynctask_links``, the user's own links; `present.links` fills them. Pure."""

from __future__ import annotations

import re
from typing import Final

PLACEHOLDERS: Final = (
    "task_id",
    "root_id",
    "parent_id",
    "name",
    "trace_id",
    "span_id",
    "customer",
    "worker",
    "start",
    "end",
)
"""The names that a template of a link may have in braces."""
PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
"""A name in braces."""


TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_HOST: Final = re.compile(r"https?://[^\s/?#{}\\@]+([/?#]|\Z)")


def has_fixed_host(text: str) -> bool:
    """Whether a text begins as an http or https URL whose host nothing can change that is put in place of names in
    braces."""
    return _HOST.match(text) is not None


def is_template(text: str) -> bool:
    """Whether a text is an http or https URL with a fixed host, and with nothing but `PLACEHOLDERS` in braces."""
    rest = PLACEHOLDER.sub("", text)
    return (
        has_fixed_host(text)
        and re.fullmatch(r"[^\s{}\x00-\x1f\x7f]+", rest) is not None
        and set(PLACEHOLDER.findall(text)) <= set(PLACEHOLDERS)
    )
