"""The parameters of a search: they mean what the grammar says, and an error names the parameter."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.errors import FilterError
from celery_asynctask.queries.search import glob
from celery_asynctask.queries.search.filter import MAX_TERMS, Filter, Term, Value, parse
from celery_asynctask.queries.search.order import NEWEST, ORDERS
from celery_asynctask.web.parameters import ORDER_BY, PageSearch, ParsedSearch, Search, in_values, parse_search
from celery_asynctask.web.problem import ProblemError

NOW = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone.utc)
TEXTS = st.text(max_size=40) | st.from_regex(
    r'-?(kwargs|name|since|status)?[.:]?[a-z0-9",*><.: -]{0,20}', fullmatch=True
)

TEXT_KEYS = {
    "name": "name",
    "created_by_name": "created_by_name",
    "error_type": "error",
    "celery_task_id": "id",
    "root_task_id": "root",
    "parent_task_id": "parent",
    "trace_id": "trace",
    "span_id": "span",
    "worker": "worker",
    "queue": "queue",
}
"""Keys of the grammar, by text parameters."""


def meaning(**parameters: Any) -> ParsedSearch:
    """The parsed search of these parameters."""
    return parse_search(Search.model_validate(parameters), NOW)


def outcome(read: Callable[[], Any]) -> Any:
    """The terms; or the detail of a problem, which has the parameter's name."""
    try:
        return read()
    except FilterError as exc:
        return str(exc)
    except ProblemError as exc:
        assert (exc.kind, exc.status) == ("invalid-parameter", 422)  # noqa: PT017 - it is no other
        return exc.parameter, exc.detail


@given(TEXTS)
@example('"')
@example("nokey:1")
@example("since:soon")
@example("kwargs:1")
@example(" ".join(["a"] * (MAX_TERMS + 1)))
def test_a_search_is_what_the_command_line_understands(text: str) -> None:
    expected = outcome(lambda: parse(text, NOW).terms)
    result = outcome(lambda: meaning(search=text).filter.terms)
    assert result == (("search", expected) if isinstance(expected, str) else expected)


@given(st.sampled_from(sorted(TEXT_KEYS)), TEXTS.filter(bool))
@example("name", '"')
@example("worker", ",".join("abcdefghijklmnopqrstuvwxyz"))
@example("name", "a b:c")
@example("name", "none")
@example("name", '\\"')
@example("name", "[*] -x")
@example("created_by_name", "Lovelace, Ada")
@example("celery_task_id", "\0")
@example("name", "*")
def test_a_field_is_one_text_with_wildcards(field: str, text: str) -> None:
    """Or a problem with its name. Nothing but wildcards has a meaning in it."""
    result = outcome(lambda: meaning(**{field: text}).filter.terms)
    if re.search("[\0\ud800-\udfff]", text):
        assert result[0] == Search.model_fields[field].alias
        return
    [term] = result
    assert (term.key, term.path, term.negated) == (TEXT_KEYS[field], (), False), "it is nothing else"
    for value in term.values:
        if text == "*":  # any at all, as a lone asterisk is everywhere
            assert value == Value("any")
            continue
        assert value.operator == "="
        meant = [(one, one in "*?") for one in text]
        assert glob._pieces(value.value) in (meant, [(one.lower(), wild) for one, wild in meant])


@given(st.integers(-MAX_INTEGER, MAX_INTEGER))
def test_numbers(number: int) -> None:
    [term] = meaning(retries=number).filter.terms
    assert term == Term("retries", (), (Value("=", number),), False)
    for field in ("customer", "created_by"):
        for given_as in (number, str(number)):
            [term] = meaning(**{field: given_as}).filter.terms
            assert term == Term(field, (), (Value("=", str(number)),), False)


@given(st.datetimes(timezones=st.just(dt.timezone(dt.timedelta(hours=-12))) | st.just(dt.timezone.utc)))
def test_times_are_such_as_every_database_knows(at: dt.datetime) -> None:
    for field, key, operator in (("created_after", "created", ">="), ("completed_before", "completed", "<")):
        [term] = meaning(**{field: at.isoformat()}).filter.terms
        [value] = term.values
        assert (term.key, value.operator) == (key, operator)
        assert value.value.utcoffset() == dt.timedelta(0)
        assert 1970 <= value.value.year < 3000
        if 1971 <= at.year < 2999:
            assert value.value == at


@pytest.mark.parametrize(
    ("search", "relative"),
    [
        ("", False), ("name:shop.*", False), ("since:2d", True), ("-since:2d", True), ("created:today", True),
        ("created:2026-01-31Z", False), ("created:2026-01-31T14:05Z..1h", True), ("completed:<now", True),
        ("run:>2d", False), ("started:none", False), ('name:"since:2d"', False),
    ],
)  # fmt: skip
def test_which_searches_count_from_now(search: str, relative: bool) -> None:
    """They find other tasks an hour later, although no task has changed."""
    assert meaning(search=search).relative is relative


@pytest.mark.parametrize(
    ("search", "looks"),
    [("args.0:1", True), ("-result:none", True), ("CONTENT.x:1", True), ("kwargs.a.b:1", True), ("kwargs", False),
     ("name:kwargs.a", False), ('"kwargs.a:1"', False), ("periodic:nightly", False), ("message:args", False)],
)  # fmt: skip
def test_which_searches_look_into_values(search: str, looks: bool) -> None:
    assert in_values(meaning(search=search).filter.terms) is looks


def test_statuses_are_alternatives_and_each_is_meant_once() -> None:
    [term] = meaning(status=["LOST", "FAILURE", "LOST"]).filter.terms
    assert term == Term("status", (), (Value("=", "LOST"), Value("=", "FAILURE")), False)


def test_all_parameters_count_as_terms() -> None:
    words = " ".join(["a"] * MAX_TERMS)
    assert len(meaning(search=words).filter.terms) == MAX_TERMS
    with pytest.raises(ProblemError, match="33 terms"):
        meaning(search=words, retries=1)
    assert meaning().filter == Filter()


def test_orders_are_all_that_there_are() -> None:
    assert set(ORDER_BY.values()) == set(ORDERS)
    assert ORDER_BY["-createdAt"] == NEWEST == PageSearch.model_validate({}).order


def test_nothing_unknown_is_taken() -> None:
    for unknown in ({"nothing": 1}, {"orderBy": "x"}):
        with pytest.raises(ValueError, match="Extra inputs"):
            PageSearch.model_validate(unknown)
