"""URLs are read as SQLAlchemy reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from celery_asynctask.core.url import ASYNC, DRIVERS, objection, parse, same_store, store_id, without_secrets

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
        *("options", "init_command"),
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


# -- what cannot be a store


@pytest.mark.parametrize("url", [*URLS, "sqlite:///with a blank.db"])
def test_a_url_that_can_be_used(url: str) -> None:
    assert objection(url) == ""


@pytest.mark.parametrize("backend", DRIVERS)
def test_drivers_are_those_of_sqlalchemy(backend: str) -> None:
    """Each is known to it, with asyncio or without."""
    for driver in DRIVERS[backend]:
        assert not make_url(f"{backend}+{driver}://h/d").get_dialect().is_async, driver
        assert objection(f"{backend}+{driver}://h/d") == ""
    known = set()
    for driver in ASYNC:
        try:
            dialect = make_url(f"{backend}+{driver}://h/d").get_dialect()
        except NoSuchModuleError:
            continue
        known.add(driver)
        assert dialect.is_async, driver
        assert "is a driver for asyncio" in objection(f"{backend}+{driver}://h/d")
    assert known


def test_a_driver_that_a_package_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[dict[str, str]] = []

    def found(**looked_for: str) -> list[str]:
        looked.append(looked_for)
        return ["of its package"]

    monkeypatch.setattr("celery_asynctask.core.url.entry_points", found)
    assert objection("postgresql+special://h/d") == ""
    assert looked == [{"group": "sqlalchemy.dialects", "name": "postgresql.special"}]


# -- which database it is


@pytest.mark.parametrize(
    ("urls", "identity"),
    [
        (
            [
                *(
                    "postgresql://localhost/d",
                    "postgresql+psycopg://u:p@127.0.0.1:5432/d",
                    "postgresql://[::1]/d?host=",
                ),
                *("postgresql://LOCALHOST/d?sslmode=require", "postgresql://other@localhost/d?application_name=x"),
            ],
            "postgresql://localhost:5432/d",
        ),
        (["mysql://h/d", "mariadb+pymysql://u@h:3306/d", "mysql+mysqldb://h/d?charset=utf8mb4"], "mysql://h:3306/d"),
        (["postgresql://u@h", "postgresql://h/u", "postgresql://h?user=u"], "postgresql://h:5432/u"),
        (["postgresql:///d?host=/run/a", "postgresql://u@/d?host=%2Frun%2Fa"], "postgresql://:5432/d?host=/run/a"),
        (["postgresql://h/d?port=6432", "postgresql://h:6432/x?dbname=d"], "postgresql://h:6432/d"),
        (["postgresql:///?service=prod"], "postgresql://:5432/?service=prod"),
        (["postgresql:///d?host=a:1&host=b:2"], "postgresql://:5432/d?host=a:1,b:2"),
        (
            [
                *("postgresql://h/d?options=-csearch_path%3Dapp_a", "postgresql://h/d?options=--search-path%3Dapp_a"),
                "postgresql://h/d?options=-c%20statement_timeout%3D5s%20-c%20search_path%3Dapp_a",
            ],
            "postgresql://h:5432/d?search_path=app_a",
        ),
        (["mysql://u@/d?unix_socket=/run/a.sock"], "mysql://:3306/d?unix_socket=/run/a.sock"),
        (["mysql:///d?read_default_file=/etc/a.cnf"], "mysql://:3306/d?read_default_file=/etc/a.cnf"),
        (["postgresql://[2001:db8::1]/d"], "postgresql://[2001:db8::1]:5432/d"),
    ],
)
def test_one_identity_for_all_ways_to_one_database(urls: list[str], identity: str) -> None:
    assert {store_id(url) for url in urls} == {identity}
    assert store_id(identity) == identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql:///app?host=/run/a", "postgresql:///app?host=/run/b"),
        ("postgresql:///app?host=/run/a", "postgresql:///app"),
        ("mysql:///app?unix_socket=/run/a", "mysql:///app?unix_socket=/run/b"),
        ("postgresql://h/d?options=-csearch_path%3Da", "postgresql://h/d?options=-csearch_path%3Db"),
        ("postgresql://a@h", "postgresql://b@h"),
        ("postgresql://h:5432/d", "postgresql://h:5433/d"),
        ("mysql://h/d", "mysql://h/D"),
    ],
)
def test_two_databases_have_two_identities(one: str, other: str) -> None:
    assert store_id(one) != store_id(other)
    assert not same_store(store_id(one), store_id(other))


@pytest.mark.parametrize(
    ("claimed", "url", "same"),
    [
        ("postgresql://127.0.0.1/d", "postgresql://localhost:5432/d", True),
        ("mariadb://h/d", "mysql://h/d", True),
        ("postgresql:///app", "postgresql:///app?host=/run/a", True),
        ("postgresql://:5432/app", "postgresql:///app?host=/run/a", False),
        ("postgresql://h/d", "postgresql://h:5433/d", False),
        ("two words", "postgresql://h/d", False),
    ],
)
def test_what_an_earlier_version_called_a_store(claimed: str, url: str, same: bool) -> None:
    """It left out the port, and all that is behind the question mark."""
    assert same_store(claimed, store_id(url)) is same


def test_a_url_of_a_setting_says_neither_options_nor_users() -> None:
    shown = without_secrets({"Logs": "https://ada:s3cret@logs.example/x@y?q={task_id}&token=s3cret", "All": None})
    assert shown == {"Logs": "https://***@logs.example/x@y?q={task_id}&token=***", "All": None}
