"""A wrong setting: a worker refuses to start, a process that sends tasks logs it once, and its tasks are sent."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_asynctask import install, uninstall
from celery_asynctask.errors import SettingsError, failures
from celery_asynctask.operations.doctor import Level, examine
from celery_asynctask.settings import Settings
from tests.pace import patience

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"asynctask_url": "postgres://u:hunter2@h/d"}, "Write postgresql+psycopg:// in place of postgres://."),
    ({"asynctask_url": "postgresql+asyncpg://u:hunter2@h/d"}, "asyncpg is a driver for asyncio"),
    ({"asynctask_url": "mysql+nosuch://u:hunter2@h/d"}, "SQLAlchemy knows no driver 'nosuch' for mysql."),
    ({"asynctask_url": "default"}, "is not an SQLAlchemy URL"),
    ({"asynctask_url": "sqlite:///x.db\n"}, "such as line breaks."),
    ({"asynctask_engine_options": {"execution_options": {"schema_translate_map": {}}}}, "Take schema_translate_map"),
]


@pytest.fixture(params=WRONG, ids=lambda wrong: str(wrong[1]))
def wrong(request: pytest.FixtureRequest) -> Iterator[tuple[Celery, str]]:
    """An app whose configuration was read before any of its tasks is bound, and the sentence about it."""
    settings, sentence = request.param
    app = Celery("wrong", broker="memory://", task_cls="celery_asynctask:RecordedTask", set_as_current=False)
    app.conf.update(settings)
    assert app.conf.broker_url
    failures.clear()
    yield app, sentence
    failures.clear()
    uninstall(app)
    app.close()


def test_tasks_are_sent_and_one_line_says_it(wrong: tuple[Celery, str], caplog: pytest.LogCaptureFixture) -> None:
    """A task is bound when it is first sent."""
    app, sentence = wrong

    @app.task(name="shop.charge", shared=False)  # type: ignore[untyped-decorator]
    def charge() -> None: ...

    with caplog.at_level(logging.WARNING, "celery_asynctask"):
        for _ in range(3):
            assert charge.delay().id
    [line] = [one for one in caplog.records if one.name.startswith("celery_asynctask")]
    assert sentence in line.getMessage()
    assert line.exc_info is None
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("command", [("worker", "-P", "solo"), ("beat", "-s", "schedule")], ids=lambda one: one[0])
@pytest.mark.parametrize("source", ["", "@app.task\ndef charge(): ...\n", "app.conf.broker_url\napp.finalize()\n"])
def test_a_worker_and_beat_refuse_to_start(command: tuple[str, ...], source: str, tmp_path: Path) -> None:
    """Whenever their tasks are bound; and with one line."""
    made = 'from celery import Celery\napp = Celery("proj", task_cls="celery_asynctask:RecordedTask")\n'
    wrong = 'app.conf.update(broker_url="memory://", asynctask_url="postgres://u:hunter2@h/d")\n'
    (tmp_path / "proj.py").write_text(made + wrong + source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", *command],
        cwd=tmp_path,
        env={**os.environ, "C_FORCE_ROOT": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=patience(60),
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("Write postgresql+psycopg:// in place of postgres://.")
    assert "hunter2" not in done.stdout + done.stderr


def test_a_worker_refuses_to_start_and_doctor_says_the_same(wrong: tuple[Celery, str]) -> None:
    app, sentence = wrong
    app.finalize()
    with pytest.raises(SettingsError) as refused:
        app.loader.import_default_modules()
    assert sentence in str(refused.value)
    found = list(examine(app, lambda: Settings.from_app(app)))
    assert [one.text for one in found if one.level is Level.PROBLEM] == [str(refused.value)]
    uninstall(app)
    with pytest.raises(SettingsError) as installed:
        install(app)
    assert sentence in str(installed.value)
