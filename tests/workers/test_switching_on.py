"""Each way to switch recording on, as in a project: an application of its own, a worker, a producer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection
from sqlalchemy import create_engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask
from tests import services
from tests.pace import patience
from tests.waiting import wait_for
from tests.workers.harness import START_SECONDS, ready, stop

pytestmark = pytest.mark.broker

TASKS = """
    from celery import Task, shared_task

    @app.task
    def add(x, y):
        return x + y

    @shared_task
    def shared(x):
        return x
"""


class Project:
    """A directory with the application ``proj``, and the rows in its SQLite file."""

    def __init__(self, directory: Path, source: str, **environment: str) -> None:
        self.directory = directory
        self.queue = f"switch-{uuid.uuid4().hex[:12]}"
        source = textwrap.dedent(source).replace("BROKER", services.redis_url(12)).replace("QUEUE", self.queue)
        (directory / "proj.py").write_text(source, encoding="utf-8")
        self.environment = {**os.environ, "XDG_STATE_HOME": str(directory / "state"), **environment}
        self.engine = create_engine(f"sqlite:///{directory / 'asynctask.db'}")

    @contextmanager
    def worker(self) -> Iterator[None]:
        log = self.directory / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "proj", "worker", "-c1", "-l", "INFO", "--without-mingle"],
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: ready(process, log), START_SECONDS, f"the worker to be ready; its log is {log}")
            yield
        finally:
            stop(process)

    def python(self, code: str) -> str:
        """Run ``code`` in a producer process of the project; returns its output."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=patience(60),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def rows(self) -> dict[str, str]:
        """Statuses by task name."""
        try:
            with Session(self.engine) as session:
                return {row.name: str(row.status) for row in session.scalars(select(AsyncTask))}
        except OperationalError:
            return {}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def make(source: str, **environment: str) -> Project:
        made.append(Project(tmp_path, source, **environment))
        return made[-1]

    yield make
    for one in made:
        one.engine.dispose()
        with Connection(services.redis_url(12)) as connection:
            services.forget(connection, one.queue)


CONF = """
    app.conf.update(broker_url="BROKER", result_backend="BROKER", task_default_queue="QUEUE",
                    broker_connection_retry_on_startup=True, asynctask_flush_interval=0.1)
"""

SEND_ALL = """
    import proj
    sent = [task.delay(*args) for task, args in proj.to_send]
    for one in sent:
        one.get()
"""

WHOLE_APP = {
    "task_cls": 'from celery import Celery\napp = Celery("proj", task_cls="celery_asynctask:RecordedTask")\n',
    "install": "from celery import Celery\nimport celery_asynctask\n"
    'app = Celery("proj")\ncelery_asynctask.install(app)\n',
}


@pytest.mark.parametrize("way", ["task_cls", "install"])
def test_whole_app(project: Callable[..., Project], way: str) -> None:
    """One line, and everything in the app is recorded: its tasks, shared ones, Celery's own, other base classes."""
    source = (
        WHOLE_APP[way]
        + textwrap.dedent(CONF)
        + textwrap.dedent(TASKS)
        + textwrap.dedent("""
        @app.task(base=Task)
        def plain(x):
            return x

        to_send = [(add, (1, 2)), (shared, (1,)), (plain, (1,)), (add.starmap([(1, 2)]), ())]
        """)
    )
    proj = project(source)
    with proj.worker():
        proj.python(SEND_ALL)
        expected = {"proj.add", "proj.shared", "proj.plain", "celery.starmap"}
        wait_for(lambda: proj.rows() == dict.fromkeys(expected, "SUCCESS"), 20, f"{expected}; rows: {proj.rows()}")


def test_single_tasks(project: Callable[..., Project]) -> None:
    """With RecordedTask as the base of one task, only that task is recorded."""
    source = (
        'from celery import Celery\nfrom celery_asynctask import RecordedTask\napp = Celery("proj")\n'
        + textwrap.dedent(CONF)
        + textwrap.dedent(TASKS)
        + textwrap.dedent("""
        @app.task(base=RecordedTask)
        def recorded(x):
            return x

        to_send = [(add, (1, 2)), (shared, (1,)), (recorded, (1,))]
        """)
    )
    proj = project(source)
    with proj.worker():
        proj.python(SEND_ALL)
        wait_for(lambda: proj.rows() == {"proj.recorded": "SUCCESS"}, 20, f"one row; rows: {proj.rows()}")


def test_configuration_alone(project: Callable[..., Project]) -> None:
    """The module in ``imports``: tasks that the worker runs are recorded, without a change of the code."""
    source = (
        'from celery import Celery\napp = Celery("proj")\n'
        + textwrap.dedent(CONF)
        + 'app.conf.imports = ["celery_asynctask.auto"]\n'
        + textwrap.dedent(TASKS)
        + "to_send = [(add, (1, 2)), (shared, (1,))]\n"
    )
    proj = project(source)
    with proj.worker():
        proj.python(SEND_ALL)
        expected = dict.fromkeys(("proj.add", "proj.shared"), "SUCCESS")
        wait_for(lambda: proj.rows() == expected, 20, f"{expected}; rows: {proj.rows()}")


def test_django(project: Callable[..., Project]) -> None:
    """A real settings module with keys in the CELERY_ namespace; the tasks still have delay_on_commit."""
    source = """
        import os
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite")
        from celery import Celery
        app = Celery("proj", task_cls="celery_asynctask.django:RecordedDjangoTask")
        app.config_from_object("django.conf:settings", namespace="CELERY")
    """
    proj = project(textwrap.dedent(source) + textwrap.dedent(TASKS))
    (proj.directory / "mysite.py").write_text(
        textwrap.dedent(f"""
        SECRET_KEY = "only for this test"
        USE_TZ = True
        DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}}}
        CELERY_BROKER_URL = CELERY_RESULT_BACKEND = "{services.redis_url(12)}"
        CELERY_TASK_DEFAULT_QUEUE = "{proj.queue}"
        CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
        CELERY_ASYNCTASK_FLUSH_INTERVAL = 0.1
        CELERY_ASYNCTASK_EXCLUDE = ["proj.shared"]
        """),
        encoding="utf-8",
    )
    with proj.worker():
        printed = proj.python("""
            import proj, django
            django.setup()
            from django.db import connection, transaction
            connection.ensure_connection()
            with transaction.atomic():
                proj.add.delay_on_commit(1, 2)
                proj.shared.delay_on_commit(3)
                transaction.on_commit(lambda: print("committed"))
            from celery_asynctask.capture.task import RecordedTask
            from celery.contrib.django.task import DjangoTask
            assert isinstance(proj.add, RecordedTask) and isinstance(proj.add, DjangoTask)
        """)
        assert printed == "committed"
        wait_for(lambda: proj.rows() == {"proj.add": "SUCCESS"}, 20, f"the row; rows: {proj.rows()}")


def test_disabled(project: Callable[..., Project]) -> None:
    """Switched off: no rows, no files."""
    source = (
        WHOLE_APP["task_cls"]
        + textwrap.dedent(CONF)
        + "app.conf.asynctask_enabled = False\n"
        + textwrap.dedent(TASKS)
        + "to_send = [(add, (1, 2))]\n"
    )
    proj = project(source)
    with proj.worker():
        proj.python(SEND_ALL)
    assert not (proj.directory / "state").exists()
    assert not (proj.directory / "asynctask.db").exists()


@pytest.mark.parametrize("way", ["task_cls", "install"])
def test_wrong_setting_stops_the_worker(project: Callable[..., Project], way: str) -> None:
    source = WHOLE_APP[way] + textwrap.dedent(CONF) + "app.conf.asynctask_bach_size = 3\n" + textwrap.dedent(TASKS)
    proj = project(source)
    with pytest.raises(AssertionError, match="asynctask_bach_size") as caught, proj.worker():
        pass
    assert "asynctask_batch_size" in str(caught.value)


def test_uninstall(project: Callable[..., Project]) -> None:
    """Recorded events are stored, and the app then publishes as if nothing had been installed."""
    source = WHOLE_APP["install"] + textwrap.dedent(CONF) + textwrap.dedent(TASKS)
    proj = project(source)
    proj.python(f"""
        import proj, celery_asynctask
        from celery import signals
        from celery_asynctask.capture import instrumentation
        instrumentation.EXIT_SECONDS = {patience(20)}  # else a slow machine leaves them in the journal
        proj.add.delay(1, 2)
        celery_asynctask.uninstall(proj.app)
        proj.shared.delay(1)
        for signal in (signals.task_prerun, signals.task_success, signals.task_received):
            assert not signal.receivers, signal.receivers
        assert "send_task_message" not in proj.app.amqp.__dict__ or (
            type(proj.app.amqp.send_task_message).__name__ == "function")
        celery_asynctask.install(proj.app)
    """)
    assert proj.rows() == {"proj.add": "PENDING"}
    with proj.worker():
        wait_for(lambda: proj.rows().get("proj.add") == "SUCCESS", 20, "the row to go on")
