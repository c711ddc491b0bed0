"""What the fields of a message mean."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.native_delayed_delivery import calculate_routing_key

from celery_asynctask.capture.messages import is_hidden, name_text, queue_of, recorded_id, task_id_text
from celery_asynctask.core.limits import MAX_TASK_ID

# -- task ids ------------------------------------------------------------------------


class Text(str):
    def __str__(self) -> str:
        raise AssertionError("no code of the user's runs")


ID = uuid.UUID("0b9a6a2c-7c1e-4a53-9a43-0e6d0d1b3b11")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("order-17", "order-17"),
        ("", ""),
        ("Bestellung-ä-😀", "Bestellung-ä-😀"),
        ("x" * 255, "x" * 255),
        (Text("mine"), "mine"),
        (ID, str(ID)),
        (17, "17"),
        (True, "1"),
        (1.5, "1.5"),
    ],
)
def test_an_id_is_recorded_as_the_broker_carries_it(given: Any, text: str) -> None:
    assert task_id_text(given) == text
    assert type(task_id_text(given)) is str


@pytest.mark.parametrize("given", [None, b"x", [1], ("a",), {}, object()])
def test_what_is_no_id(given: Any) -> None:
    assert task_id_text(given) is None
    with pytest.raises(TypeError, match="use a text, a UUID or a number"):
        recorded_id(given)


@given(st.text(max_size=600), st.text(max_size=600))
def test_every_text_has_a_place_of_its_own(one: str, other: str) -> None:
    """However long it is, and whatever characters it has."""
    texts = [task_id_text(one), task_id_text(other)]
    assert (texts[0] == texts[1]) == (one == other)
    for text in texts:
        assert text is not None
        assert len(text) <= MAX_TASK_ID
        assert "\0" not in text
        assert text.encode() is not None


@pytest.mark.parametrize("given", ["x" * 256, "a\0b", "\ud800"])
def test_an_id_that_is_not_whole_says_so(given: str) -> None:
    text = task_id_text(given)
    assert text is not None
    assert text[-33] == "…"
    assert task_id_text(text) == text


# -- queues --------------------------------------------------------------------------


@pytest.mark.parametrize("countdown", [1, 3, 600, 2**27])
@pytest.mark.parametrize("queue", ["celery", "1.0.mail", "0"])
def test_the_queue_of_a_message_that_rabbitmq_delays(queue: str, countdown: int) -> None:
    assert queue_of(calculate_routing_key(countdown, queue)) == queue


@pytest.mark.parametrize("routing_key", ["celery", "0.1.celery", "1.1", f"{'0.' * 27}celery", f"{'2.' * 28}celery"])
def test_any_other_routing_key_stays(routing_key: str) -> None:
    assert queue_of(routing_key) == routing_key


@pytest.mark.parametrize("routing_key", [None, ""])
def test_no_queue(routing_key: Any) -> None:
    assert queue_of(routing_key) is None


@pytest.mark.parametrize(
    ("name", "text"), [("shop.charge", "shop.charge"), ("a" * 300, "a" * 255), ("a\0b", "a\ufffdb"), ("\ud800", "?")]
)
def test_a_name_that_every_database_takes(name: str, text: str) -> None:
    assert name_text(name) == text


# -- arguments that the caller hides -------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4).map(tuple))
def test_celery_s_own_representation_hides_nothing(args: tuple[Any, ...]) -> None:
    assert not is_hidden(saferepr(args, 1024), json.loads(json.dumps(args)))


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=4))
def test_nor_that_of_keyword_arguments(kwargs: dict[str, Any]) -> None:
    assert not is_hidden(saferepr(kwargs, 1024), json.loads(json.dumps(kwargs)))


def test_nor_one_that_is_cut() -> None:
    args = ["a" * 2000, "b"]
    assert not is_hidden(saferepr(tuple(args), 1024), args)


@pytest.mark.parametrize("shown", ["***", "('bob', '***')", "(<hidden>, 2)", "('bob', 'xxxxxx')"])
def test_a_representation_of_the_caller_s_own_hides(shown: str) -> None:
    assert is_hidden(shown, ["bob", "hunter2"])


@pytest.mark.parametrize("shown", [None, "", 7, b"('bob', '***')"])
def test_without_a_representation_nothing_is_hidden(shown: Any) -> None:
    assert not is_hidden(shown, ["bob", "hunter2"])


def test_keyword_arguments_that_are_hidden() -> None:
    assert is_hidden("{'b': '<hidden>'}", {"b": "secret"})
    assert is_hidden("{'user': {'name': 'bob', 'pin': '*'}}", {"user": {"name": "bob", "pin": "1234"}})
    assert not is_hidden("{}", {})
