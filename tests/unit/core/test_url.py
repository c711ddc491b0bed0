"""URLs are read as SQLAlchemy reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from celery_asynctask.core.url import parse

URLS = [
    "sqlite://",
    "sqlite:///rows.db",
    "sqlite:////var/lib/rows.db",
    "sqlite:///:memory:",
    "sqlite:////tmp/a@b:c.db",
    "postgresql://h/d",
    "postgresql+psycopg://user@h:5432/d",
    "postgresql+psycopg://user:p%40ss@h:5432/d?sslmode=require&application_name=a%20b",
    "postgresql://user:a:b/c@h/d",
    "postgresql://:secret@h/d",
    "postgresql://user:@h/d",
    "postgresql:///d",
    "postgresql:///d?host=/var/run/postgresql",
    "postgresql://[::1]:5432/d",
    "postgresql://u:p@[2001:db8::1]/d",
    "mysql+pymysql://root@127.0.0.1:3306/d?charset=utf8mb4",
    "mysql://h",
    "mysql://h:3306",
    "mysql://user@server:secret@h/d",
    "postgresql://user:p?ss@h/d?a=b",
    "postgresql://user:p?ss&=/:;@h:5432/d",
]
PART = st.text(st.sampled_from("ab1-_.+~"), max_size=4)


def check(url: str) -> None:
    expected = make_url(url)
    parsed = parse(url)
    assert parsed.backend == expected.get_backend_name()
    assert parsed.host == (expected.host or "")
    assert parsed.port == expected.port
    assert parsed.database == (expected.database or "")


@pytest.mark.parametrize("url", URLS)
def test_parts(url: str) -> None:
    check(url)


@given(
    st.sampled_from(["sqlite", "postgresql+psycopg", "mysql"]),
    st.none() | PART,
    st.none() | PART,
    PART,
    st.none() | st.integers(1, 65535),
    st.none() | PART,
    st.none() | PART,
)
def test_generated(
    scheme: str,
    user: str | None,
    password: str | None,
    host: str,
    port: int | None,
    database: str | None,
    options: str | None,
) -> None:
    secret = f":{password}" if password is not None else ""
    userinfo = f"{user}{secret}@" if user is not None else ""
    address = f"{host}:{port}" if port is not None else host
    path = f"/{database}" if database is not None else ""
    check(f"{scheme}://{userinfo}{address}{path}{f'?{options}=1' if options else ''}")


@pytest.mark.parametrize(
    "url",
    ["", "no url", "postgresql", "postgresql:/h", "://h/d", "postgre sql://h", "postgresql://h:x/d", "mysql://h:/d"],
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(ValueError):
        parse(url)
    with pytest.raises((ArgumentError, ValueError)):
        make_url(url)


@pytest.mark.parametrize("url", [url for url in URLS if make_url(url).password])
def test_a_password_is_not_shown(url: str) -> None:
    password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    shown = parse(url).shown
    assert password
    assert shown == url.replace(f":{password}@", ":***@")


def test_what_has_no_password_is_shown_as_it_is() -> None:
    for url in (
        "postgresql://user@h/d?a=b",
        "mysql://h/d?charset=utf8mb4&ssl_ca=%2Fx&a=1&&b",
        "sqlite:///x.db?",
        "sqlite://",
    ):
        assert parse(url).shown == url


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "pass%77ord", "passwd", "sslpassword", "ssl_key_password", "pwd", "token"),
        *("access_token", "sslkey", "api_key", "client_secret", "credentials", "odbc_connect"),
    ],
)
def test_a_secret_among_the_options_is_not_shown(name: str) -> None:
    url = f"postgresql+psycopg://{{}}h/d?sslmode=require&{name}={{}}&a={name}&{name}={{}}"
    shown = parse(url.format("user:s3cret@", "s3cret=s3;cret", "%733cret?/s3cret")).shown
    assert shown == url.format("user:***@", "***", "***")


@pytest.mark.parametrize("password", ["p@ss", "p@h", "p?s@ss", "p/s@ss@"])
def test_a_password_that_should_have_been_quoted_is_not_shown(password: str) -> None:
    """SQLAlchemy reads another host from it, so an error would show the URL."""
    assert parse(f"postgresql://user:{password}@h/d@x").shown == "postgresql://user:***@h/d@x"
