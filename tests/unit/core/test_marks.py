"""Marks: each kind has one description, the same wherever a value is shown."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import celery_asynctask
from celery_asynctask.capture import payload
from celery_asynctask.core.marks import MARKS, mark_of, missing, note_of
from celery_asynctask.operations.erase import ERASED
from tests.unit.capture.payload.values import MARK


def test_every_mark_has_one_description() -> None:
    """Every kind that `payload` names, or that any module of ours makes."""
    assert set(re.findall(r'"\$asynctask": "(\w+)"', payload.__doc__ or "")) == MARKS.keys()
    made = {ERASED[MARK]}
    for path in Path(celery_asynctask.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="marker"), args=[ast.Constant(value=str() as what), *_]):
                    made.add(what)
                case ast.Dict(keys=[ast.Name(id="MARK"), *_], values=[ast.Constant(value=str() as what), *_]):
                    made.add(what)
    assert made == MARKS.keys()
    assert len({mark.word for mark in MARKS.values()}) == len(MARKS)


@pytest.mark.parametrize("what", MARKS)
def test_any_mark_can_be_described_whatever_is_in_it(what: str) -> None:
    for value in (None, 7, "x" * 10_000, [1], {"a": 1}):
        description = MARKS[what].said({MARK: what, "type": value, "size": value, "up": value, "text": value})
        assert description
        assert len(description) < 500


def test_what_is_missing_of_a_value() -> None:
    assert missing([1, {"a": None}]) == {}
    assert missing({"a": [{MARK: "redacted"}], "b": {MARK: "cut", "type": "str"}}) == {"cut": 1, "redacted": 1}
    assert missing({MARK: "object", "type": "shop.Cart"}) == {"described": 1}
    assert missing({"a": 1, MARK: {MARK: "cut", "type": "dict", "size": 9}}) == {"cut": 1}
    assert missing([ERASED, ERASED]) == {"erased": 2}
    assert missing({"$$asynctask": "the user's own"}) == missing({MARK: "the user's own"}) == {}
    assert missing([[ERASED]] * 9, limit=5) == {"erased": 1}


def test_a_mark_that_describes_its_container() -> None:
    note = {MARK: "cut", "type": "dict", "size": 9}
    of_list = {**note, "type": "tuple"}
    assert note_of({"a": 1, MARK: note}) == note
    assert note_of([1, of_list]) == of_list
    for value in ({"a": note}, note, [1, note], [{MARK: "cut", "type": "Decimal"}], [{**note, "head": "x"}], [], 7):
        assert note_of(value) is None
    assert mark_of(note) is MARKS["cut"]
    assert mark_of({MARK: [1]}) is mark_of("cut") is None
