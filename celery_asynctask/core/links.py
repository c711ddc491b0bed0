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


def is_template(text: str) -> bool:
    """Whether a text is an http or https URL with a fixed host, and with nothing but `PLACEHOLDERS` in braces."""
    rest = PLACEHOLDER.sub("", text)
    return (
        re.match(r"https?://[^\s/?#{}\\@]+([/?#]|\Z)", text) is not None
        and re.fullmatch(r"[^\s{}\x00-\x1f\x7f]+", rest) is not None
        and set(PLACEHOLDER.findall(text)) <= set(PLACEHOLDERS)
    )
