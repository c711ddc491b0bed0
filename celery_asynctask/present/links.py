"""Links from a task to the user's own places: the settings ``asynctask_links`` and ``asynctask_trace_url``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from celery_asynctask.core.links import PLACEHOLDER
from celery_asynctask.core.time import microseconds


class Link(NamedTuple):
    """A link as it is shown."""

    title: str
    url: str


def task_links(templates: Mapping[str, str], values: Mapping[str, Any]) -> list[Link]:
    """The links of a task, in the order of ``templates`` (URLs by title).

    ``values`` has the task's values by the names in `core.links.PLACEHOLDERS`; a link that needs a missing one is left
    out. Times are written in milliseconds since the epoch.
    """
    links = []
    for title, template in templates.items():
        texts = {name: _text(values.get(name)) for name in PLACEHOLDER.findall(template)}
        if all(texts.values()):
            links.append(Link(title, template.format_map(texts)))
    return links


def trace_link(template: str | None, trace_id: str | None, span_id: str | None) -> str | None:
    """The URL of a trace: the template ``asynctask_trace_url`` filled in; None without a template or a trace."""
    if template is None or trace_id is None:
        return None
    return template.replace("{trace_id}", trace_id).replace("{span_id}", span_id or "")


def _text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        value = microseconds(value) // 1000
    return "" if value is None else quote(str(value), safe="", errors="replace")
