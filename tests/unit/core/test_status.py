"""The statuses cover all of Celery's, and which of them end a task or count as failed."""

from __future__ import annotations

from celery import states

from celery_asynctask.core.status import FAILED, SHOWN, TERMINAL, AsyncTaskStatus


def test_statuses_are_celery_s_and_four_more() -> None:
    names = {status.value for status in AsyncTaskStatus}
    assert names == set(states.ALL_STATES) | {"IGNORED", "REJECTED", "LOST", "UNRECORDED"}
    assert all(status.name == status.value == str(status) for status in AsyncTaskStatus)


def test_terminal_statuses_are_celery_s_ready_ones_and_three_more() -> None:
    assert {status.value for status in TERMINAL} == set(states.READY_STATES) | {"IGNORED", "REJECTED", "LOST"}


def test_failed_statuses_are_terminal() -> None:
    assert [status.value for status in FAILED] == ["FAILURE", "LOST", "REJECTED"]
    assert set(FAILED) < TERMINAL


def test_a_task_that_is_not_to_be_recorded_is_not_shown() -> None:
    assert set(SHOWN) == set(AsyncTaskStatus) - {AsyncTaskStatus.UNRECORDED}
    assert AsyncTaskStatus.UNRECORDED not in TERMINAL
