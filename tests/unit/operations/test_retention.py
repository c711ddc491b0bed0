"""Retention rules, and the messages for invalid ones."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.errors import FilterError, SettingsError
from celery_asynctask.operations.retention import Rule, as_written, configured, in_words, longest, older_than
from celery_asynctask.queries import Filter, parse
from celery_asynctask.rules import AGE, RULES

NOW = dt.datetime(2026, 3, 4, 5, 6, tzinfo=dt.timezone.utc)
DAY = dt.timedelta(days=1)


def test_rules_keep_their_order() -> None:
    rules = configured({"status:SUCCESS": "30d", "customer:42": None, "*": "1w"}, NOW)
    assert rules == (
        Rule(parse("status:SUCCESS", NOW), 30 * DAY),
        Rule(parse("customer:42", NOW), None),
        Rule(Filter(), 7 * DAY),
    )
    assert [rule.text for rule in rules] == ["status:SUCCESS", "customer:42", "*"]
    assert longest(rules) == 30 * DAY


@pytest.mark.parametrize("everything", ["", "*", " ", " * "])
def test_a_rule_about_everything(everything: str) -> None:
    [rule] = configured({everything: "90d"}, NOW)
    assert rule.search.terms == ()
    assert rule.text == "*"


@pytest.mark.parametrize("nothing", [None, {}])
def test_without_rules_nothing_is_deleted(nothing: dict[str, str | None] | None) -> None:
    assert configured(nothing, NOW) == ()
    assert longest(()) is None
    assert longest(configured({"*": None}, NOW)) is None


def test_what_a_command_line_states() -> None:
    assert older_than("90d", "", NOW) == (Rule(Filter(), 90 * DAY),)
    assert older_than("12h", "name:poll.*", NOW) == (Rule(parse("name:poll.*", NOW), DAY / 2),)


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        ({"state:SUCCESS": "30d"}, "'asynctask_retention' has the rule 'state:SUCCESS': The search has no key"),
        ({"*": "101y"}, "'asynctask_retention' has the age '101y'; it must be a duration"),
    ],
)
def test_a_rule_that_cannot_be(retention: dict[str, str | None], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        configured(retention, NOW)


@pytest.mark.parametrize(("age", "search", "told"), [("soon", "", "An age cannot be 'soon'"), ("1d", "x:1", "no key")])
def test_a_command_line_that_cannot_be(age: str, search: str, told: str) -> None:
    with pytest.raises(FilterError, match=told):
        older_than(age, search, NOW)


@given(st.from_regex(AGE, fullmatch=True))
def test_an_age_that_the_setting_takes_is_one_or_is_too_long(age: str) -> None:
    assert RULES["retention"].check({"*": age}) == {"*": age}
    try:
        assert longest(configured({"*": age}, NOW)) is not None
    except SettingsError as exc:
        assert "it must be a duration" in str(exc)  # noqa: PT017 - it may, or it may not


@pytest.mark.parametrize(
    ("age", "words"),
    [
        ("90d", "90 days"),
        ("1d", "1 day"),
        ("12h", "12 hours"),
        ("15m", "15 minutes"),
        ("1m", "1 minute"),
        ("1.5s", "1.5 seconds"),
        ("0s", "0 seconds"),
    ],
)
def test_an_age_as_it_is_written_and_in_words(age: str, words: str) -> None:
    [rule] = older_than(age, "", NOW)
    assert (as_written(rule.age), in_words(rule.age)) == (age, words)


def test_no_age() -> None:
    assert (as_written(None), in_words(None)) == ("forever", "forever")
