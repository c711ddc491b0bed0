"""The execution and the customer that a message goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from celery_asynctask import install, uninstall
from celery_asynctask.capture import publish, step_events
from celery_asynctask.capture.continuation import CHORD_UNLOCK, Before, continued, note_steps
from celery_asynctask.capture.headers import stamp
from celery_asynctask.capture.instrumentation import Instrumentation, instrumentation_of
from celery_asynctask.core.canvas import Step
from tests.histories import ms

OURS = {**stamp("x", ms(0), ms(1)), "customer": 7}
SENDER = Context({"id": "x", "asynctask": OURS})


@pytest.fixture
def instrumentation(tmp_path: Path) -> Iterator[Instrumentation]:
    app = Celery("continuation", broker="memory://", set_as_current=False)
    app.conf.update(asynctask_url="sqlite://", asynctask_journal_dir=tmp_path)
    install(app)
    found = instrumentation_of(app)
    assert found is not None
    yield found
    uninstall(app)


def sent(task_id: str, given: Any = None, *, again: bool = False, chain: Any = None, request: Any = SENDER) -> Any:
    headers = {"id": task_id}
    message = SimpleNamespace(headers=headers, body=((), {}, {"chain": chain}))
    return continued(request, "a.task", "a.task", task_id, given, message, again=again)


def signature(task_id: str) -> dict[str, Any]:
    return {"task": "a.task", "args": [], "kwargs": {}, "options": {"task_id": task_id}}


def test_what_goes_on_with_which_execution() -> None:
    assert sent("y") is None
    assert sent("x") is None, "asked for again under the same id"
    assert sent("x", again=True) == Before(OURS, is_same=True, keeps_customer=True)
    assert sent("y", chain=[signature("x")]) == Before(OURS, keeps_customer=True)
    assert sent("y", request=None, chain=[signature("x")]) is None


def test_a_step_that_the_request_does_not_list_any_more() -> None:
    """Celery takes it off before it sends it, up to 5.6."""
    request = Context({"id": "x", "asynctask": OURS})
    note_steps(request, [Step("y", "a.task", [], {}, "x", False)])
    assert sent("y", request=request) == Before(OURS)


@pytest.mark.parametrize("given", [{"created_by": 5}, {"customer": 9}, {}])
def test_a_caller_s_fields_on_a_retry_leave_its_execution(instrumentation: Instrumentation, given: Any) -> None:
    goes_on = sent("x", given, again=True)
    assert goes_on.header == OURS
    assert publish.fields(instrumentation, "x", SENDER, given, goes_on) == {"customer": 7, **given, **{"customer": 7}}


def test_a_retry_that_a_worker_sends_for_its_child() -> None:
    assert sent("x", OURS, again=True, request=None) == Before(OURS, is_same=True, keeps_customer=True)
    assert sent("x", {"customer": 9}, again=True, request=None) is None


def test_a_body_whose_unlocking_an_earlier_release_has_sent() -> None:
    message = SimpleNamespace(headers={"id": "y"}, body=((), {}, {}))
    for header in ({"body": ms(3)}, {}):
        request = Context({"id": "unlock", "asynctask": header})
        goes_on = continued(request, CHORD_UNLOCK, "a.task", "y", None, message, again=False)
        assert goes_on is not None
        assert (goes_on.header["body"] == ms(3)) == bool(header)


def test_later_steps_are_for_the_customer_of_the_step_before_them(instrumentation: Instrumentation) -> None:
    event: Any = {"id": "a", "name": "a.task", "kind": "published", "at": ms(0), "created": ms(0), "customer": 4}
    own = {"customer": "acme"}
    steps = [
        Step("b", "a.task", [], {}, "a", False),
        Step("c", "a.task", [], {}, "b", False, header=own),
        Step("d", "a.task", [], {}, "c", False),
        Step("body", "a.task", [], {}, None, False, joins=True),
    ]
    planned = step_events.planned(instrumentation, event, steps)
    assert [one.get("customer", one.get("customer_key")) for one in planned] == [4, "acme", "acme", "acme"]
    assert [one.get("chord", False) for one in planned] == [False, False, False, True]
