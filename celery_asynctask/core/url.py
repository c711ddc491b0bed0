"""The parts of an SQLAlchemy database URL that every process needs, without SQLAlchemy: importing it takes 12 MB and
a quarter of a second, and only the recorder talks to the database.

Pure. ``dialect[+driver]://[user[:password]@][host[:port]][/database][?options]``, a host in brackets where it is an
IPv6 address; what `sqlalchemy.engine.make_url` reads alike, as `tests/unit/core/test_url.py` sees to.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_plus

_USER = re.compile(r"([^:/]*)(?::([^@]*))?@")
_HOST = re.compile(r"\[([^\]/]+)\]|([^:/]*)")
_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|odbc_connect", re.IGNORECASE)
"""In the name of an option whose value is not shown; of some it is a file, which nobody misses."""
_SCHEME = re.compile(r"[\w+]+", re.ASCII)


class Url(NamedTuple):
    """A URL, read."""

    backend: str
    """Such as ``postgresql``."""
    host: str
    """Empty where there is none."""
    port: int | None
    database: str
    """As it is written (SQLAlchemy 2.1 decodes ``%``, 2.0 does not); empty where there is none."""
    shown: str
    """The URL for log lines, its password hidden, and secrets among its options."""


def parse(url: str) -> Url:
    """Raises `ValueError` for what is no URL of this form."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ValueError("no dialect")
    user = _USER.match(rest)  # a password may have a question mark in it
    after = rest if user is None else rest[user.end() :]
    address = after.partition("?")[0]
    shown = url
    if user is not None and user[2] is not None:
        # The end of a password with an @ in it is taken for the beginning of the host.
        shown = f"{scheme}://{user[1]}:***@{after[address.partition('/')[0].rfind('@') + 1 :]}"
    host = _HOST.match(address)
    assert host is not None  # it matches nothing at all, too
    port, slash, database = address[host.end() :].partition("/")
    if port and not re.fullmatch(r":[0-9]+", port):
        raise ValueError("the port is no number")
    backend = scheme.partition("+")[0]
    return Url(
        backend, host[1] or host[2] or "", int(port[1:]) if port else None, database if slash else "", hidden(shown)
    )


def hidden(url: str) -> str:
    """A URL without the secrets among its options, which drivers take as well as what stands before the host."""
    address, question, options = url.partition("?")
    return f"{address}{question}{'&'.join(map(_hidden, options.split('&')))}"


def _hidden(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}=***" if equals and _SECRET.search(unquote_plus(name)) else option
