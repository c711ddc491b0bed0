"""Reading segments: it goes on where it stopped, whatever their ends look like."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from celery_asynctask.journal import Segment, frame
from celery_asynctask.journal.frame import describe, read


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    """A segment of five events after its description."""
    description = json.dumps(
        {"format": 1, "source": "s", "host": "h", "pid": 7, "role": "child", "at": 5, "dropped": {}}
    )
    lines = [frame.pack(0, description.encode()), *(frame.pack(number, b"%d" % number) for number in range(1, 6))]
    path = tmp_path / "20260102T030405-4711-abcdef01.000003.events"
    path.write_bytes(b"".join(lines))
    return Segment("20260102T030405-4711-abcdef01", 3, path)


@pytest.mark.parametrize("limit", range(1, 8))
def test_read_on_from_where_it_stopped(segment: Segment, limit: int) -> None:
    numbers: list[int] = []
    position = 0
    while True:
        chunk = read(segment, position, limit, ended=True)
        assert len(chunk.events) == min(limit, 5 - len(numbers)), "the description is not counted as an event"
        numbers += chunk.numbers
        position = chunk.end
        if chunk.at_end:
            break
    assert numbers == [1, 2, 3, 4, 5]
    assert position == segment.path.stat().st_size


@pytest.mark.parametrize("first", [b"", b"damaged\n"], ids=["gone", "damaged"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_than_the_limit_where_the_description_is_lost(segment: Segment, limit: int, first: bytes) -> None:
    """A database that refuses two events together would get them together for ever."""
    _, _, rest = segment.path.read_bytes().partition(b"\n")
    segment.path.write_bytes(first + rest)
    numbers: list[int] = []
    position = 0
    at_end = False
    while not at_end:
        chunk = read(segment, position, limit, ended=True)
        assert 0 < len(chunk) <= limit
        numbers += chunk.numbers
        position, at_end = chunk.end, chunk.at_end
    assert numbers == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 7, 100, 101])
def test_read_in_small_parts(segment: Segment, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is longer than one read is read completely."""
    monkeypatch.setattr(frame, "READ_BYTES", size)
    numbers: list[int] = []
    position = 0
    at_end = False
    while not at_end:
        chunk = read(segment, position, 100, ended=True)
        assert chunk.end > position
        numbers += chunk.numbers
        position, at_end = chunk.end, chunk.at_end
    assert numbers == [1, 2, 3, 4, 5]


def test_a_last_line_that_is_cut(segment: Segment) -> None:
    size = segment.path.stat().st_size
    cut = frame.pack(6, b"never finished")[:-5]
    with segment.path.open("ab") as file:
        file.write(cut)
    living = read(segment, 0, 100, ended=False)
    assert (len(living.events), living.damaged, living.end, living.at_end) == (5, [], size, True)
    dead = read(segment, 0, 100, ended=True)
    assert (len(dead.events), dead.damaged, dead.end, dead.at_end) == (5, [cut], size + len(cut), True)


def test_a_segment_that_says_nothing_of_itself(segment: Segment) -> None:
    data = segment.path.read_bytes()
    segment.path.write_bytes(b"X" + data[1:])
    about = describe(segment)
    assert (about["source"], about["pid"], about["role"]) == (segment.source, 4711, "unknown")
    assert about["host"] == socket.gethostname()
    assert describe(segment._replace(source="odd"))["pid"] == 0
    segment.path.write_bytes(b"")
    assert describe(segment)["role"] == "unknown"


def test_a_segment_of_a_later_format(segment: Segment) -> None:
    segment.path.write_bytes(frame.pack(0, b'{"format": 3, "role": "something new"}'))
    with pytest.raises(frame.FormatError, match="has the format 3, which this version of celery-asynctask does not"):
        describe(segment)
    segment.path.write_bytes(frame.pack(0, b"[]"))
    assert describe(segment)["role"] == "unknown"


def test_a_segment_that_was_renamed_is_known_by_its_name(segment: Segment) -> None:
    assert describe(segment)["source"] == segment.source
    assert describe(segment)["role"] == "child"
