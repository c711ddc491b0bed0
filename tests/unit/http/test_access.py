"""What makes an `Access`: whatever an application gives, it is an access to what it names, or a refusal."""

from __future__ import annotations

import enum
import itertools
import uuid
from typing import Any

import pytest

from celery_asynctask.http import Access
from celery_asynctask.queries.scope import ALL, MAX_IDS, Scope
from celery_asynctask.web.access import AccessError


class Team(str, enum.Enum):
    RED = "red"


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "admin"

    def strip(self, *_: Any) -> str:
        return "admin"


class Number(int):
    def __int__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "1"

    def __abs__(self) -> int:
        return 1


UUID = uuid.UUID("11111111-2222-3333-4444-555555555555")


@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        ({42, "acme", UUID}, {"42", "acme", str(UUID)}),
        ([1, "1"], {"1"}),
        ((one for one in (1, 2)), {"1", "2"}),
        ({"a": 1}.keys(), {"a"}),
        ([Team.RED], {"red"}),
        ([Shouting("x")], {"x"}),
        ([Number(7)], {"7"}),
        ([2**63 - 1], {str(2**63 - 1)}),
        (range(MAX_IDS), {*map(str, range(MAX_IDS))}),
        ([1] * MAX_IDS, {"1"}),
        ((), set()),
    ],
)
def test_ids_are_kept_as_their_keys(ids: Any, keys: set[str]) -> None:
    """Those of subclasses by what they are, not by what their methods say."""
    ids = list(ids)
    for made in (Access(ids).customers, Access(None, created_by=ids).created_by, Access(iter(ids)).customers):
        assert made == keys
        assert all(type(key) is str for key in made)


@pytest.mark.parametrize(
    "ids",
    [
        {2**70}, {None}, {""}, {True}, {1.5}, {(1,)}, [[1]], [{}], {b"42"}, b"42", bytearray(b"42"), memoryview(b"42"),
        "42", "*", {42: True}, 42, object(), {" a"}, {"a\n"}, {"a\0"}, {"\ud800"}, {"\u202e"}, {"x" * 65}, {-(2**63)},
        {Shouting("a\n")}, {Number(2**70)}, range(MAX_IDS + 1), itertools.count(), itertools.repeat(1),
    ],
)  # fmt: skip
def test_what_is_no_set_of_ids_is_refused(ids: Any) -> None:
    for given in ({"customers": ids}, {"customers": None, "created_by": ids}):
        with pytest.raises(AccessError) as refused:
            Access(**given)
        assert len(str(refused.value)) < 300
        assert isinstance(refused.value, (TypeError, ValueError))


@pytest.mark.parametrize(
    "rights", ["read", None, {"everything"}, {"read", 1}, [[]], {"read": True}, b"read", {None}, 7]
)
def test_rights_that_there_are_not(rights: Any) -> None:
    with pytest.raises(AccessError, match="rights must be"):
        Access(rights=rights)


def test_a_name_is_short_and_on_one_line() -> None:
    """It stands in logs, in contents of reruns, and in the memory of rates."""
    assert Access(name="x" * 10_000_000).name == "x" * 255
    assert Access(name="a\x1b]0;\r\n\u202eb\ud800").name.isprintable()
    assert Access(name=Shouting("Ann")).name == "Ann"
    for name in (None, b"x", 7):
        with pytest.raises(AccessError, match="name must be"):
            Access(name=name)  # type: ignore[arg-type]


def test_its_scope() -> None:
    assert Access(None).scope == ALL
    assert Access(None).scope.is_all
    assert Access({1}, created_by={"a"}).scope == Scope(frozenset({"1"}), frozenset({"a"}))
    assert Access({1}, created_by={"a"}).scope == Scope.of([1], ["a"])
    for one in (Access(), Access({1}), Access(None, created_by={1}), Access(None, created_by=())):
        assert not one.scope.is_all
    assert Access(created_by={1}).scope.customers == frozenset(), "no customer is not all customers"
    narrow = Scope.of([1, 2], [3])
    assert (narrow.narrowed("2"), narrow.narrowed("3")) == (Scope.of([2], [3]), Scope.of([], [3]))
    assert Scope.of(None, [3]).narrowed("") == Scope(frozenset({""}), frozenset({"3"}))
