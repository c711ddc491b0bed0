"""Places of the user's own to which a task leads: `asynctask_links` and `asynctask_trace_url`. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from celery_asynctask.core.time import microseconds

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
"""What a link may be made of."""
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


class Link(NamedTuple):
    """A place to go to."""

    title: str
    url: str


def is_template(text: str) -> bool:
    """Whether it is an http or https URL whose host is fixed, and in which braces stand for what is known alone."""
    rest = _PLACEHOLDER.sub("", text)
    return (
        re.match(r"https?://[^\s/?#{}\\@]+([/?#]|\Z)", text) is not None
        and re.fullmatch(r"[^\s{}\x00-\x1f\x7f]+", rest) is not None
        and set(_PLACEHOLDER.findall(text)) <= set(PLACEHOLDERS)
    )


def filled(templates: Mapping[str, str], values: Mapping[str, Any]) -> list[Link]:
    """The links of a task, of ``values`` by the names in `PLACEHOLDERS`; one of which a value is missing is left out.
    A time is its milliseconds since 1970."""
    found = []
    for title, template in templates.items():
        texts = {name: _text(values.get(name)) for name in _PLACEHOLDER.findall(template)}
        if all(texts.values()):
            found.append(Link(title, template.format_map(texts)))
    return found


def trace_link(template: str | None, trace_id: str | None, span_id: str | None) -> str | None:
    """The place where a trace can be looked at: ``asynctask_trace_url`` filled in, None without trace or template."""
    if template is None or trace_id is None:
        return None
    return template.replace("{trace_id}", trace_id).replace("{span_id}", span_id or "")


def _text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        value = microseconds(value) // 1000
    return "" if value is None else quote(str(value), safe="", errors="replace")
