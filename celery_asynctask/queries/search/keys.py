"""The keys of a search and the values they take. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from celery_asynctask.core.columns import ATTEMPT, TASK, Content, Type
from celery_asynctask.core.limits import MAX_INTEGER
from celery_asynctask.core.status import SHOWN

Read = Callable[[str, dt.datetime], tuple[Any, Any]]
"""Reads the text of a value, at the present time, as the first and last value it stands for: 2026-01-31 is a whole day.
Raises `ValueError`, whose text says what is allowed."""


class Key(NamedTuple):
    """A key of a search."""

    meaning: str
    """A line of help."""
    read: Read | None = None
    """Reader of its values; None: they are texts."""
    operator: str = "="
    """Operator of a value that is written without one."""
    is_id: bool = False
    """Whether the value is a task id."""
    is_hex: bool = False
    """Whether the value is always in lower case."""
    is_owner: bool = False
    """Whether the value is the id of a customer or creator: a text, which ``read`` takes as a number to compare."""

    @property
    def can_be_none(self) -> bool:
        """Whether the key takes ``none`` and ``*``: not if it is itself a comparison."""
        return self.operator == "="

    @property
    def is_compared(self) -> bool:
        """Whether the key takes comparisons such as ``>``."""
        return self.read in (number, time, span) and self.operator == "="


def status(value: str, _now: dt.datetime) -> tuple[str, str]:
    """A status, in upper or lower case."""
    name = value.upper()
    if name not in SHOWN:
        raise ValueError(f"one of {', '.join(SHOWN)}")
    return name, name


def number(value: str, _now: dt.datetime) -> tuple[int, int]:
    """A whole number of at most 64 bits."""
    if not re.fullmatch(r"-?[0-9]{1,19}", value) or abs(int(value)) > MAX_INTEGER:
        raise ValueError("a whole number of at most 64 bits")
    return int(value), int(value)


_UNITS: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
    "y": 31_536_000_000_000,
}
"""Microseconds."""
_MAX_DURATION: Final = 100 * _UNITS["y"]
_DURATION: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?(ms|[smhdwy])")


def duration(value: str) -> dt.timedelta:
    """A duration such as ``90s``, ``1.5h`` or ``2d``, of at most 100 years: a number with one of the units ms, s, m, h,
    d, w, y (365 days). Raises `ValueError`."""
    match = _DURATION.fullmatch(value)
    if match is not None:
        unit = _UNITS[match[3]]
        length = int(match[1]) * unit + int((match[2] or "").ljust(6, "0")) * unit // 1_000_000
        if length <= _MAX_DURATION:
            return dt.timedelta(microseconds=length)
    raise ValueError("a duration such as 90s, 15m, 2h, 3d or 1w")


def span(value: str, _now: dt.datetime) -> tuple[dt.timedelta, dt.timedelta]:
    """A length of time, as `duration` reads it."""
    length = duration(value)
    return length, length


_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.IGNORECASE,
)
_YEARS: Final = range(1970, 3000)
_TICK: Final = dt.timedelta(microseconds=1)
_DAY: Final = dt.timedelta(days=1)


def time(value: str, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """A duration before ``now``, or a date or time in ISO 8601, in the zone of ``now`` unless it names another. Returns
    its first and last microsecond, in UTC."""
    try:
        at = now.astimezone(dt.timezone.utc) - duration(value)
    except ValueError:
        pass
    else:
        return at, at
    word = value.lower()
    if word == "now":
        return (now.astimezone(dt.timezone.utc),) * 2
    try:
        if word in ("today", "yesterday"):
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            return _period(midnight if word == "today" else midnight - _DAY, _DAY)
        if (match := _TIME.fullmatch(value)) is not None:
            return _written(match, now)
    except (ValueError, OverflowError, OSError):  # no such day, or one outside the operating system's range
        pass
    raise ValueError(
        "a time such as 2026-01-31, 2026-01-31T14:05 or 2026-01-31T14:05Z, a duration before now such as 2d, or "
        "today, yesterday or now"
    )


def _written(match: re.Match[str], now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    date, minute, second, fraction, zone = match.groups()
    at = dt.datetime.fromisoformat(f"{date}T{minute or '00:00'}:{second or '00'}.{(fraction or '').ljust(6, '0')}")
    if at.year not in _YEARS:
        raise ValueError
    length = _DAY if minute is None else dt.timedelta(minutes=1) if second is None else dt.timedelta(seconds=1)
    if fraction is not None:
        length = _TICK * 10 ** (6 - len(fraction))
    return _period(at.replace(tzinfo=dt.datetime.strptime(zone.upper(), "%z").tzinfo if zone else now.tzinfo), length)


def _period(begin: dt.datetime, length: dt.timedelta) -> tuple[dt.datetime, dt.datetime]:
    """From ``begin`` until the clock on the wall has moved by ``length``: 23 hours on one day of the year."""
    end = begin + length if length == _DAY else begin.astimezone(dt.timezone.utc) + length
    return begin.astimezone(dt.timezone.utc), end.astimezone(dt.timezone.utc) - _TICK


KEYS: Final[dict[str, Key]] = {
    "id": Key("beginning of the task id, or a glob for all of it", is_id=True),
    "name": Key("task name"),
    "status": Key("status", status),
    "customer": Key("customer that it was created for", number, is_owner=True),
    "created_by": Key("id of its creator", number, is_owner=True),
    "created_by_name": Key("name of its creator"),
    "error": Key("class of the exception"),
    "message": Key("part of the exception's text"),
    "retries": Key("number of retries", number),
    "root": Key("id of the root of its workflow", is_id=True),
    "parent": Key("id of the task that sent it", is_id=True),
    "trace": Key("trace id", is_hex=True),
    "span": Key("span id", is_hex=True),
    "worker": Key("node name of a worker that ran it"),
    "queue": Key("queue of one of its attempts"),
    "periodic": Key("name of the schedule entry that sent it"),
    "created": Key("when it was created", time),
    "started": Key("when it first started", time),
    "completed": Key("when it ended", time),
    "since": Key("created at that time or later", time, operator=">="),
    "until": Key("created before that time", time, operator="<"),
    "wait": Key("time from its creation to its first start", span),
    "run": Key("time from its first start to its end", span),
    "args": Key("a positional argument or a part: args.0, args.0.customer"),
    "kwargs": Key("a keyword argument or a part of it: kwargs.order.id"),
    "result": Key("the result or a part of it: result.total"),
    "content": Key("a part of the content: content.order"),
}
"""The keys by name. Searchable columns of the registry that are not listed here follow."""
_READERS: Final[Mapping[Type, Read]] = {Type.INTEGER: number, Type.LONG: number, Type.TIME: time}
for _column in (*TASK, *ATTEMPT):
    if _column.search is not None:
        KEYS.setdefault(_column.search, Key(_column.doc.rstrip("."), _READERS.get(_column.type)))
ALIASES: Final[Mapping[str, str]] = {"creator": "created_by_name"}
"""Other names of keys: a person may type ``creator`` for the column titled "Created by"."""
JSON_KEYS: Final = frozenset(column.search for column in TASK if column.type is Type.JSON)
ERROR_KEYS: Final = frozenset(column.search for column in (*TASK, *ATTEMPT) if column.holds is Content.ERROR) - {None}


def is_hex(text: str) -> bool:
    """Whether a text can be the beginning of a UUID."""
    return re.fullmatch(r"[0-9a-fA-F-]+", text) is not None
