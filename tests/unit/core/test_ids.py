"""The keys of customers and creators: what is an id, and that what a number was given as does not matter."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.capture import context
from celery_asynctask.core.fold import customer_key
from celery_asynctask.core.ids import key_of, keys_of, shown
from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.errors import ContextError
from tests.histories import published

UUID = uuid.UUID("9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d")
IDS = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.uuids() | st.text(max_size=70)


def test_keys() -> None:
    assert keys_of([42, "42", "acme", UUID, str(UUID)]) == {"42", "acme", str(UUID)}
    assert [shown(key) for key in ("42", "-5", "0", "007", "acme", f"{2**63}", "")] == [
        42, -5, 0, "007", "acme", f"{2**63}", "",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["", " ", "a ", "a\nb", "x" * 65, True, 4.2, None, b"42", 2**63, -(2**63)])
def test_what_is_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="a whole number of at most 64 bits, a UUID, or a text"):
        key_of(value)


@given(IDS)
def test_readers_and_senders_mean_the_same(value: int | str | uuid.UUID) -> None:
    """Who may see the tasks of an id sees those that are sent for it."""
    try:
        fields = context.check({"customer": value})
    except ContextError:
        with pytest.raises(ValueError, match="a whole number"):
            key_of(value)
        return
    assert customer_key(published(**context.ids(fields))) == key_of(value)
