"""Reasons that are stored as text come back unchanged, and every code has its sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_asynctask.core.reasons import Code, NotSent, Reason, first_reason
from celery_asynctask.present.reasons import reason

NAMES = st.text(st.characters(exclude_characters="\n[]"), min_size=1, max_size=40).map(str.strip).filter(bool)
FIELDS = {"status": "STARTED", "name": "args", "detail": "a {brace}", "kind": "list", "times": 2, "last": "id-2"}


@given(NAMES, st.text("abc-0123456789", min_size=1), st.text(min_size=1))
def test_why_a_step_was_not_sent(name: str, task_id: str, why: str) -> None:
    not_sent = NotSent(name, task_id, why)
    assert NotSent.parse(str(not_sent)) == not_sent


@pytest.mark.parametrize("text", ["", "Not sent", "boom", "Not sent: upstream task  [x] ended with "])
def test_what_says_nothing_of_a_step(text: str) -> None:
    assert NotSent.parse(text) is None
    assert first_reason(text) == text


def test_the_first_reason_of_a_chain() -> None:
    second = NotSent("shop.ship", "id-2", str(NotSent("shop.charge", "id-1", "no stock")))
    assert first_reason(str(second)) == "no stock"
    assert NotSent.parse(str(second)) == second
    assert str(NotSent("a", "b", "")) == "Not sent: upstream task a [b] ended with no message"


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_sentence(code: Code) -> None:
    sentence = reason(
        Reason(code, {**FIELDS, "queue": "slow", "tasks": 1000, "since": "then"}, "again"), {"again": "so"}
    )
    assert sentence.endswith(" (so)")
    assert sentence[:1].islower()
    assert "{" not in sentence.replace("{brace}", "")


def test_a_remedy_that_nobody_has() -> None:
    assert reason(Reason(Code.JUST_SENT, remedy="again")) == "it was rerun a moment ago"
