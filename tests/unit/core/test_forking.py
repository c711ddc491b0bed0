"""What notices a fork that nobody tells of."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from celery_asynctask.core import forking
from tests.pace import patience


class Counted:
    """Counts how often it has started over."""

    def __init__(self) -> None:
        self.times = 0
        forking.reset_in_children(self)

    def after_fork_in_child(self) -> None:
        self.times += 1


def in_unhooked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look like a child of a fork without hooks: of a process with another id."""
    monkeypatch.setattr(forking, "_pid", os.getpid() + 1)


def test_the_same_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    forking.notice_fork()
    assert counted.times == 0
    in_unhooked_child(monkeypatch)
    forking.notice_fork()
    forking.notice_fork()
    assert counted.times == 1


def test_threads_that_notice_it_at_once_wait_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only one of them does it: the second would take away what the first has written since."""
    counted, begun, go = Counted(), threading.Event(), threading.Event()

    class Slow(Counted):
        def after_fork_in_child(self) -> None:
            super().after_fork_in_child()
            begun.set()
            assert go.wait(patience(20))

    slow = Slow()
    in_unhooked_child(monkeypatch)
    seen: list[tuple[int, int]] = []

    def notice() -> None:
        forking.notice_fork()
        seen.append((counted.times, slow.times))

    threads = [threading.Thread(target=notice) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(patience(20))
    assert seen == []
    go.set()
    for thread in threads:
        thread.join(patience(20))
    assert seen == [(1, 1)] * 3


def test_a_child_does_not_wait_for_what_a_thread_of_its_parent_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with forking.locking():
            held.set()
            assert go.wait(patience(20))

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(patience(20))
    in_unhooked_child(monkeypatch)
    entered = threading.Event()

    def enter() -> None:
        with forking.locking():
            entered.set()

    other = threading.Thread(target=enter)
    other.start()
    try:
        assert entered.wait(patience(5))
    finally:
        go.set()
        holder.join()
        other.join()


def test_a_fork_past_python() -> None:
    counted = Counted()
    heard, tell = os.pipe()
    fork = ctypes.PyDLL(None).fork
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # a child whose parent was asked for the interpreter's lock stands still
    child = fork()
    if child == 0:
        signal.alarm(60)
        before = counted.times
        forking.notice_fork()
        os.write(tell, b"%d%d" % (before, counted.times))
        os._exit(0)
    sys.setswitchinterval(interval)
    os.close(tell)
    with os.fdopen(heard, "rb") as file:
        assert file.read() == b"01"
    assert os.waitpid(child, 0)[1] == 0
    assert counted.times == 0


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (SimpleNamespace(worker_id=lambda: 0, mule_id=lambda: 0), True),
        (SimpleNamespace(worker_id=lambda: 2, mule_id=lambda: 0), False),
        (SimpleNamespace(worker_id=lambda: 0, mule_id=lambda: 1), False),
        (SimpleNamespace(), False),
        (None, False),
    ],
)
def test_uwsgi_forks_after_it_has_loaded(monkeypatch: pytest.MonkeyPatch, module: Any, expected: bool) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    assert forking.forks_later() is expected
