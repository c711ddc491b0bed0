"""Rounds: every event, each task at most once per round, and no start that its end carries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import pytest

from celery_asynctask.core.event import Event, Kind, decode, encode, encode_end
from celery_asynctask.store.rounds import rounds
from tests.histories import HISTORIES, Delivery, about, event, failure, fold, lines, ms, published


def ids(batch: Sequence[Sequence[bytes]]) -> list[list[str]]:
    return [[decode(line)["id"] for line in one] for one in batch]


def test_no_events() -> None:
    assert rounds([]) == []


@pytest.mark.parametrize("task_id", ["plain", "é", 'quote"', 'quo"te', "\\", '\\"', "", '"'])
def test_a_task_is_once_in_a_round(task_id: str) -> None:
    events = [
        *about([published(), published(1)], task_id),
        *about([published()], "other"),
        *about([published(2)], task_id),
        *about([published(3), published(4)], task_id + '"'),
    ]
    batch = rounds(lines(events))
    assert all(len(set(one)) == len(one) for one in ids(batch))
    assert all(set(one) <= set(before) for before, one in pairwise(ids(batch)))
    assert sorted(line for one in batch for line in one) == sorted(lines(events))


def test_a_start_that_a_later_end_carries_is_left_out() -> None:
    first, second = Delivery(2), Delivery(20, retries=1)
    began = [encode(first.started(3)), encode(second.started(21))]
    ends = [
        encode_end(began[0], Kind.RETRIED, ms(9), cast("Event", failure("again"))),
        encode_end(began[1], Kind.SUCCEEDED, ms(29), cast("Event", {})),
    ]
    events = [*lines([published()]), *began, *ends]
    for _ in range(20):
        random.shuffle(events)
        kept = [line for one in rounds(events) for line in one]
        carried = {start for start, end in zip(began, ends, strict=True) if events.index(start) < events.index(end)}
        assert sorted(kept) == sorted(set(events) - carried)
        assert fold(map(decode, kept)) == fold(map(decode, events))
    assert rounds([*began, *ends]) == [[ends[0]], [ends[1]]]


def test_a_start_that_is_not_the_one_carried_stays() -> None:
    start = encode(Delivery(2).started(3))
    other = encode(Delivery(2, retries=1).started(3))
    end = encode_end(other, Kind.SUCCEEDED, ms(9), cast("Event", {}))
    assert rounds([start, end]) == [[start], [end]]


@pytest.mark.parametrize("name", HISTORIES)
def test_rounds_fold_to_the_same_row(name: str) -> None:
    events = HISTORIES[name]()
    assert fold(decode(line) for one in rounds(lines(events)) for line in one) == fold(events)


def test_a_text_that_looks_like_a_start_is_none() -> None:
    """In users' values, it is escaped, or comes later."""
    trap = '"kind":"started","at":1,"started":2'
    events = [
        published(args=[trap]),
        event(Kind.STARTED, 3, run="0" * 20, args=[trap]),
        published(5, error_message=trap),
    ]
    assert sorted(line for one in rounds(lines(events)) for line in one) == sorted(lines(events))


def test_an_event_whose_id_does_not_come_first() -> None:
    """As an older or newer version may write it."""
    events = cast("Event", {"kind": "published", "at": 1, "name": "n", "id": "a"})
    [[line]] = rounds([encode(events)])
    assert decode(line) == events
    assert line.startswith(b'{"id":"a"')


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"no json", b'{"id":5,"kind":"published","at":1,"name":"n"}'])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        rounds([*lines([published()]), line])
