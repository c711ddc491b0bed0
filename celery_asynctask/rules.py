"""What each ``asynctask_*`` key of the Celery configuration may be, and the form in which `Settings` has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

from celery_asynctask.core.links import PLACEHOLDERS, has_fixed_host, is_template
from celery_asynctask.core.tokens import ALLOWED as TOKENS_ALLOWED
from celery_asynctask.core.tokens import Token, read_tokens
from celery_asynctask.core.url import OWN_OPTIONS, objection

AGE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?(ms|[smhdwy])", re.ASCII)
MIN_KEY = 32
"""Least characters of a key that signs headers."""


class Rule(NamedTuple):
    """The allowed values of a setting."""

    allowed: str
    """For the error message: the end of "it must be ..."."""
    check: Callable[[Any], Any]
    """Returns a value in its final form, or raises `ValueError`."""


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


class Unfit(ValueError):
    """A value is not allowed. The message says what is wrong with it, without the value, so that it can be shown."""


def read_url(value: Any) -> str:
    """An SQLAlchemy URL, also from an `sqlalchemy.engine.URL`. Raises `ValueError`."""
    if not isinstance(value, str) and hasattr(value, "render_as_string"):  # an sqlalchemy.engine.URL
        value = value.render_as_string(hide_password=False)
    url = _string(value)
    if wrong := objection(url):
        raise Unfit(wrong)
    return url


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError
    return dict(value)


def _engine_options(value: Any) -> Mapping[str, Any]:
    options = _mapping(value)
    within = [options.get(name) or {} for name in ("execution_options", "connect_args")]
    given = set(options).union(*(_mapping(nested) for nested in within))
    if "schema_translate_map" in given:
        raise Unfit(
            "Take schema_translate_map out of it, which only a part of the statements would obey: name another schema "
            "of PostgreSQL in asynctask_url, as in ?options=-csearch_path%3Daudit, another one of MySQL or MariaDB as "
            "its database."
        )
    if taken := sorted(given & OWN_OPTIONS):
        raise Unfit(f"Take {' and '.join(taken)} out of it, which celery-asynctask chooses itself.")
    return options


def _globs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in value):
        raise ValueError
    return tuple(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _directory(value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as exc:  # no such user
        raise ValueError from exc


def _names(value: Any) -> tuple[str, ...]:
    names = _globs(value)
    if not all(re.search(r"[^\W_]", name) for name in names):
        raise ValueError
    return names


def _function(value: Any) -> Any:
    if not callable(value) and not (isinstance(value, str) and re.fullmatch(r"[\w.]+[.:]\w+", value)):
        raise ValueError
    return value


def _header_keys(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 2:
        raise ValueError
    keys = tuple(key.encode() if isinstance(key, str) else key for key in value)
    if not all(isinstance(key, bytes) and len(key) >= MIN_KEY for key in keys):
        raise ValueError
    return keys


def _trace_url(value: Any) -> str:
    url = _string(value)
    if not has_fixed_host(url) or not url.isprintable() or "{trace_id}" not in url:
        raise ValueError
    return url


def _links(value: Any) -> Mapping[str, str]:
    links = _mapping(value)
    if not all(title.strip() and isinstance(url, str) and is_template(url) for title, url in links.items()):
        raise ValueError
    return links


def _retention(value: Any) -> Mapping[str, str | None]:
    """Checks the ages only: `celery_asynctask.operations.retention` parses the searches, which only a purge needs."""
    return {search: _age(age) for search, age in _mapping(value).items()}


def _age(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and AGE.fullmatch(value)):
        raise ValueError
    return value


def _tokens(value: Any) -> Mapping[str, Token] | Path | Any:
    """Tokens, or where they are: a file, or a function."""
    if isinstance(value, Path) or (isinstance(value, str) and ("/" in value or value.endswith(".json"))):
        return _directory(value)
    if callable(value) or isinstance(value, str):
        return _function(value)
    try:
        return read_tokens(value)
    except ValueError as exc:
        raise Unfit(str(exc)) from None


def _networks(value: Any) -> tuple[str, ...]:
    for network in _globs(value):
        ip_network(network)
    return tuple(value)


def _number(noun: str, low: float, high: float, types: tuple[type[int] | type[float], ...] = (int,)) -> Rule:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
            raise ValueError
        return value

    return Rule(f"{noun} from {low} to {high}", check)


RULES = {
    "enabled": Rule("True or False", _boolean),
    "url": Rule(
        "an SQLAlchemy URL of SQLite, PostgreSQL, MySQL or MariaDB, such as 'postgresql+psycopg://user@host/name'",
        read_url,
    ),
    "engine_options": Rule("a mapping of keyword arguments of sqlalchemy.create_engine", _engine_options),
    "create_tables": Rule("True or False", _boolean),
    "journal_dir": Rule("a path on a local file system", _directory),
    "journal_max_bytes": _number("a whole number of bytes", 1_000_000, 10**12),
    "journal_keep": _number("a number of seconds", 0, 86_400, (int, float)),
    "flush_interval": _number("a number of seconds", 0.01, 60, (int, float)),
    "batch_size": _number("a whole number of events", 1, 100_000),
    "context": Rule("a function, or its dotted path such as 'proj.tasks.whose'", _function),
    "header_version": _number("a version of the header", 1, 2),
    "header_keys": Rule(
        f"a list of one or two keys, texts or bytes of at least {MIN_KEY} characters, such as "
        "secrets.token_urlsafe(32) makes",
        _header_keys,
    ),
    "trace_url": Rule(
        "an http or https URL that contains {trace_id}, and optionally {span_id}, though not in its host, such as "
        "'https://traces/{trace_id}'",
        _trace_url,
    ),
    "links": Rule(
        "a mapping of titles to http or https URLs, such as {'Logs': 'https://logs/?q={task_id}'}, with only these "
        f"names in braces, and none in the host: {', '.join(PLACEHOLDERS)}; write other braces as %7B and %7D",
        _links,
    ),
    "tokens": Rule(
        f"a mapping of {TOKENS_ALLOWED}; or the path of a JSON file of that, or a function that returns it. "
        "`celery -A APP asynctask token` creates a token",
        _tokens,
    ),
    "trusted_proxies": Rule("a list of addresses and networks, such as ['127.0.0.1', '10.0.0.0/8']", _networks),
    "access": Rule("a function, or its dotted path such as 'proj.web.access'", _function),
    "retention": Rule("a mapping of searches to ages, such as {'status:SUCCESS': '30d', '*': None}", _retention),
    "audit_retention": Rule("an age such as '90d' or '1y', or None", _age),
    "max_value_bytes": _number("a whole number of bytes", 256, 10_000_000),
    "redact": Rule("a list of names, each with a letter or digit, such as ['password', 'api key']", _names),
    "redact_rule": Rule("a function, or its dotted path such as 'proj.privacy.is_secret'", _function),
    "include": Rule("a list of task-name globs, such as ['billing.*']", _globs),
    "exclude": Rule("a list of task-name globs, such as ['celery.*']", _globs),
}
