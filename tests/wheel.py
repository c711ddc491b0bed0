"""Tries an installed wheel, outside of a checkout: ``python tests/wheel.py``, with the extras cli and http.

Imports nothing of the tests, so that no checkout comes before what is installed. A project of three lines runs a task,
its recorder stores it, and the commands and the API show it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = """
from celery import Celery
app = Celery("proj", broker="memory://", task_cls="celery_asynctask:RecordedTask")
app.conf.update(asynctask_url="sqlite:///asynctask.db", asynctask_journal_dir="journal")

@app.task(name="proj.work")
def work(number):
    return 1 / number
"""
RUN = "from proj import work; work.apply((1,)); work.apply((0,), throw=False)"
SERVED = """
from celery_asynctask.http import create_app
from proj import app
import celery_asynctask
assert "site-packages" in celery_asynctask.__file__, celery_asynctask.__file__
assert create_app(app, loopback=True).openapi()["info"]
print(celery_asynctask.__version__)
"""


def main() -> None:
    with TemporaryDirectory() as directory:
        (Path(directory) / "proj.py").write_text(PROJECT, encoding="utf-8")

        def python(*arguments: str) -> str:
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            return subprocess.run(
                [sys.executable, *arguments],
                cwd=directory,
                env=environment,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                check=True,
                timeout=60,
            ).stdout

        def asynctask(*arguments: str) -> str:
            return python("-m", "celery", "-A", "proj", "asynctask", *arguments)

        python("-c", RUN)
        asynctask("recorder", "--once")
        rows = [json.loads(line) for line in asynctask("list", "--json").splitlines()]
        assert sorted(row["status"] for row in rows) == ["FAILURE", "SUCCESS"], rows
        assert "ZeroDivisionError" in asynctask("errors"), "errors"
        asynctask("verify")
        print("celery-asynctask", python("-c", SERVED).strip(), "works")


if __name__ == "__main__":
    main()
