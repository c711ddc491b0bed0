"""`celery_asynctask.auto` records the app that loads it, and says so where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import Project

MADE = 'from celery import Celery\napp = Celery("proj", broker="memory://")\n'
SAID = "celery_asynctask.auto was imported before an app was made, and records nothing of it. Name it in the app's "


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (f"import celery_asynctask.auto\n{MADE}", True),
        (f"{MADE}import celery_asynctask.auto\n", False),
        (f'{MADE}app.conf.imports = ["celery_asynctask.auto"]\napp.loader.import_default_modules()\n', False),
    ],
    ids=["before", "after", "imports"],
)
def test_an_app_that_is_made_later_is_not_recorded_and_the_log_says_so(source: str, says: bool, tmp_path: Path) -> None:
    code = f'{source}print("asynctask_recording" in vars(app))'
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    assert (done.stdout.strip(), SAID in done.stderr) == (str(not says), says), done.stderr


def test_doctor_says_so(tmp_path: Path) -> None:
    ended = Project(tmp_path, f"import celery_asynctask.auto\n{MADE}").run_process("doctor")
    assert "celery_asynctask.auto was imported by another app, or before this one was made." in ended.out
    assert "name celery_asynctask.auto in its imports" in ended.out
