"""The parts of an SQLAlchemy database URL that every process needs, without SQLAlchemy: importing it takes 12 MB and
a quarter of a second, and only the recorder talks to the database.

``dialect[+driver]://[user[:password]@][host[:port]][/database][?options]``, with an IPv6 address as host in brackets.
`sqlalchemy.engine.make_url` reads the same; `tests/unit/core/test_url.py` holds it to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote_plus

_USER = re.compile(r"([^:/]*)(?::([^@]*))?@")
_AUTHORITY = re.compile(r"//[^/?#]*@")
_HOST = re.compile(r"\[([^\]/]+)\]|([^:/]*)")
_SECRET = re.compile(
    r"pass|pwd|secret|token|key|credential|odbc_connect|options|init_command|dsn|conninfo", re.IGNORECASE
)
"""In the name of an option whose value is not shown, a file's name included."""
_SCHEME = re.compile(r"[\w+]+", re.ASCII)

_BEGINNINGS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""The databases that can be a store, each with the beginning of its URLs."""
_MISNAMED: Final = {"postgres": "postgresql", "pgsql": "postgresql", "psql": "postgresql", "sqlite3": "sqlite"}
"""Other names of these databases in URLs."""
_OF_MYSQL: Final = frozenset({"pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql", "pyodbc"})
DRIVERS: Final = {
    "sqlite": frozenset({"pysqlite", "pysqlcipher"}),
    "postgresql": frozenset({"psycopg", "psycopg2", "psycopg2cffi", "pg8000"}),
    "mysql": _OF_MYSQL,
    "mariadb": _OF_MYSQL,
}
"""SQLAlchemy's drivers for each database that do not need asyncio."""
ASYNC: Final = frozenset({"aiosqlite", "asyncpg", "psycopg_async", "aiomysql", "asyncmy"})
"""Those that do."""
OWN_OPTIONS: Final = frozenset(
    {
        *("autocommit", "isolation_level", "json_deserializer", "json_serializer", "paramstyle"),
        *("skip_autocommit_rollback", "stream_results", "yield_per"),
    }
)
"""Options of drivers and engines that a part of our statements would not obey, or would not work with."""

_PORTS: Final = {"postgresql": "5432", "mysql": "3306"}
_THIS_HOST: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PLACES: Final = frozenset(
    {
        *("creator", "hostaddr", "read_default_file", "read_default_group", "search_path", "service"),
        *("unix_sock", "unix_socket"),
    }
)
"""Arguments of drivers, besides host, port and database, that decide which database is meant."""
_SEARCH_PATH: Final = re.compile(r"(?:^|\s)(?:-c\s*|--)search[-_]path=((?:\\.|\S)+)")
"""PostgreSQL's argument among its ``options``."""


class Url(NamedTuple):
    """A parsed URL."""

    backend: str
    """The dialect without the driver, such as ``postgresql``."""
    user: str
    """As it is written; empty: there is none."""
    host: str
    """Empty: there is none."""
    port: int | None
    database: str
    """As it is written (SQLAlchemy 2.1 decodes ``%``, 2.0 does not); empty: there is none."""
    shown: str
    """The URL for log lines, without its password and the secrets among its options."""


def parse(url: str) -> Url:
    """Raises `ValueError` if the text is no URL of this form."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ValueError("no dialect")
    user = _USER.match(rest)  # a password may have a question mark in it
    after = rest if user is None else rest[user.end() :]
    address = after.partition("?")[0]
    shown = url
    if user is not None and user[2] is not None:
        # Of a password that has an @, the rest would be taken for the beginning of the host.
        shown = f"{scheme}://{user[1]}:***@{after[address.partition('/')[0].rfind('@') + 1 :]}"
    host = _HOST.match(address)
    assert host is not None  # the pattern matches the empty text, too
    port, slash, database = address[host.end() :].partition("/")
    if port and not re.fullmatch(r":[0-9]+", port):
        raise ValueError("the port is not a number")
    return Url(
        scheme.partition("+")[0],
        "" if user is None else user[1],
        host[1] or host[2] or "",
        int(port[1:]) if port else None,
        database if slash else "",
        hidden(shown),
    )


def hidden(url: str) -> str:
    """A URL without the secrets among its options: drivers accept passwords there, too."""
    address, question, options = url.partition("?")
    return f"{address}{question}{'&'.join(map(_hidden, options.split('&')))}"


def without_secrets(value: Any) -> Any:
    """A value of a setting for people to see: URLs in it, also those in a mapping, are `hidden`, and say no user."""
    if isinstance(value, str):
        return _AUTHORITY.sub("//***@", hidden(value))
    return {key: without_secrets(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _hidden(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}=***" if equals and _SECRET.search(unquote_plus(name)) else option


def objection(url: str) -> str:
    """Why nothing can be stored by way of a URL, whatever the database says, and what to write; empty: it can be.
    Raises `ValueError` like `parse`."""
    if url != url.strip() or not url.isprintable():
        return "It has blanks around it, or characters in it that cannot be printed, such as line breaks."
    parts = parse(url)
    scheme = url.partition(":")[0]
    backend, _, driver = scheme.partition("+")
    right = _BEGINNINGS.get(_MISNAMED.get(backend.lower(), backend.lower()))
    if right is None:
        return f"celery-asynctask cannot store in {backend}."
    write = f"Write {right}:// in place of {scheme}://"
    if backend not in _BEGINNINGS:
        return f"{write}."
    if driver in ASYNC:
        return f"{write}: {driver} is a driver for asyncio, which celery-asynctask does not use."
    if "+" in scheme and driver not in DRIVERS[backend] and not _is_plugin(backend, driver):
        return f"{write}: SQLAlchemy knows no driver {driver!r} for {backend}."
    if "@" in parts.host:
        return "It has more than one @: write %40 for an @ in the user or the password."
    if any(character.isspace() for character in parts.host):
        return "There is a blank in its host."
    taken = sorted(OWN_OPTIONS & _options(url).keys())
    if taken:
        return f"Take {' and '.join(taken)} out of it, which celery-asynctask chooses itself."
    return ""


def _is_plugin(backend: str, driver: str) -> bool:
    """Whether a package that is installed brings this driver to SQLAlchemy."""
    return bool(entry_points(group="sqlalchemy.dialects", name=f"{backend}.{driver}"))


def _options(url: str) -> dict[str, str]:
    """What is behind the ``?``; several values of a name are joined by commas."""
    rest = url.partition("://")[2]
    user = _USER.match(rest)
    options: dict[str, str] = {}
    for name, value in parse_qsl((rest if user is None else rest[user.end() :]).partition("?")[2]):
        options[name] = f"{options[name]},{value}" if name in options else value
    return options


def store_id(url: str, arguments: Mapping[str, Any] | None = None) -> str:
    """The identity of the database that a URL leads to with these ``arguments`` of its driver: a URL without
    credentials, equal for all ways to write the same place, as far as they show it. An identity has itself as its
    identity. Raises `ValueError` like `parse`."""
    parts = parse(url)
    database = parts.database
    if parts.backend == "sqlite":
        return f"sqlite:///{database if database in ('', ':memory:') else Path(database).absolute()}"
    backend = "mysql" if parts.backend == "mariadb" else parts.backend
    given = {**_options(url), **{name: str(value) for name, value in (arguments or {}).items() if value is not None}}
    places = {name: given[name] for name in given.keys() & _PLACES}
    if searched := _SEARCH_PATH.findall(given.get("options", "")):
        places["search_path"] = searched[-1]
    database = next((given[name] for name in ("dbname", "database", "db") if name in given), database)
    if backend == "postgresql" and "service" not in places:
        database = database or given.get("user") or parts.user  # its default
    host = (given.get("host") or parts.host).lower()
    if host in _THIS_HOST:
        host = "localhost"
    port = given.get("port") or str(parts.port or _PORTS.get(backend, ""))
    if "/" in host or "," in host:  # the directory of a socket; several hosts
        places["host"], host = given.get("host") or parts.host, ""
    if not port.isdecimal():
        places["port"], port = port, ""
    if ":" in host:
        host = f"[{host}]"
    address = f"{host}:{port}" if port else host
    shown = "&".join(f"{name}={quote(places[name], safe='/,:-_')}" for name in sorted(places))
    return f"{backend}://{address}/{database}{'?' if shown else ''}{shown}"


def same_store(claimed: str, identity: str) -> bool:
    """Whether a text that names a store names the one with this `store_id`: also as an earlier version wrote it, which
    left the port out and everything behind the ``?``."""
    if claimed == identity:
        return True
    try:
        now = store_id(claimed)
    except ValueError:
        return False
    return now == identity or (now != claimed and now == identity.partition("?")[0])
