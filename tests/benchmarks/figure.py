"""One measured number with its 95 % confidence interval, and the bootstrap that the interval comes from."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.services import Unavailable

RESAMPLES = 2000

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    quick: bool = False
    """A quick run of a minute or two, with wide intervals, instead of a measurement."""
    rows: int = 1_000_000
    """Rows that the table already has, in the second half of `drain` and in `queries`."""


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    unit: str
    interval: Interval | None = None
    """None: it could not be measured; ``note`` says why."""
    at_most: float | None = None
    """The target, if less is better."""
    at_least: float | None = None
    """The target, if more is better."""
    note: str = ""

    def row(self) -> str:
        """The figure as a row of a Markdown table: name, figure with interval, target."""
        return f"| {self.what} | {self._figure()} | {self._target()} |"

    def _figure(self) -> str:
        if self.interval is None:
            return self.note
        value, low, high = (_shown(number) for number in self.interval)
        unit = f" {self.unit}" if self.unit else ""
        return f"{value}{unit} [{low}, {high}]" + (f"; {self.note}" if self.note else "")

    def _target(self) -> str:
        for sign, target in (("≤", self.at_most), ("≥", self.at_least)):
            if target is not None:
                return f"{sign} {_shown(target)} {self._verdict(sign, target)}".strip()
        return ""

    def _verdict(self, sign: str, target: float) -> str:
        """Met or missed; open if the interval contains the target."""
        if self.interval is None:
            return ""
        if self.interval.low <= target <= self.interval.high:
            return "(open)"
        return "(met)" if (self.interval.value < target) == (sign == "≤") else "(missed)"


def skipping(figures: Iterator[Figure], what: str) -> Iterator[Figure]:
    """The figures, or the reason why there are none: a server does not answer."""
    try:
        yield from figures
    except Unavailable as exc:
        yield Figure(what, "", note=f"not measured: {exc}")


def scaled(interval: Interval, factor: float) -> Interval:
    """The interval in another unit."""
    return Interval(*(number * factor for number in interval))


def bootstrap(groups: Sequence[Sequence[float]], statistic: Statistic = statistics.fmean) -> Interval:
    """The statistic of all values, with its interval from resampling the groups and the values within each.

    A bootstrap of a few groups (or of a few values, if there is one group) is too certain of itself, so the interval is
    widened as Student's distribution is against the normal one.
    """
    chance = random.Random(0)
    found = []
    for _ in range(RESAMPLES):
        picked = chance.choices(groups, k=len(groups)) if len(groups) > 1 else groups
        found.append(statistic([value for group in picked for value in chance.choices(group, k=len(group))]))
    found.sort()
    value = statistic([value for group in groups for value in group])
    wider = _widening(len(groups) if len(groups) > 1 else len(groups[0]))
    low, high = found[int(RESAMPLES * 0.025)], found[int(RESAMPLES * 0.975)]
    return Interval(value, value - (value - low) * wider, value + (high - value) * wider)


def _widening(count: int) -> float:
    """The factor by which the 95 % interval of a mean of ``count`` values is wider when their spread is estimated from
    them."""
    freedom = max(1, count - 1)
    student = 1.96 + 2.37 / freedom + 2.82 / freedom**2 + 2.56 / freedom**3  # Cornish-Fisher
    return student / 1.96 * math.sqrt((freedom + 1) / freedom)


def _shown(number: float) -> str:
    """Three significant digits, no exponent."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"
