"""The guard around every hook: none of our errors reaches the task, and each is logged once and counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import WorkerTerminate

from celery_asynctask import errors
from celery_asynctask.errors import SettingsError, failures, guard, report


@pytest.fixture(autouse=True)
def _no_failures() -> Iterator[None]:
    failures.clear()
    errors._wrong_settings.clear()
    yield
    failures.clear()
    errors._wrong_settings.clear()


@guard
def hook(error: BaseException | None = None, **_: Any) -> str:
    """A hook."""
    if error is not None:
        raise error
    return "done"


def test_a_hook_that_works_is_not_changed() -> None:
    assert hook() == "done"
    assert (hook.__name__, hook.__doc__) == ("hook", "A hook.")
    assert not failures


@pytest.mark.parametrize("error", [ValueError("x"), KeyError(), RecursionError(), MemoryError(), OSError(28, "full")])
def test_what_a_hook_raises_stays_inside(error: Exception) -> None:
    assert hook(error) is None
    assert failures == {f"hook: {type(error).__name__}": 1}


@pytest.mark.parametrize(
    "error", [SoftTimeLimitExceeded(1), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), WorkerTerminate(15)]
)
def test_what_is_meant_for_the_task_or_the_worker_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        hook(error)
    assert not failures


def test_a_wrong_setting_is_logged_once_for_all_hooks(caplog: pytest.LogCaptureFixture) -> None:
    """A web server that sends tasks had a traceback of it for each of them."""
    for where in ("_before", "on_task_init", "_before"):
        report(where, "abc", SettingsError("Unknown setting 'asynctask_urll'."))
    assert failures == {"_before: SettingsError": 2, "on_task_init: SettingsError": 1}
    [record] = caplog.records
    assert record.getMessage() == (
        "celery-asynctask records nothing in this process: Unknown setting 'asynctask_urll'."
    )
    assert record.exc_info is None


def test_each_app_s_wrong_setting_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("urll", "redacts", "urll"):
        report("_before", "abc", SettingsError(f"Unknown setting 'asynctask_{name}'."))
    assert [record.getMessage().rpartition("'asynctask_")[2] for record in caplog.records] == ["urll'.", "redacts'."]


def test_logged_once_a_kind_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        hook(ValueError("first"), task_id="abc")
    hook(KeyError("second"), task_id="def")
    assert failures == {"hook: ValueError": 3, "hook: KeyError": 1}
    messages = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert len(messages) == 2
    name, level, message = messages[0]
    assert (name, level) == ("celery_asynctask", logging.ERROR)
    assert message.startswith("celery-asynctask could not record hook of task abc: ValueError('first').")
    assert "The task itself is not affected" in message
    assert caplog.records[0].exc_info is not None
    assert "def" in messages[1][2]


def test_the_task_s_own_exception_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    @guard
    def breaks() -> None:
        try:
            int("within")
        except ValueError as exc:
            raise OSError("ours") from exc

    try:
        int("hunter2")
    except ValueError:
        breaks()
    for there in ("ours", "within", ", in breaks"):
        assert there in caplog.text
    assert "hunter2" not in caplog.text
    cyclic = ValueError("cyclic")
    cyclic.__cause__ = cyclic
    report("the recorder", None, cyclic)
    assert "cyclic" in caplog.text


def test_an_exception_that_may_tell_a_value_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    def rule() -> None:
        int("hunter2".strip("x"))

    for _ in range(2):
        try:
            rule()
        except ValueError as exc:
            report("a rule", None, exc, quoted=False)
    assert failures == {"a rule: ValueError": 2}
    [record] = caplog.records
    assert record.exc_info is None
    assert f'File "{__file__}", line ' in record.getMessage()
    assert record.getMessage().endswith(", in rule")
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"task_id": "abc"}),
        ((), {"id": "abc"}),
        ((), {"request": SimpleNamespace(id="abc")}),
        ((), {"sender": SimpleNamespace(request=SimpleNamespace(id="abc"))}),
        ((None, SimpleNamespace(id="abc"), 5), {}),
        ((SimpleNamespace(id="abc"), {}), {}),
        ((None, "name", SimpleNamespace(headers={"id": "abc"})), {}),
    ],
)
def test_the_task_is_named(args: Any, kwargs: Any, caplog: pytest.LogCaptureFixture) -> None:
    @guard
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise ValueError

    broken(*args, **kwargs)
    assert "of task abc:" in caplog.text


class Resists:
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


@pytest.mark.parametrize("kwargs", [{}, {"sender": Resists()}, {"request": Resists()}, {"sender": None}])
def test_a_task_that_cannot_be_named(kwargs: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert hook(ValueError(), **kwargs) is None
    assert "of task (unknown):" in caplog.text


def test_report_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    report("the recorder", None, ValueError("x"))
    assert "could not record the recorder of task (unknown)" in caplog.text


@pytest.mark.parametrize("error", [errors.AsyncTaskError, errors.SettingsError, errors.JournalError])
def test_every_error_of_ours_has_one_base_and_says_something(error: type[Exception]) -> None:
    assert issubclass(error, errors.AsyncTaskError)
    assert error.__doc__
