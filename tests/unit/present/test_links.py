"""The user's own links of a task."""

from __future__ import annotations

import datetime as dt

import pytest

from celery_asynctask.core.links import PLACEHOLDERS, is_template
from celery_asynctask.present.links import Link, task_links, trace_link

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
AT = dt.datetime(2026, 1, 31, 13, 0, 0, 123_999, tzinfo=dt.timezone(dt.timedelta(hours=1)))


def test_each_value_has_its_place() -> None:
    template = "https://x/?" + "&".join(f"{name}={{{name}}}" for name in PLACEHOLDERS)
    assert is_template(template)
    values = {name: f"<{name}>" for name in PLACEHOLDERS}
    [link] = task_links({"All": template}, values)
    assert link.url == "https://x/?" + "&".join(f"{name}=%3C{name}%3E" for name in PLACEHOLDERS)


def test_values_cannot_lead_elsewhere() -> None:
    values = {"name": "../a?b#c&d=e {task_id}\u202e", "task_id": "é%41", "customer": 0}
    [link] = task_links({"Logs": "https://logs/{name}/{task_id}/{customer}#{name}"}, values)
    name = "..%2Fa%3Fb%23c%26d%3De%20%7Btask_id%7D%E2%80%AE"
    assert link == Link("Logs", f"https://logs/{name}/%C3%A9%2541/0#{name}")


def test_times_are_milliseconds() -> None:
    assert (
        task_links({"Logs": "https://logs/?from={start}"}, {"start": AT})[0].url == "https://logs/?from=1769860800123"
    )


@pytest.mark.parametrize("name", [".", ".."])
def test_a_value_cannot_lead_upwards(name: str) -> None:
    assert task_links({"Logs": "https://logs/shop/{name}/"}, {"name": name}) == []


def test_a_link_of_which_a_value_is_missing_is_left_out() -> None:
    templates = {"Trace": "https://x/{trace_id}", "Shop": "https://shop/", "Task": "https://y/{task_id}/{worker}"}
    values = {"trace_id": None, "task_id": "a", "worker": ""}
    assert task_links(templates, values) == [Link("Shop", "https://shop/")]


@pytest.mark.parametrize(
    ("template", "trace_id", "link"),
    [
        ("https://t/{trace_id}", TRACE, f"https://t/{TRACE}"),
        ("https://t/{trace_id}?s={span_id}", TRACE, f"https://t/{TRACE}?s={SPAN}"),
        (None, TRACE, None),
        ("https://t/{trace_id}", None, None),
    ],
)
def test_a_trace_has_its_place(template: str | None, trace_id: str | None, link: str | None) -> None:
    assert trace_link(template, trace_id, SPAN) == link


@pytest.mark.parametrize(
    "trace_id",
    ["javascript:alert(1)", "../evil", f"{TRACE}\n", TRACE.upper(), TRACE[1:], f"{TRACE}0", "", "{span_id}", "٣" * 32],
)
def test_what_is_no_trace_id_makes_no_link(trace_id: str) -> None:
    assert trace_link("https://t/{trace_id}", trace_id, SPAN) is None


@pytest.mark.parametrize("span_id", ["#evil", "{trace_id}", SPAN.upper(), f"{SPAN}\n", None])
def test_what_is_no_span_id_is_left_out(span_id: str | None) -> None:
    assert trace_link("https://t/{trace_id}?s={span_id}", TRACE, span_id) == f"https://t/{TRACE}?s="
