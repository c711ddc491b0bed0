"""The steps behind a task: those that we read from a message are those that Celery really sends later.

Workflows of real signatures are sent on a memory broker. Each message is caught, its steps are kept, and its task is
run in this process as a worker would run it, until nothing is left to send.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import celery
import pytest
from celery import Celery, _state, chain, chord, group
from celery.app.trace import build_tracer
from celery.canvas import Signature

from celery_asynctask.core.canvas import Step, steps


class Sent(NamedTuple):
    """A message that Celery really sent."""

    id: str
    name: str
    args: Any
    kwargs: Any
    root: str
    parent: str | None
    chord: Any
    steps: list[Step]
    direct: bool
    """Sent by the client, not by a task."""


class Line:
    """An app whose messages are caught and run here, one after the other."""

    def __init__(self) -> None:
        self.app = Celery(f"line-{uuid.uuid4()}", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.sent: list[Sent] = []
        self._waiting: deque[tuple[str, dict[str, Any], Any]] = deque()
        self._running = False
        self.app.amqp.__dict__["send_task_message"] = self._catch
        self.add, self.total, self.fail, self.same = (
            self.app.task(name=function.__name__, shared=False)(function) for function in (add, total, fail, same)
        )

    def _catch(self, producer: Any, name: str, message: Any, **options: Any) -> None:
        headers, (args, kwargs, embed) = message.headers, message.body
        travels = json.loads(json.dumps(embed))
        carried = steps(headers["id"], travels["chain"], travels["chord"], travels["callbacks"])
        before = steps(headers["id"], embed["chain"], embed["chord"], embed["callbacks"])
        assert json.dumps(carried) == json.dumps(before), "signatures say the same before they travel"
        self.sent.append(
            Sent(
                headers["id"],
                name,
                args,
                kwargs,
                headers["root_id"],
                headers["parent_id"],
                travels["chord"],
                carried,
                direct=not self._running,
            )
        )
        self._waiting.append((name, dict(headers), json.loads(json.dumps(message.body))))

    def run(self, signature: Signature, **options: Any) -> None:
        """Send the workflow and work until nothing is left."""
        signature.apply_async(**options)
        self._running = True
        while self._waiting:
            name, headers, (args, kwargs, embed) = self._waiting.popleft()
            task = self.app.tasks[name]
            request = {**headers, **embed, "args": args, "kwargs": kwargs, "is_eager": False}
            build_tracer(name, task, app=self.app)(headers["id"], args, kwargs, request)
        self._running = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the app the current one, as in a worker: groups find their tasks there. Close it at the end."""
        before = _state._tls.current_app
        self.app.set_current()
        try:
            yield
        finally:
            _state._set_current_app(before)
            self.app.close()


def add(x: int, y: int = 0) -> int:
    return x + y


def total(numbers: list[int]) -> int:
    return sum(numbers)


def fail(*_: Any) -> None:
    raise ValueError("boom")


def same(value: Any) -> Any:
    return value


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    with made.current():
        yield made


WORKFLOWS: dict[str, Callable[[Line], Signature]] = {
    "chain": lambda line: chain(line.add.s(1, 1), line.add.s(2), line.add.s(3), line.add.s(y=4)),
    "group": lambda line: group(line.add.s(1, 1), line.add.s(2, 2)),
    "chord": lambda line: chord([line.add.s(1, 1), line.add.s(2, 2)], line.total.s()),
    "chord, then a chain": lambda line: chain(
        group(line.add.s(1, 1), line.add.s(2, 2)), line.total.s(), line.add.s(5), line.add.s(6)
    ),
    "chain, chord, chain": lambda line: chain(
        line.add.s(1, 1),
        line.add.s(2),
        group(line.add.s(3), line.add.s(4)),
        line.total.s(),
        line.add.s(5),
        line.add.s(6),
    ),
    "chord of chains": lambda line: chord(
        [chain(line.add.s(1, 1), line.add.s(2)), chain(line.add.s(3, 3), line.add.s(4), line.add.s(5))], line.total.s()
    ),
    "chord of a chord": lambda line: chord(
        [chord([line.add.s(1, 1), line.add.s(2, 2)], line.total.s()), line.add.s(3, 3)], line.total.s()
    ),
    "chain that ends in a group": lambda line: chain(line.add.s(1, 1), group(line.add.s(2), line.add.s(3))),
    "group of chains": lambda line: group(
        chain(line.add.s(1, 1), line.add.s(2)), chain(line.add.s(3, 3), line.add.s(4))
    ),
    "chord whose body is a chain": lambda line: chord(
        [line.add.s(1, 1), line.add.s(2, 2)], chain(line.total.s(), line.add.s(1), line.add.s(2))
    ),
    "chord whose body is a chord": lambda line: chord(
        [line.add.s(1, 1), line.add.s(2, 2)], chord([line.same.s(), line.same.s()], line.same.s())
    ),
    "chord whose body is a group": lambda line: chord(
        [line.add.s(1, 1), line.add.s(2, 2)], group(line.total.s(), line.total.s())
    ),
    "chord after chord": lambda line: chain(
        group(line.add.s(1, 1), line.add.s(2, 2)),
        line.total.s(),
        group(line.add.s(3), line.add.s(4)),
        line.total.s(),
    ),
    "group, then group": lambda line: chain(
        group(line.add.s(1, 1), line.add.s(2, 2)), group(line.total.s(), line.total.s()), line.total.s()
    ),
    "a chord of its own in a chain": lambda line: chain(
        chord([line.add.s(1, 1), line.add.s(2, 2)], line.total.s()), line.add.s(5), line.add.s(6)
    ),
    "a chord of its own behind a task": lambda line: chain(
        line.add.s(1, 1), chord([line.add.s(3), line.add.s(4)], line.total.s()), line.add.s(5), line.add.s(6)
    ),
    "chords of their own in a row": lambda line: chain(
        chord([line.add.s(1, 1), line.add.s(2, 2)], line.total.s()),
        chord([line.add.s(3), line.add.s(4)], line.total.s()),
        line.add.s(5),
    ),
    "a chord of its own with a chain as its body": lambda line: chain(
        chord([line.add.s(1, 1), line.add.s(2, 2)], chain(line.total.s(), line.add.s(1))), line.add.s(5)
    ),
    "a chord with a callback": lambda line: _linked(
        chord([line.add.s(1, 1), line.add.s(2, 2)], line.total.s()), line.add.s(9).set(task_id=str(uuid.uuid4()))
    ),
    "one group member": lambda line: chain(line.add.s(1, 1), group(line.add.s(2)), line.add.s(3)),
    "immutable": lambda line: chain(line.add.si(1, 1), line.add.si(2, 2), line.add.si(3, 3)),
    "chain in chain": lambda line: chain(line.add.s(1, 1), chain(line.add.s(2), line.add.s(3)), line.add.s(4)),
    "callback with an id": lambda line: _linked(line.add.s(1, 1), line.add.s(9).set(task_id=str(uuid.uuid4()))),
    "callback in a chain": lambda line: chain(
        line.add.s(1, 1), _linked(line.add.s(2), line.add.s(9).set(task_id=str(uuid.uuid4()))), line.add.s(3)
    ),
}

BODY_AFTER_HEADER = celery.VERSION >= (5, 7)
"""Earlier, the first header task of a chain carried the chord's body, which is then announced before the others, and
without its sender."""


def _linked(signature: Signature, callback: Signature) -> Signature:
    signature.link(callback)
    return signature


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_steps_of_a_message_are_what_is_sent(line: Line, name: str) -> None:
    line.run(WORKFLOWS[name](line))
    sent = {one.id: one for one in line.sent}
    assert len(sent) == len(line.sent)
    announced: dict[str, list[Step]] = {}
    for one in line.sent:
        if not one.direct:
            assert one.id in announced, f"{one.name} {one.args} was sent and not announced by a message before it"
        for step in one.steps:
            announced.setdefault(step.id, []).append(step)
    later = {one.id for one in line.sent if not one.direct}
    assert announced.keys() == later
    first = {step.id for one in line.sent if one.direct for step in one.steps}
    assert first == later, "the first messages carry the whole workflow"
    for task_id, announcements in announced.items():
        one = sent[task_id]
        assert {step.name for step in announcements} == {one.name}
        assert {step.parent for step in announcements} <= {one.parent, None}, f"{one.name} {one.args}"
        for step in announcements:
            assert list(one.args)[-len(step.args) :] == list(step.args) if step.args else True
            assert step.kwargs.items() <= one.kwargs.items()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_sender_of_a_step_has_announced_itself(line: Line, name: str) -> None:
    """The task that sends a step had announced itself as the parent, unless it was the last one of a chord's header."""
    line.run(WORKFLOWS[name](line))
    sent = {one.id: one for one in line.sent}
    for one in line.sent:
        if one.direct:
            continue
        sender = sent[one.parent or ""]
        [step] = [step for step in sender.steps if step.id == one.id]
        after_chord = steps(sender.id, None, sender.chord, None)
        known = [None] if one.id in {step.id for step in after_chord} else [sender.id]
        assert step.parent in (known if BODY_AFTER_HEADER else [None, *known])


def test_parents_in_a_chain_with_a_chord(line: Line) -> None:
    line.run(WORKFLOWS["chain, chord, chain"](line))
    first, second, left, right, body, fifth, sixth = line.sent
    parents = [first.id, second.id, second.id, None, body.id, fifth.id]
    parents_by_id = {step.id: step.parent for step in first.steps}
    ids = [one.id for one in (second, left, right, body, fifth, sixth)]
    assert parents_by_id == dict(zip(ids, parents, strict=True))
    assert list(parents_by_id) == ids or not BODY_AFTER_HEADER


def test_roots_are_known_but_after_a_chord_of_roots(line: Line) -> None:
    line.run(WORKFLOWS["chain, chord, chain"](line))
    first = line.sent[0]
    assert {one.root for one in line.sent} == {first.id}
    assert not any(step.after_chord for step in first.steps)
    line.sent.clear()
    line.run(WORKFLOWS["chord, then a chain"](line))
    header = [one for one in line.sent if one.direct]
    assert all(step.after_chord for one in header for step in one.steps)
    assert {one.root for one in line.sent if not one.direct} <= {one.id for one in header}


def test_what_is_never_sent_was_announced(line: Line) -> None:
    line.run(chain(line.add.s(1, 1), line.fail.s(), line.add.s(2), group(line.add.s(3), line.add.s(4)), line.total.s()))
    assert [one.name for one in line.sent] == ["add", "fail"]
    announced = [(step.name, step.args) for step in line.sent[1].steps]
    expected = [("add", [2]), ("add", [3]), ("add", [4]), ("total", [])]
    assert (announced if BODY_AFTER_HEADER else sorted(announced)) == expected


def test_a_chain_in_a_header_is_followed_by_the_body(line: Line) -> None:
    """It may fail: then only its tasks report the steps that are not sent."""
    line.run(chord([chain(line.fail.s(), line.add.s(2))], line.total.s()))
    [first] = line.sent
    assert sorted(step.name for step in first.steps) == ["add", "total"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_race_sends_and_what_follows_it_joins(line: Line, name: str) -> None:
    """A step joins where it, or one that is sent before it, is sent by whichever header task is the last."""
    line.run(WORKFLOWS[name](line))
    for one in line.sent:
        joining: set[str | None] = {None}
        for step in sorted(one.steps, key=lambda step: step.joins):
            if step.joins:
                joining.add(step.id)
        assert all(step.joins == (step.parent in joining) for step in one.steps), one


def test_the_body_behind_a_chain_in_a_header_joins(line: Line) -> None:
    line.run(chord([chain(line.add.s(1, 1), line.add.s(2)), line.add.s(3, 3)], line.total.s()))
    first = line.sent[0]
    assert {step.name: step.joins for step in first.steps} == {"add": False, "total": True}


def test_each_step_is_listed_once_and_the_task_itself_never() -> None:
    same: dict[str, Any] = {"task": "add", "args": [], "kwargs": {}, "options": {"task_id": "a"}, "subtask_type": None}
    other = {**same, "options": {"task_id": "b"}}
    assert [step.id for step in steps("a", [other, same], None, [other, same])] == ["b"]


def test_in_the_order_in_which_they_are_sent() -> None:
    def signature(task_id: str) -> dict[str, Any]:
        return {"task": "add", "args": [task_id], "kwargs": {}, "options": {"task_id": task_id}}

    assert steps("a", [signature("c"), signature("b")], None, None) == [
        Step("b", "add", ["b"], {}, "a", after_chord=False),
        Step("c", "add", ["c"], {}, "b", after_chord=False),
    ]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        0,
        "text",
        b"bytes",
        [None],
        ["text"],
        [{}],
        [{"task": 1, "options": {"task_id": "b"}}],
        [{"task": "add", "options": {"task_id": 1}}],
        [{"task": "add"}],
        [{"task": "add", "options": None, "kwargs": None}],
        [{"subtask_type": "chain"}],
        [{"subtask_type": "chain", "kwargs": {"tasks": []}}],
        [{"subtask_type": "group", "kwargs": {"tasks": "text"}}],
        [{"subtask_type": "chord", "kwargs": {"header": None, "body": None}}],
        [{"subtask_type": "chord", "kwargs": {"header": {"kwargs": None}, "body": "text"}}],
        [{"subtask_type": [], "options": []}],
        [{"kwargs": "text", "subtask_type": "chain"}],
        [{"options": "text", "task": "add"}],
    ],
)
def test_what_is_no_signature_is_no_step(odd: Any) -> None:
    assert steps("a", odd, None, None) == []
    assert steps("a", None, odd if not isinstance(odd, list) else odd[0], None) == []
    assert steps("a", None, None, odd) == []


def test_steps_that_are_nested_too_deeply_are_left_out_and_no_others() -> None:
    deep: Any = {"task": "deep", "options": {"task_id": "deep"}}
    for _ in range(2000):
        deep = {"subtask_type": "chain", "kwargs": {"tasks": [deep]}}
    first = {"task": "first", "options": {"task_id": "first", "replaced_task_nesting": 10**30}}
    [step] = steps("x", [deep, first], None, None)
    assert (step.id, step.nesting) == ("first", 2**31 - 1)
