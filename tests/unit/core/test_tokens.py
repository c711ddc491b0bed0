"""Tokens and codes: their forms, and what is refused."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest

from celery_asynctask.core import codes
from celery_asynctask.core.tokens import Token, hashed, is_token, new_token, read_tokens

SHA = "0123456789abcdef" * 4
GRANT: dict[str, Any] = {"sha256": SHA, "customers": [42], "rights": ["read"]}
NOON = dt.datetime(2027, 1, 31, 12, tzinfo=dt.timezone.utc)


def test_a_new_token_has_the_form_that_is_accepted() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(map(is_token, made))
    assert len(hashed(made.pop())) == 64


@pytest.mark.parametrize(
    "text",
    ["", "hunter2", "asynctask_", f"asynctask_{'a' * 42}", f"asynctask_{'a' * 44}", f"asynctask_{'a' * 42}=",
     f"asynctask_{'a' * 43}\n", f"asynctask_{'ä' * 43}", f"ASYNCTASK_{'a' * 43}", f"asynctask_{'٣' * 43}"],
)  # fmt: skip
def test_a_secret_that_somebody_made_up_is_none(text: str) -> None:
    assert not is_token(text)


def test_a_token_ends_when_it_expires() -> None:
    token = read_tokens({"a": {**GRANT, "expires": NOON}})["a"]
    assert not token.is_expired(NOON - dt.timedelta(microseconds=1))
    assert token.is_expired(NOON)
    assert not Token("a", SHA, None, frozenset()).is_expired(NOON)


@pytest.mark.parametrize(
    ("grant", "says"),
    [
        ({}, "mapping with the keys customers, rights, sha256, and at most created, created_by, expires"),
        ({**GRANT, "expiry": "2027"}, "at most created, created_by, expires"),
        ({**GRANT, "expires": "2027-02-30"}, "expires must be a time"),
        ({**GRANT, "expires": "0001-01-01T00:00:00+14:00"}, "expires must be a time"),
        ({**GRANT, "customers": None}, "customers must be"),
        ({**GRANT, "customers": ["*"]}, "customers must be"),
        ({**GRANT, "customers": [[]]}, "customers must be"),
        ({**GRANT, "customers": [2**70]}, "customers must be"),
        ({**GRANT, "created_by": "7"}, "created_by must be"),
        ({**GRANT, "rights": "read"}, "rights must be"),
        ({**GRANT, "rights": [["read"]]}, "rights must be"),
        ({**GRANT, "sha256": new_token()}, "64 hexadecimal digits"),
    ],
)
def test_a_mistake_is_named_and_not_quoted(grant: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^Token 'support'") as caught:
        read_tokens({"support": grant})
    assert says in str(caught.value)
    assert "asynctask_" not in str(caught.value)


def test_a_token_in_place_of_a_name_is_not_quoted() -> None:
    with pytest.raises(ValueError, match=r"^A token must be") as caught:
        read_tokens({new_token(): {}})
    assert "asynctask_" not in str(caught.value)


# -- codes


def test_a_code_is_valid_for_ten_minutes() -> None:
    secret = codes.new_secret()
    code = codes.new_code(secret, 1000.9)
    assert len(code) == 40
    assert codes.expiry(secret, code, 1599.9) == 1600
    assert codes.expiry(secret, code, 1600) is None
    assert codes.new_code(secret, 1000.9) != code


def test_a_code_of_another_server_or_a_changed_one_is_none() -> None:
    secret = codes.new_secret()
    code = codes.new_code(secret, 1000)
    assert codes.expiry(codes.new_secret(), code, 1000) is None
    for number in range(30):
        raw = bytearray(base64.urlsafe_b64decode(code))
        raw[number] ^= 1
        assert codes.expiry(secret, base64.urlsafe_b64encode(raw).decode(), 1000) is None


def test_a_code_has_one_form() -> None:
    """A used one must not be valid in another."""
    secret = codes.new_secret()
    code = next(one for one in iter(lambda: codes.new_code(secret, 1000), "") if "-" in one and "_" in one)
    for other in (code.replace("-", "+"), code.replace("_", "/"), f"{code}====", f"{code}\n", f" {code}"):
        assert codes.expiry(secret, other, 1000) is None


@pytest.mark.parametrize("code", ["", "a", "a" * 40, "ä" * 40, "a" * 41, "-" * 4000, "\x00", "====", "a b"])
def test_what_is_no_code(code: str) -> None:
    assert codes.expiry(codes.new_secret(), code, 1000) is None
