"""What a search without results is answered."""

from __future__ import annotations

import datetime as dt

import pytest

from celery_asynctask.queries.search.filter import parse
from celery_asynctask.queries.search.hint import hint

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ("FAILURE", "Did you mean status:FAILURE?"),
        ("failure", "Did you mean status:FAILURE?"),
        ("since:2d failure,Lost", "Did you mean status:FAILURE,LOST?"),
        ("status=FAILURE", "Did you mean status:FAILURE?"),
        ("Status=failure,lost", "Did you mean status:failure,lost?"),
        ("creator=Ada", "Did you mean creator:Ada?"),
        ('"creator=Ada Lovelace"', 'Did you mean creator:"Ada Lovelace"?'),
        ("kwargs.order.id=17", "Did you mean kwargs.order.id:17?"),
        ("retries>2", "Did you mean retries:>2?"),
        ("run>=5s", "Did you mean run:>=5s?"),
        ("name:notify", "name: takes the whole name; name:*notify* finds a part."),
        ('name:"my task"', 'name: takes the whole name; name:*"my task"* finds a part.'),
        ('name:"a*"', 'name: takes the whole name; name:*"a*"* finds a part.'),
        (
            "error:runtimeerror",
            "error: takes the whole class; error:*runtimeerror* finds a part. Upper and lower case differ.",
        ),
        ("error:runtime*", "Upper and lower case differ."),
        (
            "creator:ada",
            "created_by_name: takes the whole name; created_by_name:*ada* finds a part. Upper and lower case differ.",
        ),
        ("args.customer:44", "args needs a position: args.0.customer:44"),
        ('args.customer:"a b"', "args needs a position: args.0.customer:value"),
    ],
)
def test_what_was_probably_meant_is_said(search: str, sentence: str) -> None:
    assert hint(parse(search, NOW)) == sentence


@pytest.mark.parametrize(
    "search",
    [
        "",
        "status:FAILURE since:1h",
        "billing",
        "failure,billing",
        "nokey=17",
        "name:*notify*",
        "name:none.such*",
        "-FAILURE",
        "-name:notify",
        "error:none",
        "args.0.customer:44",
        "customer:44",
        "message:x",
    ],
)
def test_a_search_in_which_nothing_looks_wrong_gets_no_hint(search: str) -> None:
    assert hint(parse(search, NOW)) is None
