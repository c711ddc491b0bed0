"""Frames: written data comes back, and damage stays where it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.journal.frame import pack, scan, unpack

LINE = st.binary().filter(lambda data: b"\n" not in data)


@given(st.integers(0, 2**63), LINE)
def test_what_is_packed_is_unpacked(number: int, data: bytes) -> None:
    line = pack(number, data)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert unpack(line[:-1]) == (number, data)


def test_a_person_can_read_it() -> None:
    assert pack(7, b'{"kind":"started"}') == b'1bdf0c78 7 {"kind":"started"}\n'


@given(LINE, st.data())
def test_any_changed_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    line = bytearray(pack(12, data)[:-1])
    at = draw.draw(st.integers(0, len(line) - 1))
    was = line[at]
    line[at] = draw.draw(st.integers(0, 255).filter(lambda byte: byte != was))
    try:
        unpacked = unpack(bytes(line))
    except ValueError:
        return
    # The checksum itself may be written in capitals, too.
    assert unpacked == (12, data)
    assert at < 8


@pytest.mark.parametrize("line", [b"", b" ", b"x" * 8, b"00000000 ", b"zzzzzzzz 1 {}", b"00000000-1 {}"])
def test_what_is_no_frame(line: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(line)


@given(st.lists(LINE, max_size=5), LINE, st.integers(0, 7))
def test_scan_takes_whole_lines_only(lines: list[bytes], rest: bytes, limit: int) -> None:
    packed = [pack(number, data) for number, data in enumerate(lines)]
    frames = scan(b"".join(packed) + rest, limit)
    taken = min(limit, len(lines))
    assert (frames.numbers, frames.data) == (list(range(taken)), lines[:taken])
    assert (frames.damaged, frames.tail) == ([], 0)
    assert frames.consumed == sum(map(len, packed[:taken]))


def test_a_damaged_line_is_set_aside_and_the_next_is_read() -> None:
    first, second, third = pack(1, b"a"), pack(2, b"b"), pack(3, b"c")
    frames = scan(first + b"X" + second[1:] + third, 10)
    assert (frames.numbers, frames.data, frames.tail) == ([1, 3], [b"a", b"c"], 0)
    assert frames.damaged == [b"X" + second[1:-1]]
    assert frames.consumed == len(first + second + third)


@given(st.binary(), st.integers(0, 10))
def test_scan_never_raises_and_accounts_for_every_line(data: bytes, limit: int) -> None:
    frames = scan(data, limit)
    assert len(frames.data) + len(frames.damaged) == min(limit, data.count(b"\n"))
    assert frames.consumed <= len(data)
    assert scan(data[frames.consumed :], limit).consumed >= 0
