"""Cookies are read in a time that does not depend on who sends them."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from celery_asynctask.web.cookies import MAX_COOKIES, cheap, cookie


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("token=abc", "abc"),
        ("other=1; token=abc", "abc"),
        ("other=1;token = abc ;", "abc"),
        ("token=first; token=second", "first"),
        ("token=a=b", "a=b"),
        ('token="abc"', '"abc"'),
        ("token=", ""),
        ("token", ""),
        ("atoken=1; tokens=2; TOKEN=3", None),
        ("", None),
        (";;=;", None),
    ],
)
def test_a_cookie_by_its_name(sent: str, value: str | None) -> None:
    assert cookie(Headers({"cookie": sent}), "token") == value


def test_a_cookie_in_one_of_several_headers() -> None:
    assert cookie(Headers(raw=[(b"cookie", b"a=1"), (b"cookie", b"token=2")]), "token") == "2"
    assert cookie(Headers(), "token") is None


def test_what_costs_little_is_left_as_it_is() -> None:
    escaped = rb'theirs="{\"a\": \"%b\"}"; ours=1' % (b"x" * 4000)
    for cookies in ((), (b"a=1; b=2",), (b"a=1", b"b=2"), (escaped,), (b"a" * MAX_COOKIES,), (b"a;" * 4096,)):
        headers = [(b"host", b"x"), *((b"cookie", value) for value in cookies)]
        assert cheap(headers) is headers


def test_what_takes_long_to_unquote_is_left_out() -> None:
    slow = b'slow="' + rb"\"" * 1000 + b'"'
    headers = [(b"cookie", b"a=1;" + slow + b"; b=2"), (b"host", b"x"), (b"cookie", slow), (b"cookie", b"c=3")]
    assert cheap(headers) == [(b"host", b"x"), (b"cookie", b"a=1; b=2;c=3")]


def test_more_than_the_bound() -> None:
    assert cheap([(b"cookie", b"a" * (MAX_COOKIES + 1))]) is None
    assert cheap([(b"cookie", b"a" * 5000), (b"cookie", b"b" * 5000)]) is None
