"""Settings: every key is checked, however it is configured, and errors say what to do."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from sqlalchemy.engine import make_url

from celery_asynctask.core.censor import OPEN, PARTLY_OPEN
from celery_asynctask.core.rights import Right
from celery_asynctask.core.tokens import Token
from celery_asynctask.errors import AsyncTaskError, SettingsError
from celery_asynctask.rules import RULES
from celery_asynctask.settings import DEFAULT_EXCLUDE, Settings

SECRET = "hunter2"
KEY = SECRET + "-" * 25
SHA = "0123456789abcdef" * 4
GRANT: dict[str, Any] = {"sha256": SHA, "customers": [42], "rights": ["read"]}
TOKEN = Token("a", SHA, frozenset({"42"}), frozenset({Right.READ}))
NOON = dt.datetime(2027, 1, 31, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("settings", broker="memory://", set_as_current=False)
    yield made
    made.close()


GOOD: list[tuple[str, Any, Any]] = [
    ("enabled", False, False),
    ("url", "postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
    ("url", make_url(f"postgresql://u:{SECRET}@h/d"), f"postgresql://u:{SECRET}@h/d"),
    ("engine_options", {"echo": True}, {"echo": True}),
    ("create_tables", False, False),
    ("journal_dir", "/var/lib/j", Path("/var/lib/j")),
    ("journal_dir", Path("/var/lib/j"), Path("/var/lib/j")),
    ("journal_dir", None, None),
    ("journal_max_bytes", 1_000_000, 1_000_000),
    ("journal_max_bytes", 10**12, 10**12),
    ("journal_keep", 0, 0),
    ("journal_keep", 86_400, 86_400),
    ("flush_interval", 1, 1),
    ("flush_interval", 0.01, 0.01),
    ("batch_size", 1, 1),
    ("batch_size", 100_000, 100_000),
    ("header_version", 1, 1),
    ("header_version", 2, 2),
    ("header_keys", None, None),
    ("header_keys", [KEY], (KEY.encode(),)),
    ("header_keys", (KEY.encode(), "ä" * 32), (KEY.encode(), ("ä" * 32).encode())),
    ("include", ["a.*", "b"], ("a.*", "b")),
    ("exclude", (), ()),
    ("context", "proj.tasks.whose", "proj.tasks.whose"),
    ("context", "proj.tasks:whose", "proj.tasks:whose"),
    ("context", dict, dict),
    ("context", None, None),
    ("trace_url", "https://traces/{trace_id}?span={span_id}", "https://traces/{trace_id}?span={span_id}"),
    ("trace_url", None, None),
    ("links", {"Logs": "https://logs/?q={task_id}"}, {"Logs": "https://logs/?q={task_id}"}),
    ("links", {"Shop": "http://shop.example:8000"}, {"Shop": "http://shop.example:8000"}),
    ("links", {}, {}),
    ("links", None, None),
    ("retention", {"status:SUCCESS": "30d", "*": None}, {"status:SUCCESS": "30d", "*": None}),
    ("retention", {}, {}),
    ("tokens", {"a": GRANT}, {"a": TOKEN}),
    ("tokens", {"a": {**GRANT, "sha256": SHA.upper()}}, {"a": TOKEN}),
    ("tokens", {"a": {**GRANT, "customers": "*"}}, {"a": replace(TOKEN, customers=None)}),
    ("tokens", {"a": {**GRANT, "customers": ["acme", 42]}}, {"a": replace(TOKEN, customers=frozenset({"acme", "42"}))}),
    ("tokens", {"a": {**GRANT, "customers": [], "rights": ()}}, {"a": Token("a", SHA, frozenset(), frozenset())}),
    ("tokens", {"a": {**GRANT, "expires": "2027-01-31T13:00:00+01:00"}}, {"a": replace(TOKEN, expires=NOON)}),
    ("tokens", {"a": {**GRANT, "created": NOON}}, {"a": replace(TOKEN, created=NOON)}),
    ("tokens", {"a": {**GRANT, "created_by": [7, "ada"]}}, {"a": replace(TOKEN, created_by=frozenset({"7", "ada"}))}),
    ("tokens", "/etc/shop/tokens.json", Path("/etc/shop/tokens.json")),
    ("tokens", Path("/etc/shop/tokens"), Path("/etc/shop/tokens")),
    ("tokens", "tokens.json", Path("tokens.json").absolute()),
    ("tokens", "proj.web.tokens", "proj.web.tokens"),
    ("tokens", dict, dict),
    ("trusted_proxies", ["127.0.0.1", "10.0.0.0/8", "fd00::/8"], ("127.0.0.1", "10.0.0.0/8", "fd00::/8")),
    ("tokens", {}, {}),
    ("tokens", None, None),
    ("access", "proj.web.access", "proj.web.access"),
    ("access", print, print),
    ("access", None, None),
    ("retention", None, None),
    ("audit_retention", "90d", "90d"),
    ("audit_retention", None, None),
    ("max_value_bytes", 256, 256),
    ("redact", ["password", "api key"], ("password", "api key")),
    ("redact", (), ()),
    ("redact", None, None),
    ("redact_rule", "proj.privacy.is_secret", "proj.privacy.is_secret"),
    ("redact_rule", print, print),
    ("redact_rule", None, None),
    ("exclude", {"a"}, ("a",)),
]
BAD: list[tuple[str, Any]] = [
    ("enabled", "yes"),
    ("enabled", 1),
    ("enabled", None),
    ("url", ""),
    ("url", 5),
    ("url", "no url"),
    ("url", "postgresql://h:port/d"),
    ("url", "postgres://h/d"),
    ("url", "oracle://h/d"),
    ("url", "sqlite:///x.db\n"),
    ("engine_options", [("echo", True)]),
    ("engine_options", {1: 2}),
    ("engine_options", {"isolation_level": "AUTOCOMMIT"}),
    ("engine_options", {"execution_options": {"schema_translate_map": {None: "audit"}}}),
    ("create_tables", 0),
    ("journal_dir", 5),
    ("journal_dir", ""),
    ("journal_dir", "~no-such-user/journal"),
    ("journal_max_bytes", 999_999),
    ("journal_max_bytes", 10**12 + 1),
    ("journal_max_bytes", 1e9),
    ("journal_keep", "60s"),
    ("journal_keep", -1),
    ("journal_keep", 86_401),
    ("journal_keep", None),
    ("flush_interval", "1"),
    ("flush_interval", 0),
    ("flush_interval", 61),
    ("flush_interval", True),
    ("flush_interval", math.nan),
    ("batch_size", 0),
    ("header_version", 3),
    ("header_keys", KEY),
    ("header_keys", []),
    ("header_keys", [KEY] * 3),
    ("header_keys", [KEY, KEY[:-1]]),
    ("header_keys", [KEY, None]),
    ("header_keys", {KEY: KEY}),
    ("batch_size", 1.5),
    ("batch_size", True),
    ("batch_size", 100_001),
    ("include", "a.*"),
    ("include", [1]),
    ("exclude", {"a": 1}),
    ("context", {"customer": 1}),
    ("context", "no path"),
    ("context", ""),
    ("trace_url", "https://traces/"),
    ("trace_url", "javascript:alert({trace_id})"),
    ("trace_url", "{trace_id}"),
    ("trace_url", 5),
    ("trace_url", "https://x{trace_id}/"),
    ("trace_url", "https://{trace_id}.traces/"),
    ("trace_url", "https://traces@{trace_id}/"),
    ("trace_url", "https://shop:secret@traces/{trace_id}"),
    ("trace_url", "https://traces\\{trace_id}"),
    ("trace_url", "https://traces/\x1b{trace_id}"),
    ("links", "https://logs/{task_id}"),
    ("links", ["https://logs/{task_id}"]),
    ("links", {"Logs": "javascript:alert({task_id})"}),
    ("links", {"Logs": " https://logs/{task_id}"}),
    ("links", {"Logs": "//logs/{task_id}"}),
    ("links", {"Logs": "https://logs/{id}"}),
    ("links", {"Logs": "https://logs/{task_id.x}"}),
    ("links", {"Logs": "https://logs/{}"}),
    ("links", {"Logs": "https://logs/{{task_id}}"}),
    ("links", {"Logs": "https://{name}/"}),
    ("links", {"Logs": "https://logs{name}"}),
    ("links", {"Logs": "https://logs\\{name}"}),
    ("links", {"Logs": "https://logs/ {name}"}),
    ("links", {"Logs": "https://logs/\n"}),
    ("links", {"Logs": 5}),
    ("links", {" ": "https://logs/"}),
    ("links", {5: "https://logs/"}),
    ("tokens", "asynctask_token"),
    ("tokens", {"": GRANT}),
    ("tokens", {"a": SHA}),
    ("tokens", {"a": {**GRANT, "token": "x"}}),
    ("tokens", {"a": {"sha256": SHA, "customers": [42]}}),
    ("tokens", {"a": {"sha256": SHA, "rights": ["read"]}}),
    ("tokens", {"a": {**GRANT, "sha256": SHA[:-1]}}),
    ("tokens", {"a": {**GRANT, "sha256": f"{SHA}\n"}}),
    ("tokens", {"a": {**GRANT, "sha256": None}}),
    ("tokens", {"a": {**GRANT, "expires": "tomorrow"}}),
    ("tokens", {"a": {**GRANT, "expires": 1}}),
    ("tokens", {"a": {**GRANT, "created": True}}),
    ("tokens", {"a": {**GRANT, "created_by": 7}}),
    ("tokens", {"a" * 256: GRANT}),
    ("tokens", {"a\n": GRANT}),
    ("tokens", [GRANT]),
    ("trusted_proxies", "127.0.0.1"),
    ("trusted_proxies", ["proxy.example"]),
    ("trusted_proxies", ["10.0.0.1/8"]),
    ("tokens", {"a": {**GRANT, "customers": None}}),
    ("tokens", {"a": {**GRANT, "customers": 42}}),
    ("tokens", {"a": {**GRANT, "customers": "42"}}),
    ("tokens", {"a": {**GRANT, "customers": ["*"]}}),
    ("tokens", {"a": {**GRANT, "customers": [""]}}),
    ("tokens", {"a": {**GRANT, "customers": [2**63]}}),
    ("tokens", {"a": {**GRANT, "customers": [True]}}),
    ("tokens", {"a": {**GRANT, "customers": {42: True}}}),
    ("tokens", {"a": {**GRANT, "rights": "read"}}),
    ("tokens", {"a": {**GRANT, "rights": ["write"]}}),
    ("tokens", {"a": {**GRANT, "rights": None}}),
    ("access", "access"),
    ("access", {"customers": None}),
    ("access", ""),
    ("audit_retention", "a year"),
    ("audit_retention", 365),
    ("retention", "30d"),
    ("retention", {"*": 30}),
    ("retention", {"*": "30 days"}),
    ("retention", {"*": "30d "}),
    ("retention", [("*", "30d")]),
    ("max_value_bytes", 255),
    ("max_value_bytes", "1 MB"),
    ("redact", "password"),
    ("redact", ["--"]),
    ("redact_rule", "no path"),
    ("redact_rule", {}),
]


NO_URL = (
    "Setting 'asynctask_url' is not an SQLAlchemy URL (its value is not shown: it may hold a password). "
    "Write sqlite:///asynctask.db for a file, postgresql+psycopg://user@host/name for a server."
)


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_value_that_is_allowed(app: Celery, name: str, value: Any, expected: Any) -> None:
    app.conf.update({f"asynctask_{name}": value})
    assert getattr(Settings.from_app(app), name) == expected


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_is_not(app: Celery, name: str, value: Any) -> None:
    app.conf.update({f"asynctask_{name}": value})
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    message = str(caught.value)
    shown = "(not shown)" if name in ("url", "engine_options", "tokens", "header_keys") else repr(value)
    shown = re.sub(r"//[^/]*@", "//***@", shown)
    assert f"'asynctask_{name}'" in message
    if name == "url" and isinstance(value, str) and "://" not in value:
        assert message == NO_URL
        return
    assert f"has the value {shown} of type {type(value).__name__}" in message
    assert f"it must be {RULES[name].allowed}." in message


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (f"postgres://u:{SECRET}@h/d", "Write postgresql+psycopg:// in place of postgres://."),
        (f"postgres+psycopg://u:{SECRET}@h/d", "Write postgresql+psycopg:// in place of postgres+psycopg://."),
        ("sqlite3:///x.db", "Write sqlite:// in place of sqlite3://."),
        (f"PostgreSQL://u:{SECRET}@h/d", "Write postgresql+psycopg:// in place of PostgreSQL://."),
        (f"mssql+pyodbc://u:{SECRET}@h/d", "celery-asynctask cannot store in mssql."),
        (
            f"postgresql+asyncpg://u:{SECRET}@h/d",
            "Write postgresql+psycopg:// in place of postgresql+asyncpg://: asyncpg is a driver for asyncio, which "
            "celery-asynctask does not use.",
        ),
        (
            "sqlite+aiosqlite:///x.db",
            "Write sqlite:// in place of sqlite+aiosqlite://: aiosqlite is a driver for asyncio, which "
            "celery-asynctask does not use.",
        ),
        (
            f"mysql+nosuch://u:{SECRET}@h/d",
            "Write mysql+pymysql:// in place of mysql+nosuch://: SQLAlchemy knows no driver 'nosuch' for mysql.",
        ),
        (f"mysql+pymysql://u:{SECRET}@h h/d", "There is a blank in its host."),
        (
            f"postgresql://u:p@{SECRET}@h/d",
            "It has more than one @: write %40 for an @ in the user or the password.",
        ),
        (
            f"mysql+pymysql://u:{SECRET}@h/d?autocommit=true",
            "Take autocommit out of it, which celery-asynctask chooses itself.",
        ),
        (
            f"postgresql://u:{SECRET}@h/d\n",
            "It has blanks around it, or characters in it that cannot be printed, such as line breaks.",
        ),
        (
            "sqlite:///\x00x.db",
            "It has blanks around it, or characters in it that cannot be printed, such as line breaks.",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_right_form(app: Celery, url: str, hint: str) -> None:
    app.conf.update(asynctask_url=url)
    reads: tuple[Callable[[], Settings], ...] = (lambda: Settings.from_app(app), lambda: Settings().at(url))
    for read in reads:
        with pytest.raises(SettingsError) as caught:
            read()
        assert str(caught.value).endswith(f"{RULES['url'].allowed}. {hint}".rstrip())
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", ["asynctask.db", f"u:{SECRET}@h/d"])
def test_a_text_that_is_no_url_is_not_shown(app: Celery, value: str) -> None:
    app.conf.update(asynctask_url=value)
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    assert str(caught.value) == NO_URL
    with pytest.raises(SettingsError) as caught:
        Settings().at(value)
    assert str(caught.value) == f"This is not a usable database URL; it must be {RULES['url'].allowed}."


def test_a_setting_that_is_mistyped_is_named_with_the_one_like_it(app: Celery) -> None:
    app.conf.update(asynctask_urll="sqlite:///x.db")
    with pytest.raises(SettingsError, match=r"^Unknown setting 'asynctask_urll'\. Did you mean 'asynctask_url'\? The"):
        Settings.from_app(app)


def test_an_unknown_setting_that_is_like_no_other(app: Celery) -> None:
    app.conf.update(asynctask_zzzzzz=1)
    with pytest.raises(SettingsError, match=r"^Unknown setting 'asynctask_zzzzzz'\. The settings"):
        Settings.from_app(app)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///x.db", "sqlite:///{here}/x.db"),
        ("sqlite+pysqlite:///a/x.db?timeout=5", "sqlite+pysqlite:///{here}/a/x.db?timeout=5"),
        ("sqlite:////srv/x.db", "sqlite:////srv/x.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:x.db?uri=true", "sqlite:///file:x.db?uri=true"),
        (f"postgresql+psycopg://u:{SECRET}@h/d", "postgresql+psycopg://u:***@h/d"),
    ],
)
def test_an_absolute_url_has_the_whole_path_of_a_file(
    url: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(url=url).absolute_url == shown.format(here=tmp_path)


def test_every_setting_has_a_rule_and_is_tested() -> None:
    names = {one.name for one in fields(Settings)}
    assert names == RULES.keys() == {name for name, *_ in GOOD} == {name for name, _ in BAD}


def test_defaults(app: Celery) -> None:
    assert Settings.from_app(app) == Settings()
    assert Settings().exclude == DEFAULT_EXCLUDE
    for one in fields(Settings):
        default = getattr(Settings(), one.name)
        assert default is None or RULES[one.name].check(default) == default


def test_an_unknown_key_is_refused_with_the_list_of_known_ones(app: Celery) -> None:
    app.conf.update(asynctask_urls="x")
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    assert "Unknown setting 'asynctask_urls'" in str(caught.value)
    for one in fields(Settings):
        assert f"asynctask_{one.name}" in str(caught.value)


def test_a_wrong_url_does_not_show_its_password(app: Celery) -> None:
    app.conf.update(asynctask_url=f"postgresql://user:{SECRET}@host:port/name")
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    error: BaseException | None = caught.value
    assert SECRET not in str(error)
    assert error is not None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trace_url", f"https://traces/?api_key={SECRET}"),
        ("links", {"Logs": f"https://logs/{{id}}?token={SECRET}"}),
    ],
)
def test_another_wrong_url_does_not_show_its_secrets(app: Celery, name: str, value: Any) -> None:
    app.conf.update({f"asynctask_{name}": value})
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    assert SECRET not in str(caught.value)
    assert "=***" in str(caught.value)


def test_what_is_shown_are_settings_and_none_that_may_have_secrets() -> None:
    names = {one.name for one in fields(Settings)}
    assert names > OPEN | PARTLY_OPEN
    assert not (OPEN | PARTLY_OPEN) & {"url", "engine_options", "tokens"}


def test_the_error_is_one_that_celery_knows() -> None:
    assert issubclass(SettingsError, ImproperlyConfigured)
    assert issubclass(SettingsError, AsyncTaskError)


# -- ways to configure ---------------------------------------------------------------


def test_a_module_or_object(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(asynctask_batch_size=7, task_always_eager=True))
    assert Settings.from_app(app).batch_size == 7


def test_a_namespace(app: Celery) -> None:
    """In the way of Django projects."""
    django = SimpleNamespace(CELERY_ASYNCTASK_BATCH_SIZE=7, CELERY_TASK_ALWAYS_EAGER=True, DEBUG=True)
    app.config_from_object(django, namespace="CELERY")
    assert Settings.from_app(app).batch_size == 7


def test_a_namespace_in_lower_case(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(celery_asynctask_batch_size=7), namespace="celery")
    assert Settings.from_app(app).batch_size == 7


def test_an_unknown_key_in_a_namespace(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(CELERY_ASYNCTASK_BATCHSIZE=7), namespace="CELERY")
    with pytest.raises(SettingsError, match="asynctask_batchsize"):
        Settings.from_app(app)


def test_names_beside_a_namespace_are_somebody_elses(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(ASYNCTASK_WHATEVER=7, CELERY_ASYNCTASK_BATCH_SIZE=8), namespace="CELERY")
    assert Settings.from_app(app).batch_size == 8


def test_update_wins_over_an_object(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(CELERY_ASYNCTASK_BATCH_SIZE=7), namespace="CELERY")
    app.conf.update(asynctask_batch_size=9)
    assert Settings.from_app(app).batch_size == 9


def test_assignment(app: Celery) -> None:
    app.conf.asynctask_batch_size = 9
    assert Settings.from_app(app).batch_size == 9


def test_keyword_arguments_of_the_app() -> None:
    made = Celery("settings", broker="memory://", set_as_current=False, changes={"asynctask_batch_size": 9})
    assert Settings.from_app(made).batch_size == 9
    made.close()


def test_upper_case_names(app: Celery) -> None:
    app.config_from_object(SimpleNamespace(ASYNCTASK_BATCH_SIZE=7))
    assert Settings.from_app(app).batch_size == 7


# -- the store's name and the journal's directory ------------------------------------


@pytest.mark.parametrize(
    ("url", "store_id"),
    [
        (f"postgresql+psycopg://u:{SECRET}@h:5433/d?sslmode=require", "postgresql://h:5433/d"),
        (f"postgresql+psycopg2://other:{SECRET}@h:5433/d", "postgresql://h:5433/d"),
        (f"mysql+pymysql://u:{SECRET}@h/d", "mysql://h:3306/d"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
        ("sqlite://", "sqlite:///"),
    ],
)
def test_a_store_is_named_without_user_driver_and_options(url: str, store_id: str) -> None:
    assert Settings(url=url).store_id == store_id


def test_a_relative_database_file_is_named_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(url="sqlite:///x.db").store_id == Settings(url=f"sqlite:///{tmp_path}/x.db").store_id


def test_no_credentials_in_what_is_shown_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(url=f"postgresql://user:{SECRET}@host/name?password={SECRET}")
    assert SECRET not in f"{settings.store_id} {settings.shown_url} {settings.directory}"


def test_what_is_no_url_is_not_shown() -> None:
    with pytest.raises(SettingsError, match="must be an SQLAlchemy URL of SQLite") as refused:
        Settings().at(f"postgresql:/user:{SECRET}@host/name")
    assert SECRET not in str(refused.value)


def test_directory_is_named_after_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = Settings(url="postgresql+psycopg://u@h/shop").directory
    assert first.parent == tmp_path / "celery-asynctask"
    assert re.fullmatch(r"postgresql-h-5432-shop-[0-9a-f]{8}", first.name)
    assert Settings(url="postgresql+psycopg://other@h/shop").directory == first
    assert Settings(url="postgresql+psycopg://u@h/shop2").directory != first


def test_stores_with_like_names_do_not_share_a_directory() -> None:
    names = ["a/b", "a-b", "a.b", "x" * 300 + "1", "x" * 300 + "2", "ä", "ö"]
    directories = {Settings(url=f"postgresql://h/{name}").directory for name in names}
    assert len(directories) == len(names)
    assert all(len(one.name) <= 50 for one in directories)
    assert all(one.name.startswith("postgresql-h-5432-") for one in directories)


def test_directory_without_a_state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().directory.parent == tmp_path / ".local" / "state" / "celery-asynctask"


def test_another_url_of_the_same_store_has_the_same_journal(tmp_path: Path) -> None:
    """An administrator's, for example."""
    mine = Settings(url="postgresql+psycopg://shop@h/shop", journal_dir=tmp_path, engine_options={"echo": True})
    same, other = mine.at("postgresql+psycopg://admin@h/shop"), mine.at("postgresql+psycopg://shop@h/other")
    assert (same.journal_dir, same.engine_options) == (tmp_path, {})
    assert (other.journal_dir, other.engine_options) == (None, {})


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"schema_translate_map": {None: "audit"}}, "Take schema_translate_map out of it"),
        ({"execution_options": {"schema_translate_map": {}}}, "?options=-csearch_path%3Daudit"),
        ({"isolation_level": "SERIALIZABLE"}, "Take isolation_level out of it"),
        ({"execution_options": {"isolation_level": "AUTOCOMMIT"}}, "Take isolation_level out of it"),
        ({"connect_args": {"autocommit": True, "isolation_level": None}}, "Take autocommit and isolation_level out"),
        ({"json_deserializer": len}, "Take json_deserializer out of it, which celery-asynctask chooses itself."),
        ({"execution_options": {"stream_results": True}}, "Take stream_results out of it"),
    ],
)
def test_options_that_would_be_half_obeyed_are_refused(app: Celery, options: dict[str, Any], hint: str) -> None:
    app.conf.update(asynctask_engine_options=options)
    with pytest.raises(SettingsError) as caught:
        Settings.from_app(app)
    assert hint in str(caught.value)


def test_a_driver_s_arguments_say_which_database_it_is() -> None:
    """Two servers behind one URL."""
    url = "postgresql+psycopg://app@/shop"

    def at(**options: Any) -> Settings:
        return Settings(url=url, engine_options=options)

    stores = [
        at(),
        at(connect_args={"host": "/run/a"}),
        at(connect_args={"host": "/run/b"}),
        at(connect_args={"service": "prod"}),
        at(connect_args={"options": "-c search_path=app_a"}),
        at(creator=test_defaults),
        Settings(url=f"{url}?host=/run/c"),
    ]
    assert len({one.store_id for one in stores}) == len({one.directory for one in stores}) == len(stores)
    assert at(connect_args={"host": "/run/c"}).store_id == stores[-1].store_id
    assert at(connect_args={"sslmode": "require", "password": SECRET}).store_id == stores[0].store_id


def test_secrets_are_not_in_the_text_of_settings() -> None:
    """As an error tracker shows local variables."""
    settings = Settings(
        url=f"postgresql://u:{SECRET}@h/d",
        engine_options={"connect_args": {"password": SECRET}},
        tokens={"a": TOKEN},
    )
    assert SECRET not in repr(settings)
    assert SHA not in repr(settings)
    assert "batch_size=4000" in repr(settings)


def test_a_directory_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Settings(journal_dir=tmp_path).directory == tmp_path
    check = RULES["journal_dir"].check
    assert (check("~/j"), check("j")) == (tmp_path / "j", tmp_path / "j")
