"""``python -m tests.integration.capture.without NAME DIRECTORY``: tasks are sent, run by a worker and recorded, with a
Celery that has renamed NAME (a regular expression) everywhere in its source.

It prints, as JSON: the results of the tasks, their rows, the log, and the problems that `doctor` finds.
"""

from __future__ import annotations

import importlib.machinery
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any


class Renaming(SourceFileLoader):
    """Loads a module whose source has another name in place of the given one."""

    gone = ""

    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_data(self.path).decode()
        changed = re.sub(rf"\b{self.gone}\b", lambda match: f"{match[0].rstrip('_')}_renamed", source)
        return compile(changed, self.path, "exec") if changed != source else super().get_code(fullname)


class Finder:
    """Finds the modules of Celery and billiard, so that they are loaded like this."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in ("celery", "billiard"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec


class Kept(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main(name: str, directory: str) -> dict[str, Any]:
    Renaming.gone = name
    sys.meta_path.insert(0, Finder())
    warnings.simplefilter("ignore")

    import sqlite3

    from celery import Celery

    from celery_asynctask import context, install, uninstall
    from celery_asynctask.operations.doctor import examine
    from celery_asynctask.settings import Settings

    logged = Kept()
    logging.getLogger("celery_asynctask").addHandler(logged)
    app = Celery("without", broker="memory://", backend="cache+memory://")
    app.conf.update(
        asynctask_url=f"sqlite:///{directory}/rows.db",
        asynctask_journal_dir=f"{directory}/journal",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    returned: list[Any] = []

    @app.task(name="add")
    def add(one: int, two: int) -> int:
        returned.append(one + two)
        return one + two

    @app.task(name="last")
    def last() -> None:
        returned.append("last")
        worker.stop()
        raise ValueError("no more")

    install(app)
    with context(customer=7):
        add.delay(1, 2)
        last.delay()
    worker = app.Worker(pool="solo", quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True)
    limit = threading.Timer(60, worker.terminate)
    limit.start()
    worker.start()
    limit.cancel()
    problems = [one.text for one in examine(app, lambda: Settings.from_app(app)) if one.level == "problem"]
    uninstall(app)
    connection = sqlite3.connect(f"{directory}/rows.db")
    rows = connection.execute(
        "SELECT name, status, customer, task_args, result FROM async_task ORDER BY name"
    ).fetchall()
    connection.close()
    return {"returned": returned, "rows": rows, "logged": logged.lines, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2]), default=str))
