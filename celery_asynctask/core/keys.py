"""The keys of the fold: texts of a fixed width that sort as what they stand for. No other module takes one apart.

A group of columns is decided by comparing one key, in Python and in SQL, byte by byte. So every part has a fixed width,
padded with zeros, numbers are in lower-case hex, and what decides first stands first.

======= ============================================================================= ===== =======================
key     parts, each with its width                                                    width purpose
======= ============================================================================= ===== =======================
token   time 14, number 6                                                             20    names a delivery
attempt nesting 2, retries 4, redelivered 1, token 20                                 27    names an attempt of a task
order   nesting 2, retries 4, stage 1, redelivered 1, token 20, phase 1, time 14      43    the largest wins: status
trace   an order key; empty without a trace                                           43, 0 the largest wins
content changed 1, an order key; empty without content                                44, 0 the largest wins
origin  source 1, nesting 2, retries 4, time 14                                       21    the smallest wins
end     phase 1, time 14; empty of a start, which says nothing of the end             15, 0 the largest wins
======= ============================================================================= ===== =======================

* nesting: how often the task was replaced. A replacement comes after all retries of the task that it replaces.
* retries: Celery's count, of the message.
* stage: `STAGE`, how much an event knows of where the message is; `STAGE_ATTEMPT` in every event of an attempt.
* redelivered: 1 if the broker has delivered the message before. Such an attempt comes after the first, whatever the
  clocks of the two workers say.
* token: the time when a worker received the message, and a number that distinguishes deliveries of the same
  microsecond, so attempts sort by time; `NO_TOKEN` for an event of no delivery, and in the order key of every event
  before an attempt.
* phase: ``PHASE_…``, which of two events of one attempt counts; 0 before an attempt.
* changed: `CHANGED` if the attempt has updated the content, which outranks `GIVEN`.
* source: ``SOURCE_…``, how well an event knows what was requested.
* time: of the event, in microseconds since the epoch; in an origin key, of the attempt's start if the event says it.

Attempt keys are stored in the column ``run_key``. Keys are made from events as texts, without an object between,
because the recorder makes them for every event.

Rows may be imported from elsewhere, with keys of any form. So a function that reads a key returns None, or False, for
every text that is not exactly such a key, the empty text included, and never raises. Its caller leaves out what only
the key could tell.
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
TOKEN_DIGITS: Final = TIME_DIGITS + NUMBER_DIGITS
MAX_NESTING: Final = 16**NESTING_DIGITS - 1
MAX_RETRIES: Final = 16**RETRIES_DIGITS - 1
"""A larger count is written as the largest that a key has room for."""

NO_TOKEN: Final = "0" * TOKEN_DIGITS
"""The token of an event of no delivery (published, planned, unsent)."""
FIRST, REDELIVERED = "0", "1"
"""Whether the broker has delivered the message before."""
BEFORE_ATTEMPT: Final = f"{FIRST}{NO_TOKEN}0"
"""The delivery and the phase in the order key of an event before an attempt."""
GIVEN, CHANGED = "0", "1"
"""Whether the content is what the task was created with, or what its attempt has made of it."""

# Which of two events of the same retry count says more about where the task is. A message that was planned, then
# not sent, then sent after all; a message received says more than one published; an event of an attempt outranks
# both, so a redelivery takes a finished row back only when its body really starts again.
STAGE: Final = {Kind.PLANNED.value: 0, Kind.UNSENT.value: 1, Kind.PUBLISHED.value: 2, Kind.RECEIVED.value: 3}
STAGE_ATTEMPT: Final = 4

# Which of two events of one attempt counts. The process that ran the body knows better than the worker's main process,
# which only infers: a child that stored its result and was then killed has succeeded. An internal error of Celery's
# tracer comes after whatever the body did (a result backend that is down: celery/app/trace.py, 5.7).
PHASE_STARTED, PHASE_LOST, PHASE_INFERRED, PHASE_SEEN, PHASE_INTERNAL = range(5)
PHASE: Final = {
    Kind.STARTED.value: PHASE_STARTED,
    Kind.NOTED.value: PHASE_STARTED,
    Kind.LOST.value: PHASE_LOST,  # of LOST and FOUND, the later is right
    Kind.FOUND.value: PHASE_LOST,
}

# Which event the columns of `Group.ORIGIN` are taken from, first choice first.
SOURCE_MESSAGE, SOURCE_UNSENT, SOURCE_PLANNED, SOURCE_NAME_ONLY = range(4)
SOURCE: Final = {Kind.PLANNED.value: SOURCE_PLANNED, Kind.UNSENT.value: SOURCE_UNSENT}

_PLANNED, _UNSENT = str(STAGE[Kind.PLANNED]), str(STAGE[Kind.UNSENT])
_MESSAGE: Final = NESTING_DIGITS + RETRIES_DIGITS
"""Characters of nesting and retries, with which an attempt key and an order key begin."""
_RECEIVED: Final = slice(_MESSAGE + 1, _MESSAGE + 1 + TIME_DIGITS)
"""Where an attempt key has the time of its token."""


# -- made from events ----------------------------------------------------------------


def new_token(at: int) -> str:
    """A token for a delivery received at ``at``, microseconds since the epoch: unique, and sorting by time."""
    return f"{at:014x}{next(_numbers) & 0xFFFFFF:06x}"


_numbers = count(int.from_bytes(os.urandom(3), "big"))
"""Two processes begin at different numbers, two deliveries of one process get consecutive ones. A forked child goes on
from its parent's number: it makes tokens for what it runs eagerly, its parent for what it receives."""


def attempt_key(event: Event) -> str:
    """The key of the event's attempt: names it inside its task, and sorts attempts in the order they were meant to
    happen."""
    return (
        f"{min(event.get('nesting', 0), 0xFF):02x}{min(event.get('retries', 0), 0xFFFF):04x}"
        f"{1 if event.get('redelivered') else 0}{event.get('run') or NO_TOKEN}"
    )


def received_at(key: str) -> int:
    """When the delivery of an attempt was received, in microseconds since the epoch. Raises `ValueError` if the event
    that the attempt key was made from had something else in place of a token."""
    return int(key[_RECEIVED], 16)


def order_keys(event: Event, run: str, started: int | None) -> tuple[str, str, str]:
    """The order key of an event, the order key of its attempt's start, and its origin key. ``run`` is its attempt key.
    The second is the first again where the event does not say when the attempt ``started``."""
    message, at = run[:_MESSAGE], f"{event['at']:014x}"
    stage = STAGE.get(event["kind"])
    if stage is None:
        order = f"{message}{STAGE_ATTEMPT}{run[_MESSAGE:]}{_phase(event)}{at}"
    else:
        order = f"{message}{stage}{BEFORE_ATTEMPT}{at}"
    if started is None:
        return order, order, f"{_source(event)}{message}{at}"
    since = f"{started:014x}"
    return order, f"{message}{STAGE_ATTEMPT}{run[_MESSAGE:]}{PHASE_STARTED}{since}", f"{_source(event)}{message}{since}"


def end_key(event: Event) -> str:
    """The end key of an event: which of two says how their attempt ended."""
    return f"{_phase(event)}{event['at']:014x}"


def _phase(event: Event) -> int:
    phase = PHASE.get(event["kind"])
    if phase is not None:
        return phase
    if event.get("internal"):
        return PHASE_INTERNAL
    return PHASE_INFERRED if event.get("inferred") else PHASE_SEEN


def _source(event: Event) -> int:
    """How well an event knows what was requested: smaller is better."""
    if not event.get("asked"):
        return SOURCE_NAME_ONLY
    return SOURCE.get(event["kind"], SOURCE_MESSAGE)


# -- read back -----------------------------------------------------------------------


def _hex(digits: int) -> str:
    return f"([0-9a-f]{{{digits}}})"


_MESSAGE_PARTS: Final = _hex(NESTING_DIGITS) + _hex(RETRIES_DIGITS)
_DELIVERY_PARTS: Final = f"([{FIRST}{REDELIVERED}]){_hex(TOKEN_DIGITS)}"
_ORDER_PARTS: Final = f"{_MESSAGE_PARTS}([0-{STAGE_ATTEMPT}]){_DELIVERY_PARTS}([0-{PHASE_INTERNAL}]){_hex(TIME_DIGITS)}"
_ATTEMPT_KEY: Final = re.compile(_MESSAGE_PARTS + _DELIVERY_PARTS)
_ORDER_KEY: Final = re.compile(_ORDER_PARTS)
_CHANGED_CONTENT_KEY: Final = re.compile(CHANGED + _ORDER_PARTS)
_ORIGIN_KEY_OF_A_STEP: Final = re.compile(f"[{SOURCE_UNSENT}{SOURCE_PLANNED}]{_MESSAGE_PARTS}{_hex(TIME_DIGITS)}")


class AttemptKey(NamedTuple):
    """The parts of an attempt key."""

    nesting: int
    retries: int
    redelivered: bool
    token: str

    @classmethod
    def parse(cls, text: str) -> AttemptKey | None:
        """Read an attempt key; None: the text is something else."""
        match = _ATTEMPT_KEY.fullmatch(text)
        if match is None:
            return None
        nesting, retries, redelivered, token = match.groups()
        return cls(int(nesting, 16), int(retries, 16), redelivered == REDELIVERED, token)


def is_planned(order_key: str) -> bool:
    """Whether the task is only known as a later step of a workflow, not sent yet."""
    return _has_stage(order_key, _PLANNED)


def is_unsent(order_key: str) -> bool:
    """Whether the task is a step of a workflow that is never sent."""
    return _has_stage(order_key, _UNSENT)


def _has_stage(order_key: str, stage: str) -> bool:
    # The digit first: this is called for every member of a workflow, and most have another digit.
    return order_key[_MESSAGE : _MESSAGE + 1] == stage and _ORDER_KEY.fullmatch(order_key) is not None


def happened_at(order_key: str) -> dt.datetime | None:
    """When the event happened that a task's status comes from, in UTC; None: the text is no order key."""
    return time_of(int(order_key[-TIME_DIGITS:], 16)) if _ORDER_KEY.fullmatch(order_key) else None


def is_of_a_step(origin_key: str) -> bool:
    """Whether what was requested is only known from the plan of a workflow, and not from a message."""
    return _ORIGIN_KEY_OF_A_STEP.fullmatch(origin_key) is not None


def is_changed(content_key: str) -> bool:
    """Whether an attempt has updated the content that the task was created with."""
    return _CHANGED_CONTENT_KEY.fullmatch(content_key) is not None
