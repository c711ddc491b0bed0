"""The parts of an SQLAlchemy database URL that every process needs, without SQLAlchemy: importing it takes 12 MB and
a quarter of a second, and only the recorder talks to the database.

Pure. ``dialect[+driver]://[user[:password]@][host[:port]][/database][?options]``, with an IPv6 address as host in
brackets. `sqlalchemy.engine.make_url` reads the same; `tests/unit/core/test_url.py` holds it to that.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_plus

_USER = re.compile(r"([^:/]*)(?::([^@]*))?@")
_HOST = re.compile(r"\[([^\]/]+)\]|([^:/]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|odbc_connect", re.IGNORECASE)
"""In the name of an option whose value is not shown, a file's name included."""
_SCHEME = re.compile(r"[\w+]+", re.ASCII)


class Url(NamedTuple):
    """A parsed URL."""

    backend: str
    """The dialect without the driver, such as ``postgresql``."""
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
    backend = scheme.partition("+")[0]
    return Url(
        backend, host[1] or host[2] or "", int(port[1:]) if port else None, database if slash else "", hidden(shown)
    )


def hidden(url: str) -> str:
    """A URL without the secrets among its options: drivers accept passwords there, too."""
    address, question, options = url.partition("?")
    return f"{address}{question}{'&'.join(map(_hidden, options.split('&')))}"


def _hidden(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}=***" if equals and _SECRET.search(unquote_plus(name)) else option
