"""The keys of the fold: texts of a fixed width that sort as what they stand for. No other module takes one apart.

A group of columns is decided by comparing one key, in Python and in SQL, byte by byte. So every part has a fixed width,
padded with zeros, numbers are in lower-case hex, and what decides first stands first.

======= ============================================================================= ===== =======================
key     parts, each with its width                                                    width purpose
======= ============================================================================= ===== =======================
token   time 14, number 6                                                             20    names a delivery
attempt created 14, nesting 2, retries 4, redelivered 1, token 20                     41    names an attempt of a task
order   execution 15, nesting 2, retries 4, stage 1, redelivered 1, token 20, phase   58    the largest wins: status
        1, time 14
trace   an order key; without a trace only its execution                              58,15 the largest wins
content an execution 15, changed 1, the rest of an order key; without content only    59,15 the largest wins
        the execution
origin  inverse execution 15, source 1, nesting 2, retries 4, informed 1, time 14     37    the smallest wins
end     phase 1, time 14; empty of a start, which says nothing of the end             15, 0 the largest wins
======= ============================================================================= ===== =======================

* created: when the execution was created, by the header of its message, which retries, replacements and redeliveries
  keep. A request that is made later under the same id is another execution; the row is that of the newest, whatever the
  other parts say. Zeros where no header says it.
* execution: created, and `UNRECORDED` if a worker says that its tasks are not recorded, else `RECORDED`. The first
  outranks all that is known of the execution.
* inverse execution: each digit subtracted from the largest, so that the newest execution is the smallest.
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
* source: ``SOURCE_…``, how an event knows what was requested.
* informed: ``INFORMED_…``, how well: who knows the task and has its message knows better than who sent it.
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
EXECUTION_DIGITS: Final = TIME_DIGITS + 1
MAX_TIME: Final = 16**TIME_DIGITS - 1
MAX_NESTING: Final = 16**NESTING_DIGITS - 1
MAX_RETRIES: Final = 16**RETRIES_DIGITS - 1
"""A larger count is written as the largest that a key has room for."""

RECORDED, UNRECORDED = "0", "1"
"""Whether a worker says that tasks of this name are not recorded."""
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
STAGE: Final = {
    Kind.PLANNED.value: 0,
    Kind.UNSENT.value: 1,
    Kind.PUBLISHED.value: 2,
    Kind.RECEIVED.value: 3,
    Kind.RELEASED.value: 3,  # it undoes a receive, and the next receive undoes it
    Kind.UNRECORDED.value: 2,  # by its execution, it outranks all others
}
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

# Which of two events of one message knows better what was requested. A worker has the message as it was sent, and knows
# the task's parameters. A producer has the caller's objects, and may not know the task.
INFORMED_WORKER, INFORMED_PRODUCER, INFORMED_BLIND = range(3)

_PUBLISHED, _UNRECORDED = Kind.PUBLISHED.value, Kind.UNRECORDED.value
_STAGE_PLANNED, _STAGE_UNSENT = str(STAGE[Kind.PLANNED]), str(STAGE[Kind.UNSENT])
ORDER_DIGITS: Final = EXECUTION_DIGITS + NESTING_DIGITS + RETRIES_DIGITS + 1 + 1 + TOKEN_DIGITS + 1 + TIME_DIGITS
_MESSAGE: Final = slice(TIME_DIGITS, TIME_DIGITS + NESTING_DIGITS + RETRIES_DIGITS)
"""Where an attempt key has nesting and retries."""
_STAGE_AT: Final = EXECUTION_DIGITS + NESTING_DIGITS + RETRIES_DIGITS
"""Where an order key has its stage."""
_RECEIVED: Final = slice(_MESSAGE.stop + 1, _MESSAGE.stop + 1 + TIME_DIGITS)
"""Where an attempt key has the time of its token."""


# -- made from events ----------------------------------------------------------------


def new_token(at: int) -> str:
    """A token for a delivery received at ``at``, microseconds since the epoch: unique, and sorting by time."""
    return f"{max(at, 0):014x}{next(_numbers) & 0xFFFFFF:06x}"


_numbers = count(int.from_bytes(os.urandom(3), "big"))
"""Two processes begin at different numbers, two deliveries of one process get consecutive ones. A forked child goes on
from its parent's number: it makes tokens for what it runs eagerly, its parent for what it receives."""


def created_of(event: Event) -> int:
    """When the execution of an event was created, in microseconds since the epoch; 0: the event does not know it."""
    return 0 if event.get("chord") else event.get("created", 0)


def attempt_key(event: Event) -> str:
    """The key of the event's attempt: names it inside its task, and sorts attempts in the order they were meant to
    happen."""
    return (
        f"{created_of(event):014x}{min(event.get('nesting', 0), 0xFF):02x}{min(event.get('retries', 0), 0xFFFF):04x}"
        f"{1 if event.get('redelivered') else 0}{event.get('run') or NO_TOKEN}"
    )


def received_at(key: str) -> int:
    """When the delivery of an attempt was received, in microseconds since the epoch. Raises `ValueError` if the event
    that the attempt key was made from had something else in place of a token."""
    return int(key[_RECEIVED], 16)


class Keys(NamedTuple):
    """The keys of what one event says of its task."""

    order: str
    start: str
    """The order key of its attempt's start; ``order`` where the event does not say when the attempt started."""
    origin: str


def keys_of(event: Event, run: str, started: int | None) -> Keys:
    """The keys of an event. ``run`` is its attempt key, ``started`` when its attempt started, if it says so."""
    kind, message, at = event["kind"], run[_MESSAGE], f"{event['at']:014x}"
    unrecorded = kind == _UNRECORDED
    execution = f"{run[:TIME_DIGITS]}{UNRECORDED if unrecorded else RECORDED}"
    inverse = f"{MAX_TIME - int(run[:TIME_DIGITS], 16):014x}{RECORDED if unrecorded else UNRECORDED}"
    stage = STAGE.get(kind)
    if stage is None:
        order = f"{execution}{message}{STAGE_ATTEMPT}{run[_MESSAGE.stop :]}{_phase(event)}{at}"
    else:
        order = f"{execution}{message}{stage}{BEFORE_ATTEMPT}{at}"
    source = f"{inverse}{_source(event)}{message}{_informed(event)}"
    if started is None:
        return Keys(order, order, f"{source}{at}")
    since = f"{started:014x}"
    start = f"{execution}{message}{STAGE_ATTEMPT}{run[_MESSAGE.stop :]}{PHASE_STARTED}{since}"
    return Keys(order, start, f"{source}{since}")


def execution_of(order_key: str) -> str:
    """The execution of a row, by its order key: the row of the larger one is right."""
    return order_key[:EXECUTION_DIGITS]


def trace_key(order_key: str, has_trace: bool) -> str:
    """The trace key of a row with this order key of its attempt's start."""
    return order_key if has_trace else execution_of(order_key)


def content_key(order_key: str, content: str | None) -> str:
    """The content key of a row: ``content`` is `GIVEN`, with the order key of the attempt's start, or `CHANGED`, with
    that of the event; None: there is no content."""
    execution = execution_of(order_key)
    return execution if content is None else f"{execution}{content}{order_key[EXECUTION_DIGITS:]}"


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


def _informed(event: Event) -> int:
    if event.get("blind"):
        return INFORMED_BLIND
    return INFORMED_PRODUCER if event["kind"] == _PUBLISHED else INFORMED_WORKER


# -- read back -----------------------------------------------------------------------


def _hex(digits: int) -> str:
    return f"([0-9a-f]{{{digits}}})"


_CREATED_PART: Final = _hex(TIME_DIGITS)
_EXECUTION_PARTS: Final = f"{_CREATED_PART}[{RECORDED}{UNRECORDED}]"
_MESSAGE_PARTS: Final = _hex(NESTING_DIGITS) + _hex(RETRIES_DIGITS)
_DELIVERY_PARTS: Final = f"([{FIRST}{REDELIVERED}]){_hex(TOKEN_DIGITS)}"
_EVENT_PARTS: Final = f"{_MESSAGE_PARTS}([0-{STAGE_ATTEMPT}]){_DELIVERY_PARTS}([0-{PHASE_INTERNAL}]){_hex(TIME_DIGITS)}"
_ATTEMPT_KEY: Final = re.compile(_CREATED_PART + _MESSAGE_PARTS + _DELIVERY_PARTS)
_ORDER_KEY: Final = re.compile(_EXECUTION_PARTS + _EVENT_PARTS)
_CHANGED_CONTENT_KEY: Final = re.compile(_EXECUTION_PARTS + CHANGED + _EVENT_PARTS)
_ORIGIN_KEY_OF_A_STEP: Final = re.compile(
    f"{_EXECUTION_PARTS}[{SOURCE_UNSENT}{SOURCE_PLANNED}]{_MESSAGE_PARTS}[0-{INFORMED_BLIND}]{_hex(TIME_DIGITS)}"
)

_BLIND_ORIGIN_KEY: Final = re.compile(
    f"{_EXECUTION_PARTS}{SOURCE_MESSAGE}{_MESSAGE_PARTS}{INFORMED_BLIND}{_hex(TIME_DIGITS)}"
)


class AttemptKey(NamedTuple):
    """The parts of an attempt key."""

    created: int
    """In microseconds since the epoch; 0: not known."""
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
        created, nesting, retries, redelivered, token = match.groups()
        return cls(int(created, 16), int(nesting, 16), int(retries, 16), redelivered == REDELIVERED, token)


class MessageKey(NamedTuple):
    """The parts of an order key that say which message the task waits with, and since when."""

    created: int
    """In microseconds since the epoch; 0: not known."""
    nesting: int
    retries: int
    at: int
    """In microseconds since the epoch."""

    @classmethod
    def parse(cls, order_key: str) -> MessageKey | None:
        """Read an order key; None: the text is something else."""
        match = _ORDER_KEY.fullmatch(order_key)
        if match is None:
            return None
        created, nesting, retries, *_, at = match.groups()
        return cls(int(created, 16), int(nesting, 16), int(retries, 16), int(at, 16))


def least_attempt_key(order_key: str) -> str:
    """A text that no attempt key of the row's execution is less than, and those of earlier ones are; empty: the text is
    no order key, so that all attempts count."""
    return order_key[:TIME_DIGITS] if _ORDER_KEY.fullmatch(order_key) else ""


def is_of_earlier_execution(run_key: str, order_key: str) -> bool:
    """Whether an attempt belongs to an earlier execution under the same id than the task's row."""
    # The parts first: this is called for every attempt of a workflow, and most are of the newest execution.
    is_earlier = run_key[:TIME_DIGITS] < order_key[:TIME_DIGITS]
    return is_earlier and _ATTEMPT_KEY.fullmatch(run_key) is not None and _ORDER_KEY.fullmatch(order_key) is not None


def is_planned(order_key: str) -> bool:
    """Whether the task is only known as a later step of a workflow, not sent yet."""
    return _has_stage(order_key, _STAGE_PLANNED)


def is_unsent(order_key: str) -> bool:
    """Whether the task is a step of a workflow that is never sent."""
    return _has_stage(order_key, _STAGE_UNSENT)


def _has_stage(order_key: str, stage: str) -> bool:
    # The digit first: this is called for every member of a workflow, and most have another digit.
    return order_key[_STAGE_AT : _STAGE_AT + 1] == stage and _ORDER_KEY.fullmatch(order_key) is not None


def happened_at(order_key: str) -> dt.datetime | None:
    """When the event happened that a task's status comes from, in UTC; None: the text is no order key."""
    return time_of(int(order_key[-TIME_DIGITS:], 16)) if _ORDER_KEY.fullmatch(order_key) else None


def is_of_a_step(origin_key: str) -> bool:
    """Whether what was requested is only known from the plan of a workflow, and not from a message."""
    return _ORIGIN_KEY_OF_A_STEP.fullmatch(origin_key) is not None


def is_blind(origin_key: str) -> bool:
    """Whether what was requested is only known from a producer that does not know the task, and so not its args and
    kwargs."""
    return _BLIND_ORIGIN_KEY.fullmatch(origin_key) is not None


def is_changed(content_key: str) -> bool:
    """Whether an attempt has updated the content that the task was created with."""
    return _CHANGED_CONTENT_KEY.fullmatch(content_key) is not None


_EXECUTION: Final = f"[0-9a-f]{{{TIME_DIGITS}}}[{RECORDED}{UNRECORDED}]"
_FORMS: Final = {
    "run_key": _ATTEMPT_KEY,
    "order_key": _ORDER_KEY,
    "trace_key": re.compile(f"({_EXECUTION}({_EVENT_PARTS})?)?"),
    "content_key": re.compile(f"({_EXECUTION}([{GIVEN}{CHANGED}]{_EVENT_PARTS})?)?"),
    "origin_key": re.compile(
        f"{_EXECUTION}[{SOURCE_MESSAGE}-{SOURCE_NAME_ONLY}]{_MESSAGE_PARTS}[{INFORMED_WORKER}-{INFORMED_BLIND}]"
        f"{_hex(TIME_DIGITS)}"
    ),
    "end_key": re.compile(f"([{PHASE_STARTED}-{PHASE_INTERNAL}]{_hex(TIME_DIGITS)})?"),
}
"""The form of each column with a key."""


def is_key(column: str, text: str) -> bool:
    """Whether a text is a key as this module makes it for a column."""
    return _FORMS[column].fullmatch(text) is not None
