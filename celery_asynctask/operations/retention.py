"""How long tasks are kept: rules, each a search and an age. Pure; `purge` deletes by them.

``asynctask_retention = {"status:SUCCESS name:poll.*": "7d", "customer:42": None, "": "90d"}``: the first rule whose
search finds a task decides. An age of None keeps it forever. A task that no rule finds is kept too, so without rules
nothing is ever deleted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from celery_asynctask.errors import FilterError, SettingsError
from celery_asynctask.queries.search.filter import ANY, Filter, parse
from celery_asynctask.queries.search.keys import duration

EVERYTHING: Final = frozenset({"", ANY})
"""The searches that find all tasks."""
_AGE: Final = "a duration such as 12h, 90d or 1y, of at most 100 years"
_UNITS: Final = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
SETTING: Final = "asynctask_retention"


class Rule(NamedTuple):
    """How long the tasks that a search finds are kept."""

    search: Filter
    age: dt.timedelta | None
    """Since the end of the task; None: forever."""

    @property
    def text(self) -> str:
        """The search as it was written, ``*`` for all tasks."""
        return self.search.text or ANY


def search_of(text: str, now: dt.datetime) -> Filter:
    """The search of a rule. Raises `FilterError`."""
    return Filter() if text.strip() in EVERYTHING else parse(text, now)


def configured(retention: Mapping[str, str | None] | None, now: dt.datetime) -> tuple[Rule, ...]:
    """The rules of the setting; ``now`` is the time that relative times in searches refer to. Raises
    `SettingsError`."""
    rules = []
    for text, age in (retention or {}).items():
        try:
            rules.append(Rule(search_of(text, now), None if age is None else duration(age)))
        except FilterError as exc:
            raise SettingsError(f"Setting {SETTING!r} has the rule {text!r}: {exc}") from None
        except (ValueError, OverflowError):
            raise SettingsError(f"Setting {SETTING!r} has the age {age!r}; it must be {_AGE}.") from None
    return tuple(rules)


def older_than(age: str, search: str, now: dt.datetime) -> tuple[Rule, ...]:
    """The one rule that a command line states. Raises `FilterError`."""
    parsed = search_of(search, now)
    try:
        return (Rule(parsed, duration(age)),)
    except (ValueError, OverflowError):
        raise FilterError(f"An age cannot be {age!r}; it must be {_AGE}.") from None


def longest(rules: Sequence[Rule]) -> dt.timedelta | None:
    """The greatest age of the rules; None: the rules delete nothing."""
    return max((rule.age for rule in rules if rule.age is not None), default=None)


def in_words(age: dt.timedelta | None) -> str:
    """An age in words: ``30 days``, ``1 minute``; ``forever`` for None."""
    written = as_written(age)
    if age is None:
        return written
    count, unit = written[:-1], _UNITS[written[-1]]
    return f"{count} {unit if count == '1' else f'{unit}s'}"


def as_written(age: dt.timedelta | None) -> str:
    """An age as rules write it: ``30d``, ``12h``; ``forever`` for None."""
    if age is None:
        return "forever"
    seconds = age.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and not seconds % size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
