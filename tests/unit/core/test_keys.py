"""The keys of the fold: their stored form, their order, and how readers handle keys of others."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import celery_asynctask
from celery_asynctask.core import keys
from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import TASK_GROUPS, project
from celery_asynctask.core.keys import (
    NO_TOKEN,
    PHASE,
    PHASE_INFERRED,
    PHASE_INTERNAL,
    PHASE_SEEN,
    SOURCE,
    SOURCE_MESSAGE,
    SOURCE_NAME_ONLY,
    STAGE,
    STAGE_ATTEMPT,
    AttemptKey,
    MessageKey,
    attempt_key,
    end_key,
    happened_at,
    is_blind,
    is_changed,
    is_key,
    is_of_a_step,
    is_of_earlier_execution,
    is_planned,
    is_unsent,
    least_attempt_key,
    new_token,
    received_at,
)
from celery_asynctask.core.time import microseconds, time_of
from tests.histories import HISTORIES, Delivery, event, ms, published

EVENTS = st.fixed_dictionaries(
    {
        "id": st.just("a"),
        "name": st.just("n"),
        "kind": st.sampled_from([kind.value for kind in Kind]),
        "nesting": st.integers(0, 0xFF),
        "retries": st.integers(0, 0xFFFF),
        "redelivered": st.booleans(),
        "run": st.text("0123456789abcdef", min_size=20, max_size=20),
        "at": st.integers(0, 16**14 - 1),
        "inferred": st.booleans(),
        "internal": st.booleans(),
        "asked": st.booleans(),
        "created": st.integers(0, 16**14 - 1),
        "chord": st.booleans(),
        "blind": st.booleans(),
    }
)


def order_key(sample: Event) -> str:
    key: str = project(sample).task["order_key"]
    return key


# -- stored form ---------------------------------------------------------------------


CREATED, RECEIVED = 0x06376C9DC1B000, 0x06376C9DC1CA00
TOKEN = "06376c9dc1ca00a1b2c3"


@pytest.mark.parametrize(
    ("sample", "run", "order", "origin"),
    [
        (
            {
                "kind": "succeeded",
                "at": RECEIVED + 9,
                "started": RECEIVED + 3,
                "asked": True,
                "run": TOKEN,
                "created": CREATED,
            },
            "06376c9dc1b000000000006376c9dc1ca00a1b2c3",
            "06376c9dc1b00000000004006376c9dc1ca00a1b2c3306376c9dc1ca09",
            "f9c893623e4fff10000000006376c9dc1ca03",
        ),
        (
            {"kind": "lost", "at": RECEIVED + 9, "nesting": 1, "retries": 18, "redelivered": True, "run": TOKEN},
            "00000000000000010012106376c9dc1ca00a1b2c3",
            "0000000000000000100124106376c9dc1ca00a1b2c3106376c9dc1ca09",
            "ffffffffffffff13010012006376c9dc1ca09",
        ),
        (
            {"kind": "planned", "at": RECEIVED, "asked": True, "created": CREATED, "chord": True},
            "00000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000006376c9dc1ca00",
            "ffffffffffffff12000000006376c9dc1ca00",
        ),
        (
            {"kind": "unsent", "at": RECEIVED, "asked": True, "created": CREATED, "blind": True},
            "06376c9dc1b000000000000000000000000000000",
            "06376c9dc1b00000000001000000000000000000000006376c9dc1ca00",
            "f9c893623e4fff11000000206376c9dc1ca00",
        ),
        (
            {"kind": "published", "at": RECEIVED, "asked": True, "retries": 2, "created": CREATED},
            "06376c9dc1b000000002000000000000000000000",
            "06376c9dc1b00000000022000000000000000000000006376c9dc1ca00",
            "f9c893623e4fff10000002106376c9dc1ca00",
        ),
        (
            {"kind": "received", "at": RECEIVED, "run": TOKEN, "redelivered": True, "created": CREATED},
            "06376c9dc1b000000000106376c9dc1ca00a1b2c3",
            "06376c9dc1b00000000003000000000000000000000006376c9dc1ca00",
            "f9c893623e4fff13000000006376c9dc1ca00",
        ),
        (
            {"kind": "released", "at": RECEIVED, "created": CREATED},
            "06376c9dc1b000000000000000000000000000000",
            "06376c9dc1b00000000003000000000000000000000006376c9dc1ca00",
            "f9c893623e4fff13000000006376c9dc1ca00",
        ),
        (
            {"kind": "unrecorded", "at": RECEIVED, "created": CREATED},
            "06376c9dc1b000000000000000000000000000000",
            "06376c9dc1b00010000002000000000000000000000006376c9dc1ca00",
            "f9c893623e4fff03000000006376c9dc1ca00",
        ),
    ],
    ids=["succeeded", "lost", "planned", "unsent", "published", "received", "released", "unrecorded"],
)
def test_to_the_letter(sample: Any, run: str, order: str, origin: str) -> None:
    """Rows of an older release are compared with those of a newer one, and of another process."""
    sample = {"id": "a", "name": "n", **sample}
    assert (attempt_key(sample), order_key(sample), project(sample).task["origin_key"]) == (run, order, origin)


def test_which_key_of_a_row_is_which() -> None:
    run = Delivery(2, nesting=1, retries=2, redelivered=True)
    token = f"{ms(2):014x}a1b2c3"
    execution, inverse = f"{ms(0):014x}0", f"{keys.MAX_TIME - ms(0):014x}1"
    start = f"01000241{token}0{ms(3):014x}"
    traced = run.whole(Kind.SUCCEEDED, 9, 3, {"trace": "t1", "span": "s1", "content": {"order": 1}})
    task = project(traced).task
    assert {group.key: task[group.key] for group in TASK_GROUPS} == {
        "origin_key": f"{inverse}00100020{ms(3):014x}",
        "trace_key": f"{execution}{start}",
        "content_key": f"{execution}0{start}",
        "order_key": f"{execution}01000241{token}3{ms(9):014x}",
    }
    noted = project(run.noted(4, {"done": 1})).task
    assert noted["content_key"] == f"{execution}101000241{token}0{ms(4):014x}"
    assert order_key(run.received()) == f"{execution}01000230{NO_TOKEN}0{ms(2):014x}"
    assert order_key(published()) == f"{execution}00000020{NO_TOKEN}0{ms(0):014x}"
    bare = project(run.received()).task
    assert bare["origin_key"] == f"{inverse}30100020{ms(2):014x}"
    assert (bare["trace_key"], bare["content_key"]) == (execution, execution)


@pytest.mark.parametrize(
    ("sample", "phase"),
    [
        (event(Kind.STARTED, 9), 0),
        (event(Kind.NOTED, 9), 0),
        (event(Kind.FOUND, 9, inferred=True), 1),
        (event(Kind.LOST, 9, inferred=True), 1),
        (event(Kind.FAILED, 9, inferred=True), 2),
        (event(Kind.FAILED, 9), 3),
        (event(Kind.FAILED, 9, internal=True, inferred=True), 4),
    ],
    ids=["started", "noted", "found", "lost", "inferred", "seen", "internal"],
)
def test_the_phase_decides(sample: Event, phase: int) -> None:
    assert end_key(sample) == f"{phase}{ms(9):014x}"
    assert order_key(sample) == f"{'0' * 15}0000004{'0' * 21}{phase}{ms(9):014x}"


def test_an_event_of_no_delivery() -> None:
    assert attempt_key(published()) == f"{ms(0):014x}0000000{NO_TOKEN}"


def test_keys_have_one_width_whatever_the_numbers() -> None:
    extremes = [
        event(Kind.SUCCEEDED, 0, retries=10**9, nesting=10**9, redelivered=True, run=f"{ms(0):014x}ffffff"),
        event(Kind.PLANNED, 0),
        event(Kind.STARTED, 0, run=f"{ms(0):014x}000000"),
    ]
    assert {len(order_key(one)) for one in extremes} == {58}
    assert {len(attempt_key(one)) for one in extremes} == {41}
    assert {len(project(one).task["origin_key"]) for one in extremes} == {37}


def test_counts_beyond_the_width_of_a_key_are_the_largest_that_has_it() -> None:
    limit = attempt_key(event(Kind.SUCCEEDED, 0, nesting=keys.MAX_NESTING, retries=keys.MAX_RETRIES))
    assert (keys.MAX_NESTING, keys.MAX_RETRIES) == (0xFF, 0xFFFF)
    assert limit[14:20] == "ffffff"
    assert attempt_key(event(Kind.SUCCEEDED, 0, nesting=0x100, retries=0x10000)) == limit


def test_tokens_sort_by_time_and_differ() -> None:
    tokens = [new_token(at) for at in (1, 2, 1_750_000_000_000_000, 1_750_000_000_000_001)]
    assert tokens == sorted(tokens)
    assert {len(token) for token in tokens} == {20}
    assert len({new_token(5) for _ in range(100)}) == 100
    assert new_token(-5)[:14] == new_token(0)[:14] == "0" * 14


def test_an_attempt_key_holds_the_time_of_delivery() -> None:
    at = 1_750_000_000_000_000
    assert received_at(attempt_key(event(Kind.STARTED, 3, run=new_token(at), redelivered=True))) == at
    assert received_at(attempt_key(event(Kind.STARTED, 3, run=new_token(16**14 - 1), retries=9))) == 16**14 - 1


# -- order ---------------------------------------------------------------------------


def test_attempt_keys_sort_by_nesting_retries_redelivery_and_time() -> None:
    deliveries = [
        Delivery(9),
        Delivery(1, redelivered=True),
        Delivery(5, redelivered=True),
        Delivery(0, retries=1),
        Delivery(0, retries=10),
        Delivery(0, nesting=1),
    ]
    keys = [attempt_key(delivery.received()) for delivery in deliveries]
    assert keys == sorted(keys)


def created(sample: Any) -> int:
    return 0 if sample["chord"] else int(sample["created"])


def attempt_parts(sample: Any) -> tuple[Any, ...]:
    return created(sample), sample["nesting"], sample["retries"], sample["redelivered"], sample["run"]


def order_parts(sample: Any) -> tuple[Any, ...]:
    """What an order key is made of, as numbers."""
    when, nesting, retries, *delivery = attempt_parts(sample)
    execution = when, sample["kind"] == "unrecorded"
    if sample["kind"] in STAGE:
        return *execution, nesting, retries, STAGE[sample["kind"]], False, NO_TOKEN, 0, sample["at"]
    whose = PHASE_INTERNAL if sample["internal"] else PHASE_INFERRED if sample["inferred"] else PHASE_SEEN
    return *execution, nesting, retries, STAGE_ATTEMPT, *delivery, PHASE.get(sample["kind"], whose), sample["at"]


def origin_key(sample: Event) -> str:
    key: str = project(sample).task["origin_key"]
    return key


def origin_parts(sample: Any) -> tuple[Any, ...]:
    source = SOURCE.get(sample["kind"], SOURCE_MESSAGE) if sample["asked"] else SOURCE_NAME_ONLY
    informed = 2 if sample["blind"] else 1 if sample["kind"] == "published" else 0
    newest_first = -created(sample), sample["kind"] != "unrecorded"
    return *newest_first, source, sample["nesting"], sample["retries"], informed, sample["at"]


@pytest.mark.parametrize(
    ("made", "parts"),
    [(attempt_key, attempt_parts), (order_key, order_parts), (origin_key, origin_parts)],
    ids=["run", "order", "origin"],
)
@given(one=EVENTS, other=EVENTS)
def test_keys_compare_as_their_parts_do(made: Any, parts: Any, one: Any, other: Any) -> None:
    assert (made(one) < made(other)) == (parts(one) < parts(other))
    assert (made(one) == made(other)) == (parts(one) == parts(other))


@given(sample=EVENTS)
def test_an_attempt_key_is_parsed_into_its_parts(sample: Any) -> None:
    assert AttemptKey.parse(attempt_key(sample)) == attempt_parts(sample)


# -- read back -----------------------------------------------------------------------


def every_event() -> Iterator[Event]:
    return (sample for name in sorted(HISTORIES) for sample in HISTORIES[name]())


def test_what_is_made_of_events_can_be_read() -> None:
    for sample in every_event():
        task = project(sample).task
        said = (
            0 if sample.get("chord") else sample.get("created", 0),
            sample.get("nesting", 0),
            sample.get("retries", 0),
            sample.get("redelivered", False),
            sample.get("run", NO_TOKEN),
        )
        assert AttemptKey.parse(attempt_key(sample)) == said
        assert happened_at(task["order_key"]) == time_of(sample["at"])
        since = sample["at"] if sample["kind"] == Kind.STARTED else sample.get("started", sample["at"])
        assert int(task["origin_key"][-keys.TIME_DIGITS :], 16) == since


def test_what_keys_say_of_a_task() -> None:
    for sample in every_event():
        task = project(sample).task
        assert is_planned(task["order_key"]) == (sample["kind"] == Kind.PLANNED)
        assert is_unsent(task["order_key"]) == (sample["kind"] == Kind.UNSENT)
        assert is_of_a_step(task["origin_key"]) == (sample["kind"] in (Kind.PLANNED, Kind.UNSENT) and "asked" in sample)
        assert is_changed(task["content_key"]) == ("noted" in sample)


ORDER = order_key(Delivery(2).started(3))
NONE_OF_OURS = [
    "",
    "x",
    "0",
    "é" * 58,
    "-" * 58,
    "0" * 57,
    "0" * 60,
    f"0{'-' * 58}",
    ORDER.upper(),
    f"{ORDER}\n",
    f" {ORDER[1:]}",
    f"{ORDER[:-1]}g",
    f"{ORDER[:-1]}٣",
    f"{ORDER[:14]}2{ORDER[15:]}",
    f"{ORDER[:21]}6{ORDER[22:]}",
    f"{ORDER[:22]}2{ORDER[23:]}",
    f"{ORDER[:43]}5{ORDER[44:]}",
]
ASKED: list[Callable[[str], object]] = [
    AttemptKey.parse,
    MessageKey.parse,
    is_planned,
    is_unsent,
    happened_at,
    is_of_a_step,
    is_changed,
]


@pytest.mark.parametrize("text", NONE_OF_OURS, ids=repr)
def test_a_text_that_is_no_key_is_none(text: str) -> None:
    """As in an imported row: it stops nothing."""
    assert not any(ask(text) for ask in ASKED)


@given(text=st.text() | st.text("0123456789abcdef", max_size=64))
def test_whatever_is_read_is_what_was_written(text: str) -> None:
    run = AttemptKey.parse(text)
    assert run is None or f"{run.created:014x}{run.nesting:02x}{run.retries:04x}{run.redelivered:d}{run.token}" == text
    at = happened_at(text)
    assert at is None or f"{microseconds(at):014x}" == text[-keys.TIME_DIGITS :]
    assert all(isinstance(ask(text), bool) for ask in (is_planned, is_unsent, is_of_a_step, is_changed))


STEP = cast("Event", {"id": "a", "name": "n", "kind": "planned", "at": ms(3), "asked": True})


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (AttemptKey.parse, attempt_key(Delivery(2).started(3))),
        (happened_at, ORDER),
        (MessageKey.parse, ORDER),
        (is_planned, order_key(STEP)),
        (is_unsent, order_key(cast("Event", {**STEP, "kind": "unsent"}))),
        (is_changed, f"{ORDER[:15]}1{ORDER[15:]}"),
        (is_of_a_step, project(STEP).task["origin_key"]),
    ],
)
def test_every_character_of_a_key_counts(ask: Callable[[str], object], text: str) -> None:
    assert ask(text)
    for place in range(len(text)):
        assert not ask(f"{text[:place]}X{text[place + 1 :]}")


@pytest.mark.parametrize("whose", ["", "0", "2", "x"])
def test_content_that_the_attempt_has_not_updated(whose: str) -> None:
    assert not is_changed(f"{ORDER[:15]}{whose}{ORDER[15:]}")


def test_only_steps_and_what_is_not_sent_are_of_a_step() -> None:
    text = project(published()).task["origin_key"]
    assert [source for source in "01234" if is_of_a_step(f"{text[:15]}{source}{text[16:]}")] == ["1", "2"]


def test_an_attempt_of_an_earlier_execution() -> None:
    first, second = Delivery(2), Delivery(101, created=100)
    row = order_key(second.started(102))
    assert is_of_earlier_execution(attempt_key(first.started(3)), row)
    assert not is_of_earlier_execution(attempt_key(second.started(102)), row)
    assert not is_of_earlier_execution(attempt_key(first.started(3)), "")
    assert not is_of_earlier_execution("", row)
    assert not is_of_earlier_execution(attempt_key(second.started(102)), order_key(first.started(3)))
    assert least_attempt_key(row) == row[:14]
    assert least_attempt_key("") == least_attempt_key(f"{row}0") == ""
    assert is_of_earlier_execution(attempt_key(first.started(3)), row) == (
        attempt_key(first.started(3)) < least_attempt_key(row)
    )


def keys_of_rows() -> Iterator[tuple[str, str]]:
    """Columns with a key, and the keys that all events make for them."""
    for sample in every_event():
        partial = project(sample)
        for row in (partial.task, *partial.attempts.values()):
            yield from ((name, row[name]) for name in row if name.endswith("_key") and not name.startswith("c"))
        yield "content_key", partial.task["content_key"]
        yield from (("run_key", run_key) for run_key in partial.attempts)


def test_every_key_that_is_made_is_one() -> None:
    made = set(keys_of_rows())
    assert {column for column, _ in made} == {
        "run_key", "order_key", "trace_key", "content_key", "origin_key", "end_key",
    }  # fmt: skip
    for column, key in made:
        assert is_key(column, key), (column, key)
        assert not any(is_key(column, f"{key[:at]}X{key[at + 1 :]}") for at in range(len(key))), (column, key)
        for other in (f"{key}0", f"0{key}", key[:-1]):
            assert (column, other) in made or not other or not is_key(column, other), (column, other)
    assert {len(key) for column, key in made if column == "order_key"} == {keys.ORDER_DIGITS}


def test_the_origin_of_a_blind_producer() -> None:
    key = origin_key(published(blind=True))
    assert is_blind(key)
    assert not is_blind(origin_key(published()))
    assert not is_blind(f"{key}0")


@given(sample=EVENTS)
def test_which_message_a_task_waits_with(sample: Any) -> None:
    """In its order key, with which it is released."""
    said = MessageKey.parse(order_key(sample))
    assert said == (created(sample), sample["nesting"], sample["retries"], sample["at"])


# -- no other module -----------------------------------------------------------------

TEXTS = {"startswith", "endswith", "partition", "removeprefix", "removesuffix", "split"}


def taken_apart(tree: ast.Module) -> Iterator[int]:
    """Lines that slice a key of the fold, or check its beginning."""
    names = {"run_key", "order_key", "origin_key", "content_key", "trace_key", "end_key"}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Subscript, ast.Attribute)):
            continue
        name = getattr(node.value, "attr", getattr(node.value, "id", None))
        if name in names and (isinstance(node, ast.Subscript) or node.attr in TEXTS):
            yield node.lineno


@pytest.mark.parametrize("code", ["task.origin_key[0]", "order_key[6:7]", "task.content_key.startswith('1')"])
def test_this_test_sees_modules_that_take_a_key_apart(code: str) -> None:
    assert list(taken_apart(ast.parse(code)))


def test_no_other_module_takes_a_key_apart() -> None:
    package = Path(celery_asynctask.__file__).parent
    for path in package.rglob("*.py"):
        if path != Path(keys.__file__):
            assert not list(taken_apart(ast.parse(path.read_text(encoding="utf-8")))), path
