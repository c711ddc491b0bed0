"""The search grammar: the meaning of each form, and that any other text is clearly refused."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_asynctask.cli.group import apart
from celery_asynctask.errors import FilterError
from celery_asynctask.present.zone import LOCAL
from celery_asynctask.queries.search import glob
from celery_asynctask.queries.search.filter import MAX_LENGTH, MAX_TERMS, MAX_VALUES, Filter, Term, Value, parse, term
from celery_asynctask.queries.search.json_path import integer, real
from celery_asynctask.queries.search.keys import JSON_KEYS, KEYS, duration
from tests import quick
from tests.environment import variables

NOW = dt.datetime(2026, 7, 1, 12, 30, 45, 123456, tzinfo=dt.timezone(dt.timedelta(hours=2)))
SLOW = 0.05
"""Time within which any search is parsed."""


def terms(text: str, now: dt.datetime = NOW) -> tuple[Term, ...]:
    return parse(text, now).terms


def values(text: str, now: dt.datetime = NOW) -> tuple[Value, ...]:
    [term] = terms(text, now)
    return term.values


def value(text: str, now: dt.datetime = NOW) -> Value:
    [result] = values(text, now)
    return result


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc)


def equal(text: str) -> Value:
    return Value("=", text)


def test_terms() -> None:
    assert terms("") == terms(" \t\n ") == ()
    assert terms("  status:failure,LOST   -customer:42 ") == (
        Term("status", (), (equal("FAILURE"), equal("LOST")), False),
        Term("customer", (), (equal("42"),), True),
    )
    assert parse(" name:a ", NOW) == Filter(terms("name:a"), "name:a")
    assert terms("NAME:a") == terms("name:a")
    assert value("name:a:b") == equal("a:b"), "only the first colon ends the key"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name:"a b"', "a b"),
        ('name:"a,b"', "a,b"),
        (r'name:"a\"b"', 'a"b'),
        (r'name:"a\\b"', "a\\b"),
        (r"name:a\b", r"a\b"),
        ('name:"none"', "none"),
        ('name:n"one"', "none"),
        ('name:""', ""),
        ('name:">5"', ">5"),
        ('name:"*"', "[*]"),
        ('name:a"*?"b*', "a[*][?]b*"),
        ("name:[a]", "[[]a]"),
        ('name:"[a]"', "[[]a]"),
        ("name:a..b", "a..b"),
        ("name:a;b'c", "a;b'c"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert value(text) == equal(expected)


def test_negation() -> None:
    assert terms("-status:LOST") == (Term("status", (), (equal("LOST"),), True),)
    assert terms("-billing") == (Term("name", (), (equal("*billing*"),), True),)
    assert terms("customer:-5") == (Term("customer", (), (equal("-5"),), False),)
    assert terms('"-billing"') == terms('"-"billing') == (Term("name", (), (equal("*-billing*"),), False),)
    assert terms("-") == (Term("name", (), (equal("*-*"),), False),)


def test_words_without_a_key() -> None:
    assert terms("billing") == (Term("name", (), (equal("*billing*"),), False),)
    assert terms("a,b") == (Term("name", (), (equal("*a*"), equal("*b*")), False),)
    assert terms("5f0c2a11") == (Term("id", (), (equal("5f0c2a11"),), False),)
    assert terms("5f0c2a11-1,6f0c2a11") == (Term("id", (), (equal("5f0c2a11-1"), equal("6f0c2a11")), False),)
    assert terms('"5f0c2a11"') == (Term("name", (), (equal("*5f0c2a11*"),), False),), "quoted, it means itself"
    assert terms("5f0c2a1")[0].key == "name", "seven digits may be anything"
    assert terms("none")[0].values == (equal("*none*"),)


def test_ids_in_upper_case() -> None:
    assert values("id:5F0C") == (equal("5F0C"), equal("5f0c"))
    assert values("5F0C2A11") == (equal("5F0C2A11"), equal("5f0c2a11"))
    assert values("root:5F0C*") == (equal("5F0C*"), equal("5f0c*"))
    assert values("id:Import-7") == (equal("Import-7"),), "no UUID: upper and lower case differ"
    assert values("trace:4BF92F") == (equal("4bf92f"),), "these are always in lower case"


def test_the_creator() -> None:
    """The column is titled "Created by"; its key is the one of the name."""
    assert terms("creator:Ada") == terms("created_by_name:Ada")
    assert terms("-Creator:Ada,Bob") == terms("-created_by_name:Ada,Bob")
    assert terms('creator:"7"') == terms('created_by_name:"7"'), "quoted, a number is a name"


def test_none_and_any() -> None:
    for key in KEYS:
        path = ".a" if key in JSON_KEYS else ""
        if key in ("since", "until"):
            for text in ("none", "*"):
                with pytest.raises(FilterError):
                    terms(f"{key}:{text}")
            continue
        assert value(f"{key}{path}:none") == value(f"{key}{path}:NONE") == Value("none")
        assert value(f"{key}{path}:*") == Value("any")
    assert values("error:none,ValueError") == (Value("none"), equal("ValueError"))


def test_numbers() -> None:
    assert value("retries:3") == Value("=", 3)
    assert value("retries:>2") == value('retries:>"2"') == Value(">", 2)
    assert [value(f"retries:{one}2").operator for one in (">=", "<=", "<")] == [">=", "<=", "<"]
    assert value("retries:2..5") == value("retries:5..2") == Value("..", 2, 5)
    assert value("retries:-5..-1") == Value("..", -5, -1)
    assert value(f"retries:{2**63 - 1}") == Value("=", 2**63 - 1)
    for text in (
        f"retries:{2**63}",
        "retries:1.5",
        "retries:x",
        "retries:+1",
        "retries:\N{ARABIC-INDIC DIGIT ONE}",
        'retries:""',
        "retries:>",
    ):
        with pytest.raises(FilterError):
            terms(text)


@pytest.mark.parametrize("key", ["customer", "created_by"])
def test_ids_are_texts_and_numbers_are_compared(key: str) -> None:
    for text in ("42", "-5", "acme-1", "9B1DEB4D-3B7D-4BAD-9BDD-2B0D7B3DCB6D", str(2**63), "1.5"):
        assert values(f"{key}:{text}") == (equal(text),), "case matters"
    assert values(f"{key}:acme*,7") == (equal("acme*"), equal("7"))
    assert value(f'{key}:"none"') == equal("none")
    assert value(f"{key}:none") == Value("none")
    assert value(f"{key}:>=5") == Value(">=", 5)
    assert value(f"{key}:5..1") == Value("..", 1, 5)
    assert value(f'{key}:"a..b"') == equal("a..b")
    for text in (">x", "a..b"):
        with pytest.raises(FilterError, match="a whole number"):
            terms(f"{key}:{text}")


def test_durations() -> None:
    assert value("run:>1.5s") == Value(">", dt.timedelta(seconds=1.5))
    assert value("wait:200ms..1m") == Value("..", dt.timedelta(seconds=0.2), dt.timedelta(minutes=1))
    assert duration("1w") == dt.timedelta(days=7)
    assert duration("0.000001s") == dt.timedelta(microseconds=1)
    assert duration("100y") == dt.timedelta(days=36_500)
    for text in ("101y", "999999999y", "5", "s", "-1s", "1.s", "1e3s", "1 s", "\N{ARABIC-INDIC DIGIT THREE}s", ""):
        with pytest.raises(ValueError, match="a duration such as"):
            duration(text)
    with pytest.raises(FilterError, match=r"cannot be exactly '5s': put > or <"):
        terms("run:5s")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-01-31", "2026-01-30T22:00:00", "2026-01-31T21:59:59.999999"),
        ("2026-01-31T14:05", "2026-01-31T12:05:00", "2026-01-31T12:05:59.999999"),
        ("2026-01-31t14:05", "2026-01-31T12:05:00", "2026-01-31T12:05:59.999999"),
        ("2026-01-31T14:05Z", "2026-01-31T14:05:00", "2026-01-31T14:05:59.999999"),
        ("2026-01-31t14:05z", "2026-01-31T14:05:00", "2026-01-31T14:05:59.999999"),
        ("2026-01-31T14:05:03", "2026-01-31T12:05:03", "2026-01-31T12:05:03.999999"),
        ("2026-01-31T14:05:03.12", "2026-01-31T12:05:03.120000", "2026-01-31T12:05:03.129999"),
        ("2026-01-31T14:05-0330", "2026-01-31T17:35:00", "2026-01-31T17:35:59.999999"),
        ("2026-01-31Z", "2026-01-31T00:00:00", "2026-01-31T23:59:59.999999"),
        ('"2026-01-31 14:05"', "2026-01-31T12:05:00", "2026-01-31T12:05:59.999999"),
        ("today", "2026-06-30T22:00:00", "2026-07-01T21:59:59.999999"),
        ("Yesterday", "2026-06-29T22:00:00", "2026-06-30T21:59:59.999999"),
    ],
)
def test_times_are_as_long_as_they_are_written(text: str, first: str, last: str) -> None:
    begin, end = utc(first), utc(last)
    assert value(f"created:{text}") == Value("..", begin, end)
    assert value(f"created:>={text}") == Value(">=", begin)
    assert value(f"created:<{text}") == Value("<", begin)
    assert value(f"created:>{text}") == Value(">", end), "after all of it"
    assert value(f"created:<={text}") == Value("<=", end), "all of it included"
    assert value(f"since:{text}") == Value(">=", begin)
    assert value(f"until:{text}") == Value("<", begin)


def test_ranges_of_times() -> None:
    assert value("created:2026-01-01..2026-01-31") == Value(
        "..", utc("2025-12-31T22:00"), utc("2026-01-31T21:59:59.999999")
    )
    two, one = utc("2026-06-29T10:30:45.123456"), utc("2026-06-30T10:30:45.123456")
    assert value("created:2d..1d") == value("created:1d..2d") == Value("..", two, one)
    assert value("created:>2d") == Value(">", two), "durations count back from now: the last two days"
    assert value("since:2d") == Value(">=", two)
    assert value("created:2026-01-31T14:05:03.123456").operator == "=", "one microsecond"
    for text in ("created:2d", "completed:now"):
        with pytest.raises(FilterError, match="cannot be exactly"):
            terms(text)


@pytest.mark.parametrize(
    "text",
    ["2026-02-30", "2026-1-1", "20260131", "2026-W05-6", "2026-01-31T24:00", "2026-01-31T14", "0001-01-01",
     "9999-12-31", "1969-12-31", "2026-01-31T14:05+25:00", "2026-01-31T14:05+02:75", "2026-01-31T14:05:60",
     "tomorrow", "-2d", "14:00", '"yesterday 14:00"'],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(FilterError, match="a time such as 2026-01-31") as refused:
        terms(f"since:{text}")
    forms = re.search(r"it must be (.*)\.$", str(refused.value))
    assert forms
    named = re.findall(r"2026-[\w:-]+|\b2d\b|today|yesterday|now$", forms[1])
    assert len(named) == 7
    for form in named:
        assert terms(f"since:{form}"), "each form that the error names is understood"


def test_days_on_which_the_clock_changes() -> None:
    """A local day has 23 hours in March and 25 in October, and a date in winter has the offset of winter."""
    summer = NOW.astimezone(ZoneInfo("Europe/Berlin"))
    winter = value("created:2026-01-31", summer)
    assert winter == Value("..", utc("2026-01-30T23:00"), utc("2026-01-31T22:59:59.999999"))
    for date, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-07-01", 24)):
        result = value(f"created:{date}", summer)
        assert result.high - result.value == dt.timedelta(hours=hours, microseconds=-1), date
    monday = dt.datetime(2026, 3, 30, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    assert value("since:24h", monday) == Value(">=", utc("2026-03-28T23:00"))
    assert value("created:yesterday", monday) == Value("..", utc("2026-03-28T23:00"), utc("2026-03-29T21:59:59.999999"))


@pytest.fixture
def berlin() -> Iterator[None]:
    with variables({"TZ": "Europe/Berlin"}):
        yield


def test_the_local_zone_knows_its_changes(berlin: None) -> None:
    now = dt.datetime(2026, 7, 1, 12, tzinfo=LOCAL)
    assert now.utcoffset() == dt.timedelta(hours=2)
    assert now.astimezone(dt.timezone.utc) == utc("2026-07-01T10:00")
    assert utc("2026-01-31T10:00").astimezone(LOCAL).isoformat() == "2026-01-31T11:00:00+01:00"
    twice = utc("2026-10-25T01:30").astimezone(LOCAL)
    assert (twice.hour, twice.fold, twice.astimezone(dt.timezone.utc)) == (2, 1, utc("2026-10-25T01:30"))
    assert value("created:2026-01-31", now) == value("created:2026-01-31", now.astimezone(ZoneInfo("Europe/Berlin")))
    assert f"{now:%H:%M %Z}" == "12:00 CEST"


def test_json_paths() -> None:
    assert terms("kwargs.order.id:17") == (Term("kwargs", ("order", "id"), (equal("17"),), False),)
    assert terms("args.0:*")[0].path == ("0",)
    assert terms('kwargs."a.b:c \\"d".x:1')[0].path == ('a.b:c "d', "x"), "quoted, a key may be anything"
    assert terms("result:17")[0].path == ()
    assert terms("KWARGS.Order:1")[0].path == ("Order",), "names in a path are as they are"
    for text in ("kwargs:1", "args:1", "content:1", "kwargs.:1", "kwargs.a..b:1", 'kwargs."":1', "name.x:1",
                 "kwargs.a:>5", "args.0.1.2.3:1", f"kwargs{'.a' * 21}:1"):  # fmt: skip
        with pytest.raises(FilterError):
            terms(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae:x", r"no key 'nmae'\. Did you mean 'name'\? The keys are id, name, status"),
        ("createdby:7", "Did you mean 'created_by'"),
        ("creater:Ada", "Did you mean 'creator'"),
        ("name.x:1", r"no key 'name\.x'\. The keys are"),
        ("creator:7", "'creator' takes a name. Search a number with its own key: created_by:7"),
        ("-creator:7,8", "created_by:7,8"),
        ("http://x", r"no key 'http'\. The keys are .* Put a text with a colon in double quotes"),
        ("status:DONE", "'status' cannot be 'DONE'; it must be one of PENDING, RECEIVED"),
        ("status:>SUCCESS", "'status' takes no >"),
        ("name:>5", "'name' takes no >; put a text that begins with it in double quotes"),
        ("name:", "'name' has no value"),
        ("name:a,", "'name' has no value"),
        (":x", "no key ''"),
        ("a,", "an empty word"),
        ('""', "an empty word"),
        ('name:"a', "a double quote that is not closed"),
        ("name:\0", r"a character that no text in a database has: '\\x00'"),
        ("name:\udc80", "a character that no text in a database has"),
        ("since:>2d", "'since' takes no >"),
        ("kwargs:17", "'kwargs' needs a path: kwargs.order:value"),
        ("retries:2..", "'retries' cannot be '2..'"),
        ("x" * (MAX_LENGTH + 1), "2,049 characters; it may have 2,048"),
        ("a " * (MAX_TERMS + 1), "33 terms; it may have 32"),
        ("customer:" + "1," * MAX_VALUES + "1", "21 alternatives; it may have 20"),
        ("a," * MAX_VALUES + "a", "21 alternatives; it may have 20"),
    ],
)
def test_refusals_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        terms(text)


PIECE = st.one_of(
    st.sampled_from(
        [
            *(f"{key}:" for key in KEYS),
            "kwargs.",
            ".0",
            ":",
            "-",
            ",",
            '"',
            "\\",
            " ",
            "*",
            "?",
            "[",
            "]",
            "..",
            ">",
            "<",
            "=",
        ]
    ),
    st.sampled_from(
        ["none", "2026-01-31", "T14:05", "Z", "+02:00", "2d", "17", "1e9", "today", "FAILURE", "é", "\0", "\udfff"]
    ),
    st.text(max_size=20),
)
SEARCH = st.one_of(
    st.text(max_size=MAX_LENGTH),
    st.lists(PIECE, max_size=200).map("".join).map(lambda text: text[:MAX_LENGTH]),
    st.tuples(PIECE, st.integers(1, MAX_LENGTH)).map(lambda pair: (pair[0] * pair[1])[:MAX_LENGTH]),
)


@given(SEARCH)
@example('"' * MAX_LENGTH)
@example("name:" + "[*]" * 600)
@example("-" * MAX_LENGTH)
@example("kwargs.a:" + "9" * 2000)
def test_any_text_is_understood_or_refused_at_once(text: str) -> None:
    result: Filter | None = None
    refusal = ""

    def understand() -> None:
        nonlocal result, refusal
        try:
            result = parse(text, NOW)
        except FilterError as exc:
            refusal = str(exc)

    assert quick.seconds(understand, SLOW) < SLOW
    if result is None:
        assert refusal
        assert refusal.isprintable()
    else:
        check(result)


def check(search: Filter) -> None:
    """Values have the types that conditions are made from."""
    assert len(search.terms) <= MAX_TERMS
    for part in search.terms:
        assert part.key in KEYS
        assert part.values
        for one in part.values:
            if one.operator in ("none", "any"):
                assert (one.value, one.high) == (None, None)
                continue
            assert one.operator in ("=", ">", ">=", "<", "<=", "..")
            assert isinstance(one.value, (str, int, dt.datetime, dt.timedelta))
            if one.operator == "..":
                assert one.value <= one.high
            if isinstance(one.value, dt.datetime):
                assert one.value.tzinfo is dt.timezone.utc


def test_terms_are_quoted() -> None:
    assert term("parent", 'a"b\\c d') == 'parent:"a\\"b\\\\c d"'


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
def test_a_quoted_text_means_itself(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    result: Any = value(f'name:"{quoted}"').value
    assert glob.literal(result) == text
    assert not glob.is_glob(result)


def test_globs() -> None:
    assert glob.like("a*b?c[*][[]x]%_!") == "a%b_c*[x]!%!_!!"
    assert glob.like_literal("50%_!*") == "50!%!_!!*"
    assert glob.beginning("abc*") == "abc"
    assert [glob.beginning(text) for text in ("abc", "a*c*", "abc?", "abc[*]", "")] == [None] * 5
    assert glob.beginning("a[*]*") == "a*"
    assert [glob.contained(text) for text in ("*a[*]b*", "**", "*[*]*")] == ["a*b", "", "*"]
    others = ("*", "a", "a*", "*a", "[*]a*", "*a[*]", "*a*b*", "*a?*", "")
    assert [glob.contained(text) for text in others] == [None] * len(others)


@pytest.mark.parametrize("text", ["message:{}*", "name:*{}", "kwargs.a:?{}", "x*{}", "error:ok,{}*", "message:[{}*"])
def test_a_glob_is_bounded(text: str) -> None:
    """Comparing one cannot be interrupted, and takes as many steps for each character of a text as it has."""
    parse(text.format("a" * (glob.MAX_LENGTH - 4)), NOW)
    with pytest.raises(FilterError, match=r"has a pattern of 3.. characters; with \* or \? it may have 256\. Shorten"):
        parse(text.format("a" * 300), NOW)
    parse(text.format("a" * 300).replace("*", "").replace("?", ""), NOW)


def test_a_long_text_with_quoted_wildcards_is_no_glob() -> None:
    assert glob.contained(value(f"args.0:*{'a' * 1900}*").value) == "a" * 1900
    [term] = terms(f'message:"{"a*?" * 500}"')
    assert glob.literal(term.values[0].value) == "a*?" * 500


@pytest.mark.parametrize(
    ("text", "whole", "number"),
    [
        ("17", 17, 17.0),
        ("17.0", 17, 17.0),
        ("1e3", 1000, 1000.0),
        ("0.1", None, 0.1),
        ("0.10000000000000001", None, None),
        ("-0", 0, 0.0),
        (str(10**30), 10**30, 1e30),
        (str(10**30 + 1), 10**30 + 1, None),
        ("1e999", 10**999, None),
        ("1e-999", None, None),
        ("017", None, None),
        ("+1", None, None),
        ("1.", None, None),
        ("NaN", None, None),
        ("Infinity", None, None),
        ("0x10", None, None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None, None),
        ("", None, None),
    ],
)
def test_numbers_of_json(text: str, whole: int | None, number: float | None) -> None:
    assert integer(text) == whole
    assert real(text) == number


def test_terms_that_must_not_hold_are_no_options() -> None:
    assert apart(["-status:LOST", "--json", "a", "-n", "5"]) == ["--json", "a", "-n", "5", "--", "-status:LOST"]
    assert apart(["-name:x", "a", "--", "-b"]) == ["a", "--", "-name:x", "-b"]
    assert apart(["-kwargs.a:1"]) == ["--", "-kwargs.a:1"]
    assert apart(["a", "-n", "5", "--", "-status:LOST"]) == ["a", "-n", "5", "--", "-status:LOST"]
