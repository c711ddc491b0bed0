"""Bearer tokens: their form, and how they are configured. Pure."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from celery_asynctask.core.ids import keys_of
from celery_asynctask.core.rights import Right
from celery_asynctask.core.time import read_microseconds, time_of

_BYTES: Final = 32
_FORM: Final = re.compile(r"asynctask_[A-Za-z0-9_-]{43}", re.ASCII)
_REQUIRED: Final = frozenset({"sha256", "customers", "rights"})
_OPTIONAL: Final = frozenset({"created", "expires", "created_by"})
_RIGHTS: Final = [right.value for right in Right]
MAX_NAME: Final = 255
"""Characters of a token's name."""
ALLOWED: Final = (
    "names, each with {'sha256': hash, 'customers': list of ids or '*', 'rights': list of "
    f"{', '.join(map(repr, _RIGHTS))}}} and optionally 'created', 'expires' (times such as '2027-01-31T12:00:00Z') and "
    "'created_by' (list of ids of creators)"
)
"""What `read_tokens` takes, for error messages."""


def new_token() -> str:
    """A new token, of 256 random bits."""
    return f"asynctask_{secrets.token_urlsafe(_BYTES)}"


def is_token(text: str) -> bool:
    """Whether a text has the form of `new_token`. Only such are accepted, because the plain hash of a secret that a
    person made up can be guessed."""
    return _FORM.fullmatch(text) is not None


def hashed(token: str) -> str:
    """A token as it is configured: its SHA-256 in hex. Tokens are random, so a slower hash is not needed."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Token:
    """A configured token: its hash, and what its holder may see and do."""

    name: str
    sha256: str = field(repr=False)
    """In lower-case hex."""
    customers: frozenset[str] | None
    """Keys of the customers whose tasks its holder sees; None: all tasks."""
    rights: frozenset[Right]
    created: dt.datetime | None = None
    expires: dt.datetime | None = None
    """From when on it is refused; None: never."""
    created_by: frozenset[str] | None = None
    """Keys of the creators whose tasks its holder sees; None: of all."""

    @property
    def key(self) -> str:
        """The beginning of the hash, by which the record has its last use."""
        return self.sha256[:16]

    def is_expired(self, at: dt.datetime) -> bool:
        """Whether it is refused at that time."""
        return self.expires is not None and at >= self.expires


def read_tokens(value: Any) -> dict[str, Token]:
    """Tokens by name, as they are configured. What a token may see must be stated, never assumed. Raises `ValueError`,
    whose message says what is wrong and quotes no value."""
    if not isinstance(value, Mapping):
        raise ValueError(f"It is a {type(value).__name__}, not a mapping.")
    return {name: _read(name, grant) for name, grant in value.items()}


def _read(name: Any, grant: Any) -> Token:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"The name of a token must be a text of 1 to {MAX_NAME} characters without line breaks.")
    where = "A token" if is_token(name) else f"Token {name!r}"
    if not isinstance(grant, Mapping) or not _REQUIRED <= set(grant) <= _REQUIRED | _OPTIONAL:
        raise ValueError(
            f"{where} must be a mapping with the keys {_named(_REQUIRED)}, and at most {_named(_OPTIONAL)}."
        )
    sha256 = grant["sha256"]
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"{where}: sha256 must be 64 hexadecimal digits.")
    rights = grant["rights"]
    if not isinstance(rights, (list, tuple, set, frozenset)) or not all(
        isinstance(right, str) and str(right) in _RIGHTS for right in rights
    ):
        raise ValueError(f"{where}: rights must be a list of {', '.join(map(repr, _RIGHTS))}.")
    return Token(
        name,
        sha256.lower(),
        _ids(where, "customers", grant["customers"]),
        frozenset(map(Right, rights)),
        _time(where, "created", grant.get("created")),
        _time(where, "expires", grant.get("expires")),
        _ids(where, "created_by", grant.get("created_by", "*")),
    )


def _ids(where: str, key: str, ids: Any) -> frozenset[str] | None:
    if isinstance(ids, str) and ids == "*":
        return None
    if isinstance(ids, (list, tuple, set, frozenset)) and "*" not in ids:
        with suppress(ValueError):
            return keys_of(ids)
    raise ValueError(f"{where}: {key} must be '*' or a list of ids: numbers, UUIDs or texts.")


def _time(where: str, key: str, value: Any) -> dt.datetime | None:
    if value is None:
        return None
    at = read_microseconds(value)
    if at is not None:
        with suppress(OverflowError):
            return time_of(at)
    raise ValueError(f"{where}: {key} must be a time such as '2027-01-31T12:00:00Z'.")


def _named(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys))
