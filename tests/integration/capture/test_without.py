"""A Celery that has renamed one of the private names: the task runs, everything is recorded except what needs the name,
and the log (once) and `doctor` say so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import celery
import pytest

from tests.pace import patience

SOUND = [["add", "SUCCESS", 7, "[1,2]", "3"], ["last", "FAILURE", 7, "[]", None]]
NOT_SENT = [["add", "SUCCESS", None, "[1,2]", "3"], ["last", "FAILURE", None, "[]", None]]
"""The event of the worker itself; the customer would have been in its message."""
CASES = {
    "send_task_message": "amqp.send_task_message",
    "on_task_init": "loader.on_task_init",
    "request_dict": "Request.request_dict",
}
MORE = {
    "get_current_task": "",
    "_tasks": "",
    "amqp_cls": "app.amqp_cls",
    "build_tracer": "celery.app.trace.build_tracer",
    "_task_stack": "celery._state._task_stack.stack",
    "configured": "app.configured",
    "_context": "Request._context",
    "time_start": "Request.time_start",
    "acknowledged": "Request.acknowledged",
    "_already_revoked": "Request._already_revoked",
    "_success_was_stored": "Request._success_was_stored" if celery.VERSION[:2] >= (5, 7) else "",
    "on_decode_error(?!=)": "Consumer.on_decode_error",
    "_parent_pid": "billiard.process.current_process()._parent_pid",
    "_get_exec_options": "Task._get_exec_options",
    "__header__": "Task.__header__",
}
"""Empty: something public stands in for it, or this Celery never had it, and nothing is logged."""


def without(name: str, directory: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.capture.without", name, str(directory)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=patience(90),
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


@pytest.mark.parametrize(
    ("name", "shown"),
    [*CASES.items(), *(pytest.param(name, shown, marks=pytest.mark.slow) for name, shown in MORE.items())],
)
def test_a_name_that_is_gone_costs_its_own_fact_only(name: str, shown: str, tmp_path: Path) -> None:
    outcome = without(name, tmp_path)
    assert outcome["returned"] == [3, "last"]
    assert outcome["rows"] == (NOT_SENT if name in ("send_task_message", "amqp_cls") else SOUND)
    problems = [one for one in outcome["problems"] if " has no " in one and "database" not in one]
    if not shown:
        assert (outcome["logged"], problems) == ([], [])
        return
    [line], [problem] = outcome["logged"], problems
    assert f" has no {shown}: " in problem
    assert line.startswith(f"celery-asynctask: {problem}")
