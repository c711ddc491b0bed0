"""The keys of the fold: texts of a fixed width that sort as what they stand for. Nobody else takes one apart.

A group of columns is decided by comparing one key, in Python and in SQL, byte by byte. So every part has its width,
padded with zeros, numbers are in lower-case hex, and what decides first stands first.

======= ============================================================================= ===== =======================
key     parts, each with its width                                                    width what it is for
======= ============================================================================= ===== =======================
token   time 14, number 6                                                             20    names a delivery
run     nesting 2, retries 4, redelivered 1, token 20                                 27    names a run of a task
order   nesting 2, retries 4, stage 1, redelivered 1, token 20, phase 1, time 14      43    the largest wins: status
trace   an order key; empty without a trace                                           43, 0 the largest wins
content changed 1, an order key; empty without content                                44, 0 the largest wins
origin  source 1, nesting 2, retries 4, time 14                                       21    the smallest wins
end     phase 1, time 14; empty of a start, which says nothing of the end             15, 0 the largest wins
======= ============================================================================= ===== =======================

* nesting: how often the task was replaced. A replacement comes after all retries of what it replaces.
* retries: Celery's count, of the message.
* stage: `STAGE`, how much an event knows of where the message is; `STAGE_RUN` of all that a run says.
* redelivered: 1 if the broker has delivered the message before. Such a run comes after the first, whatever the clocks
  of the two workers say.
* token: when a worker received the message, and a number to tell two apart, so runs sort by time; `NO_RUN` for what
  belongs to no delivery, and in the order key of every event before a run.
* phase: ``PHASE_…``, whose word counts inside one run; 0 before a run.
* changed: `CHANGED` if the run has changed the content, which outranks `GIVEN`.
* source: ``SOURCE_…``, how well an event knows what was asked for.
* time: microseconds since the epoch, of the event; in an origin key of the start of the run, if the event says it.

Keys are made of events as texts, without an object between, for the recorder makes them of every event.

Rows may be imported from elsewhere, with keys of any form. So what reads a key back says None, or False, of all that is
no such key to the letter, the empty text included, and never raises. Who asks leaves out what only the key tells.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from itertools import count
from typing import Final, NamedTuple

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.time import time_of

NESTING_DIGITS: Final = 2
RETRIES_DIGITS: Final = 4
TIME_DIGITS: Final = 14
NUMBER_DIGITS: Final = 6
RUN_DIGITS: Final = TIME_DIGITS + NUMBER_DIGITS
MAX_NESTING: Final = 16**NESTING_DIGITS - 1
MAX_RETRIES: Final = 16**RETRIES_DIGITS - 1
"""What counts more is counted as the most that a key has room for."""

NO_RUN: Final = "0" * RUN_DIGITS
"""Stands where an event belongs to no delivery (published, planned, unsent)."""
FIRST, REDELIVERED = "0", "1"
"""Whether the broker has delivered the message before."""
BEFORE_RUN: Final = f"{FIRST}{NO_RUN}0"
"""Stands in an order key for the delivery and the phase of what belongs to none."""
GIVEN, CHANGED = "0", "1"
"""Whose content it is: what the task was asked with, or what its run has made of it."""

# Which of two events of the same retry count says more about where the task is. A message that was planned, then
# not sent, then sent after all; a message received says more than one published; what a run says outranks both,
# so a redelivery takes a finished row back only when its body really starts again.
STAGE: Final = {Kind.PLANNED.value: 0, Kind.UNSENT.value: 1, Kind.PUBLISHED.value: 2, Kind.RECEIVED.value: 3}
STAGE_RUN: Final = 4

# Inside one run. The process that ran the body knows better than the worker's main process, which only infers:
# a child that stored its result and was then killed has succeeded. An internal error of Celery's tracer comes
# after whatever the body did (a result backend that is down: celery/app/trace.py, 5.7).
PHASE_STARTED, PHASE_LOST, PHASE_INFERRED, PHASE_SEEN, PHASE_INTERNAL = range(5)
PHASE: Final = {
    Kind.STARTED.value: PHASE_STARTED,
    Kind.NOTED.value: PHASE_STARTED,
    Kind.LOST.value: PHASE_LOST,  # of these the later one is right
    Kind.FOUND.value: PHASE_LOST,
}

# Which event the asked-for facts are taken from, first choice first.
SOURCE_MESSAGE, SOURCE_UNSENT, SOURCE_PLANNED, SOURCE_NAME_ONLY = range(4)
SOURCE: Final = {Kind.PLANNED.value: SOURCE_PLANNED, Kind.UNSENT.value: SOURCE_UNSENT}

_PLANNED, _UNSENT = str(STAGE[Kind.PLANNED]), str(STAGE[Kind.UNSENT])
_MESSAGE: Final = NESTING_DIGITS + RETRIES_DIGITS
"""Characters of nesting and retries, with which a run key and an order key begin."""
_RECEIVED: Final = slice(_MESSAGE + 1, _MESSAGE + 1 + TIME_DIGITS)
"""Where a run key has the time of its token."""


# -- made of events ------------------------------------------------------------------


def new_run(at: int) -> str:
    """A token for a delivery received at ``at``: unique, and sorting by time."""
    return f"{at:014x}{next(_runs) & 0xFFFFFF:06x}"


_runs = count(int.from_bytes(os.urandom(3), "big"))
"""Two processes differ in where they begin, two deliveries of one in the next number. A forked child goes on from its
parent's: it makes tokens for what it runs eagerly, its parent for what it receives."""


def run_key(event: Event) -> str:
    """Names a run inside its task and sorts runs in the order they were meant to happen."""
    return (
        f"{min(event.get('nesting', 0), 0xFF):02x}{min(event.get('retries', 0), 0xFFFF):04x}"
        f"{1 if event.get('redelivered') else 0}{event.get('run') or NO_RUN}"
    )


def received_at(key: str) -> int:
    """When the delivery of a run was received, microseconds since the epoch. Raises `ValueError` for a run key of an
    event whose token is none."""
    return int(key[_RECEIVED], 16)


def order_keys(event: Event, run: str, started: int | None) -> tuple[str, str, str]:
    """Of an event with that run key: its order key, the order key of its run's start, and its origin key. Where the
    event does not say when its run ``started``, the second is the first again."""
    message, at = run[:_MESSAGE], f"{event['at']:014x}"
    stage = STAGE.get(event["kind"])
    if stage is None:
        order = f"{message}{STAGE_RUN}{run[_MESSAGE:]}{_phase(event)}{at}"
    else:
        order = f"{message}{stage}{BEFORE_RUN}{at}"
    if started is None:
        return order, order, f"{_source(event)}{message}{at}"
    since = f"{started:014x}"
    return order, f"{message}{STAGE_RUN}{run[_MESSAGE:]}{PHASE_STARTED}{since}", f"{_source(event)}{message}{since}"


def end_key(event: Event) -> str:
    """Orders what is said of the end of one run."""
    return f"{_phase(event)}{event['at']:014x}"


def _phase(event: Event) -> int:
    phase = PHASE.get(event["kind"])
    if phase is not None:
        return phase
    if event.get("internal"):
        return PHASE_INTERNAL
    return PHASE_INFERRED if event.get("inferred") else PHASE_SEEN


def _source(event: Event) -> int:
    """How well an event knows what was asked for: smaller is better."""
    if not event.get("asked"):
        return SOURCE_NAME_ONLY
    return SOURCE.get(event["kind"], SOURCE_MESSAGE)


# -- read back -----------------------------------------------------------------------


def _hex(digits: int) -> str:
    return f"([0-9a-f]{{{digits}}})"


_MESSAGE_PARTS: Final = _hex(NESTING_DIGITS) + _hex(RETRIES_DIGITS)
_DELIVERY_PARTS: Final = f"([{FIRST}{REDELIVERED}]){_hex(RUN_DIGITS)}"
_ORDER_PARTS: Final = f"{_MESSAGE_PARTS}([0-{STAGE_RUN}]){_DELIVERY_PARTS}([0-{PHASE_INTERNAL}]){_hex(TIME_DIGITS)}"
_RUN_KEY: Final = re.compile(_MESSAGE_PARTS + _DELIVERY_PARTS)
_ORDER_KEY: Final = re.compile(_ORDER_PARTS)
_CHANGED_CONTENT_KEY: Final = re.compile(CHANGED + _ORDER_PARTS)
_ORIGIN_KEY_OF_A_STEP: Final = re.compile(f"[{SOURCE_UNSENT}{SOURCE_PLANNED}]{_MESSAGE_PARTS}{_hex(TIME_DIGITS)}")


class AttemptKey(NamedTuple):
    """A run of a task."""

    nesting: int
    retries: int
    redelivered: bool
    token: str

    @classmethod
    def parse(cls, text: str) -> AttemptKey | None:
        """None: something else."""
        found = _RUN_KEY.fullmatch(text)
        if found is None:
            return None
        nesting, retries, redelivered, token = found.groups()
        return cls(int(nesting, 16), int(retries, 16), redelivered == REDELIVERED, token)


def is_planned(order_key: str) -> bool:
    """Whether the newest that is known of a task is that it is a later step of a workflow."""
    return _has_stage(order_key, _PLANNED)


def is_unsent(order_key: str) -> bool:
    """Whether the newest that is known of a task is that it will not be sent."""
    return _has_stage(order_key, _UNSENT)


def _has_stage(order_key: str, stage: str) -> bool:
    # The digit first: it is asked of every member of a workflow, and most have another.
    return order_key[_MESSAGE : _MESSAGE + 1] == stage and _ORDER_KEY.fullmatch(order_key) is not None


def happened_at(order_key: str) -> dt.datetime | None:
    """When the event happened that a task's status comes from. None: the key is none of ours."""
    return time_of(int(order_key[-TIME_DIGITS:], 16)) if _ORDER_KEY.fullmatch(order_key) else None


def is_of_a_step(origin_key: str) -> bool:
    """Whether all that is known of what was asked for is from the plan of a workflow: no message has it."""
    return _ORIGIN_KEY_OF_A_STEP.fullmatch(origin_key) is not None


def is_changed(content_key: str) -> bool:
    """Whether the run has changed the content that the task was given."""
    return _CHANGED_CONTENT_KEY.fullmatch(content_key) is not None
