"""Links from a task to the user's own places: the settings ``asynctask_links`` and ``asynctask_trace_url``."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from celery_asynctask.core.links import PLACEHOLDER, SPAN_ID, TRACE_ID
from celery_asynctask.core.time import microseconds

_UPWARDS: Final = (".", "..")
"""Parts of a path that lead out of it, also when they are quoted."""


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
    """The URL of a trace: the template ``asynctask_trace_url`` filled in; None without a template or a trace. An id of
    another form than `core.links.TRACE_ID`, as an import may bring, is none."""
    if template is None or trace_id is None or not TRACE_ID.fullmatch(trace_id):
        return None
    span = span_id if span_id is not None and SPAN_ID.fullmatch(span_id) else ""
    return template.replace("{trace_id}", trace_id).replace("{span_id}", span)


def _text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        value = microseconds(value) // 1000
    text = "" if value is None else str(value)
    return "" if text in _UPWARDS else quote(text, safe="", errors="replace")
