"""Apps come and go, as one for each test of a test suite does: nothing is left of them in the process, and everything
in the record."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import OperationalError

from celery_asynctask import install, uninstall
from celery_asynctask.capture.instrumentation import Instrumentation, close_all, instrumentation_of
from celery_asynctask.journal import Directory, spare
from celery_asynctask.queries.completeness import completeness
from celery_asynctask.queries.reader import Reader
from celery_asynctask.recorder.drain import Drain
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask, AsyncTaskSource
from tests.integration.commands import SECONDS
from tests.pace import patience
from tests.processes import at_once
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

hooks = sys.modules["celery_asynctask.capture.install"]
"""The module; in its package, a function has the name."""
MANY = 60
MULTI_THREADED = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_receivers() -> Iterator[None]:
    """They are disconnected when the last app is uninstalled, not when it is closed."""
    yield
    install(Celery("last", broker="memory://", set_as_current=False))
    for app in list(hooks._installed):
        uninstall(app)


def make(path: Path, **settings: Any) -> Celery:
    """An app that records into the directory, and has run nothing yet."""
    app = Celery("passing", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, asynctask_url=url_of(path), asynctask_journal_dir=path / "journal")
    app.conf.update(settings)
    install(app)

    @app.task(name="shop.charge", shared=False)  # type: ignore[untyped-decorator]
    def charge() -> None: ...

    return app


def run(app: Celery) -> None:
    """One event: an end, which carries its start."""
    app.tasks["shop.charge"].delay()


def url_of(path: Path) -> str:
    return f"sqlite:///{path / 'rows.db'}"


def instrumentation(app: Celery) -> Instrumentation:
    found = instrumentation_of(app)
    assert found is not None
    return found


def stored(path: Path) -> tuple[int, int, int]:
    """The number of tasks that have ended, of processes, and of their events."""
    engine = create_engine(url_of(path))
    try:
        with engine.connect() as connection:
            ended = select(func.count()).select_from(AsyncTask).where(AsyncTask.completed_at.is_not(None))
            written = select(func.count(), func.coalesce(func.sum(AsyncTaskSource.stored), 0))
            return (connection.scalar(ended) or 0, *connection.execute(written).one())
    except OperationalError:  # no tables yet
        return 0, 0, 0
    finally:
        engine.dispose()


def is_complete(path: Path) -> bool:
    reader = Reader(url_of(path))
    try:
        ledger = completeness(reader, None).ledger
    finally:
        reader.close()
    return bool(ledger.complete) and not list((path / "journal").glob("*.events"))


def recorders() -> int:
    return sum(thread.name == "celery-asynctask-recorder" for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@contextmanager
def nothing_left(path: Path) -> Iterator[None]:
    """No thread and no descriptor more than before; what is loaded only once is loaded before."""
    run(app := make(path))
    app.close()
    threads, files = threading.active_count(), descriptors()  # of which those of that app may end later
    yield

    def is_given_back() -> bool:
        gc.collect()
        return threading.active_count() <= threads and descriptors() <= files

    wait_for(is_given_back, SECONDS, "all to be given back")


def collected() -> int:
    gc.collect()
    return 0


def living(apps: list[weakref.ref[Celery]]) -> int:
    gc.collect()
    return sum(one() is not None for one in apps)


def test_many_that_are_closed(tmp_path: Path) -> None:
    apps = []
    with nothing_left(tmp_path):
        for number in range(MANY):
            app = make(tmp_path)
            run(app)
            app.close()
            apps.append(weakref.ref(app))
            assert recorders() == 0
            if number % 50 == 0:
                assert stored(tmp_path)[0] == number + 2, "it is stored when close() returns"
        del app
        assert living(apps) == 0
    assert stored(tmp_path)[::2] == (MANY + 1, MANY + 1)
    assert is_complete(tmp_path)


def test_many_that_nobody_closes(tmp_path: Path) -> None:
    apps = []
    with nothing_left(tmp_path):
        for number in range(MANY):
            app = make(tmp_path)
            run(app)
            apps.append(weakref.ref(app))
            assert recorders() <= 2, "one that works, and one that waits for its end"
            if number % 50 == 0:
                del app
                assert living(apps) == 0
        app = None
        assert living(apps) == 0
    assert stored(tmp_path)[::2] == (MANY + 1, MANY + 1)
    assert is_complete(tmp_path)


def test_one_that_its_own_settings_lead_to(tmp_path: Path) -> None:
    """The recorder has only the settings that it needs: a function of the user's may hold the app."""
    app = make(tmp_path, asynctask_flush_interval=0.05)
    app.conf.asynctask_context = lambda app=app: {"customer": len(app.main)}
    app.conf.asynctask_redact_rule = lambda path, value, app=app: app is None
    run(app)
    gone = weakref.ref(app)
    del app
    assert living([gone]) == 0
    wait_for(lambda: recorders() == 0, SECONDS, "the recorder to end")
    assert stored(tmp_path) == (1, 1, 1)


@pytest.mark.parametrize("closed", [True, False])
def test_each_with_a_store_of_its_own(tmp_path: Path, closed: bool) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    apps = []
    with nothing_left(tmp_path):
        for path in paths:
            path.mkdir()
            app = make(path, asynctask_flush_interval=0.1)
            run(app)
            if closed:
                app.close()
            apps.append(weakref.ref(app))
        del app
        assert living(apps) == 0
    for path in paths:
        assert stored(path) == (1, 1, 1)
        assert is_complete(path)


def test_two_at_once_share_a_recorder_and_a_segment(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    for _ in range(10):
        run(first)
        run(second)
    assert recorders() == 1
    assert instrumentation(first).journal is instrumentation(second).journal
    assert len(list((tmp_path / "journal").glob("*.events"))) == 1
    first.close()
    assert stored(tmp_path) == (20, 1, 20), "it is stored when close() returns"
    assert recorders() == 1
    run(second)
    second.close()
    second.close()
    assert recorders() == 0
    assert stored(tmp_path) == (21, 1, 21)
    assert is_complete(tmp_path)


def test_one_that_is_collected_leaves_the_other_its_recorder(tmp_path: Path) -> None:
    first, second = (make(tmp_path, asynctask_flush_interval=0.05) for _ in range(2))
    run(first)
    run(second)
    gone = weakref.ref(first)
    del first
    assert living([gone]) == 0
    run(second)
    wait_for(lambda: stored(tmp_path) == (3, 1, 3), SECONDS, "all to be stored")
    assert recorders() == 1
    second.close()
    assert recorders() == 0


def test_one_that_sends_after_it_is_closed(tmp_path: Path) -> None:
    """It starts again."""
    app = make(tmp_path)
    for count in (1, 2, 3):
        run(app)
        assert recorders() == 1
        app.close()
        assert (recorders(), stored(tmp_path)) == (0, (count, 1, count))
    assert is_complete(tmp_path)


def test_one_that_is_closed_and_one_that_comes_later(tmp_path: Path) -> None:
    """The first goes on, too; each has its own place in the journal."""
    first = make(tmp_path)
    run(first)
    first.close()
    second = make(tmp_path)
    run(second)
    run(first)
    assert instrumentation(first).journal is not instrumentation(second).journal
    first.close()
    second.close()
    assert (recorders(), stored(tmp_path)) == (0, (3, 2, 3))
    assert is_complete(tmp_path)


def test_one_that_is_closed_before_it_records(tmp_path: Path) -> None:
    app = make(tmp_path)
    app.close()
    assert not (tmp_path / "journal").exists()
    assert recorders() == 0


def test_with_closes_it(tmp_path: Path) -> None:
    with make(tmp_path) as app:
        run(app)
    assert (recorders(), stored(tmp_path)) == (0, (1, 1, 1))


class Last(Celery):  # type: ignore[misc]
    """Does something when it is closed."""

    def close(self) -> None:
        run(self)
        super().close()
        raise ZeroDivisionError


def test_what_its_own_close_sends_is_stored_and_what_it_raises_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "Celery", Last)
    app = make(tmp_path)
    with pytest.raises(ZeroDivisionError):
        app.close()
    assert (recorders(), stored(tmp_path)) == (0, (1, 1, 1))


def test_uninstall_leaves_close_as_it_was(tmp_path: Path) -> None:
    app = make(tmp_path)
    uninstall(app)
    assert "close" not in app.__dict__
    app.__dict__["close"] = theirs = app.close
    install(app)
    assert app.__dict__["close"] is not theirs
    uninstall(app)
    assert app.__dict__["close"] is theirs


@MULTI_THREADED
def test_a_forked_child_starts_over(tmp_path: Path) -> None:
    """It has what the parent's apps have written to, but none of it is its own."""
    first, second = make(tmp_path), make(tmp_path)
    run(first)
    run(second)

    def child(_: int) -> list[int]:
        seen = [recorders()]
        run(first)
        seen.append(recorders())
        first.close()
        seen.append(recorders())
        return seen

    assert at_once(3, child) == [[0, 1, 0]] * 3
    run(first)
    first.close()
    second.close()
    assert stored(tmp_path) == (6, 4, 6)
    assert is_complete(tmp_path)


@pytest.fixture(params=["second place", "memory"])
def nowhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where events go that have no directory."""
    (tmp_path / "journal").touch()
    if request.param == "memory":
        monkeypatch.setattr(spare, "spare_of", lambda *_: None)
    return str(request.param)


@pytest.mark.parametrize("closed", [True, False])
def test_without_a_directory_it_is_stored(tmp_path: Path, nowhere: str, closed: bool) -> None:
    apps = []
    with nothing_left(tmp_path):
        for _ in range(10):
            app = make(tmp_path)
            run(app)
            if closed:
                app.close()
            apps.append(weakref.ref(app))
        del app
        assert living(apps) == 0
    assert stored(tmp_path)[::2] == (11, 22 if nowhere == "memory" else 11), "without a page, a start is an event"


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("nowhere", ["memory"], indirect=True)
@pytest.mark.usefixtures("nowhere")
def test_without_a_directory_and_a_database_it_is_counted(
    tmp_path: Path, closed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(tmp_path, asynctask_url="postgresql+psycopg://u@127.0.0.1:9/d", asynctask_flush_interval=0.05)
    run(app)
    journal = instrumentation(app).journal
    if closed:
        app.close()
    del app
    wait_for(lambda: collected() == recorders(), SECONDS, "the recorder to end")
    assert journal.dropped == {"unusable directory": 2}
    assert "drops 2 events of this process" in caplog.text
    assert journal.take() == []


def test_threads_that_make_and_close_them_at_once(tmp_path: Path) -> None:
    """Everything is stored once, and nothing ends what another still uses."""
    threads, turns, interval = 4, 8, sys.getswitchinterval()
    failed: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for turn in range(turns):
                app = make(tmp_path, task_always_eager=False)
                app.send_task("sent")  # eager tasks in several threads confuse Celery's state
                app.close()
                app.send_task("sent")
                if turn % 2:
                    app.close()
        except BaseException as exc:  # noqa: BLE001 - raised below
            failed.append(exc)

    sys.setswitchinterval(1e-5)
    try:
        coming = [threading.Thread(target=come_and_go) for _ in range(threads)]
        for one in coming:
            one.start()
        for one in coming:
            one.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
    wait_for(lambda: collected() == recorders(), SECONDS, "the last recorder to end")
    run(last := make(tmp_path))
    last.close()  # one that ends while another's is elected leaves its segment to the next
    assert stored(tmp_path)[2] == 2 * threads * turns + 1
    assert is_complete(tmp_path)


def test_many_that_are_closed_while_the_database_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not pile up threads: one works, and at most one waits for it."""
    go, batch = threading.Event(), Drain.batch

    def hanging(drain: Drain, **options: Any) -> int:
        assert go.wait(patience(SECONDS))
        return batch(drain, **options)

    monkeypatch.setattr(Drain, "batch", hanging)
    monkeypatch.setattr("celery_asynctask.capture.instrumentation.EXIT_SECONDS", 0.01)
    try:
        for _ in range(20):
            run(app := make(tmp_path))
            app.close()
            assert recorders() <= 2
    finally:
        go.set()
    wait_for(lambda: recorders() == 0, SECONDS, "the recorders to end")
    assert stored(tmp_path)[::2] == (20, 20)


def test_what_is_done_before_a_recorder_s_work_is_done_for_all(tmp_path: Path) -> None:
    """Two workers in one process look after their deliveries."""
    apps = [make(tmp_path, asynctask_flush_interval=0.02) for _ in range(2)]
    seen: set[int] = set()
    for number, app in enumerate(apps):
        instrumentation(app).before_work = lambda number=number: seen.add(number)
        run(app)
    wait_for(lambda: seen == {0, 1}, SECONDS, "both to be called")
    apps[0].close()
    seen.clear()
    wait_for(lambda: seen, SECONDS, "the other to be called")
    run(apps[1])
    apps[1].close()
    assert seen == {1}


class Closing:
    """An instrumentation whose close takes as long as it may, by a clock of its own."""

    is_started = True

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.outlet = self

    def leave(self) -> Callable[[float], object]:
        return self.wait

    def wait(self, seconds: float) -> None:
        self.clock[0] += seconds

    def abandon(self) -> None: ...


def test_the_end_of_a_process_waits_for_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5.0]
    users = [Closing(clock) for _ in range(3)]
    module = "celery_asynctask.capture.instrumentation"
    monkeypatch.setattr(f"{module}.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(f"{module}.EXIT_SECONDS", 2.0)
    outlet = type("Outlet", (), {"users": lambda _: users})()
    monkeypatch.setattr(f"{module}.outlets", lambda: [outlet])
    close_all()
    assert clock == [7.0]


def test_the_directory_s_descriptors_are_given_back(tmp_path: Path) -> None:
    """Another process may become its recorder at once."""
    app = make(tmp_path)
    run(app)
    wait_for(lambda: instrumentation(app).outlet.recorder.is_elected, SECONDS, "the election")
    app.close()
    handle = Directory(tmp_path / "journal", Settings(url=url_of(tmp_path)).store_id).elect()
    assert handle is not None
    os.close(handle)


SUITE = """
import os, threading, weakref, gc
import pytest
from celery_asynctask.capture import instrumentation

apps = []
instrumentation.EXIT_SECONDS = {seconds}

@pytest.fixture(scope="session")
def celery_config():
    return {settings!r}

@pytest.fixture(scope="session")
def celery_parameters():
    return {{"task_cls": "celery_asynctask:RecordedTask"}}

@pytest.mark.parametrize("number", range(30))
def test_one(celery_app, number):
    @celery_app.task(name="charge", shared=False)
    def charge(): ...
    charge.delay()
    assert threading.active_count() == 2
    apps.append(weakref.ref(celery_app))

def test_nothing_is_left():
    gc.collect()
    assert threading.active_count() == 1
    assert len(os.listdir("/proc/self/fd")) < 20
    assert sum(app() is not None for app in apps) <= 1
"""


def test_the_fixture_that_celery_brings_for_test_suites(tmp_path: Path) -> None:
    """Its app is a new one for each test."""
    settings = {
        "task_always_eager": True,
        "asynctask_url": url_of(tmp_path),
        "asynctask_journal_dir": str(tmp_path / "journal"),
    }
    (tmp_path / "test_shop.py").write_text(SUITE.format(settings=settings, seconds=patience(20)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "celery.contrib.pytest", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert stored(tmp_path)[::2] == (30, 30)
    assert is_complete(tmp_path)
