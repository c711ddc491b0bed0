"""Tiers, databases, and the rules that hold for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import services
from tests.pace import pace
from tests.services import DATABASES, SERVERS, TIERS, Current

EXAMPLES = int(os.environ.get("ASYNCTASK_EXAMPLES", "100"))
"""Examples of each property that does not set a number itself."""

SKIP_NOTHING = "ASYNCTASK_SKIP_NOTHING" in os.environ
"""Whether a skipped test counts as a failure, as in .ci/run."""

VARIANTS = int(os.environ.get("ASYNCTASK_VARIANTS", "0"))
"""Most variants of a test with parameters that are run, out of the whole range; 0: all."""

settings.register_profile("asynctask", deadline=None, print_blob=True, max_examples=EXAMPLES)
settings.load_profile("asynctask")

TOGETHER = ("broker", "browser", "faults", "slow")
"""Tiers in which the tests of a module share processes or servers: one process runs them all."""


def pytest_configure(config: pytest.Config) -> None:
    for name, why in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {why}; run with -m {name}")
    config.addinivalue_line("markers", "every_database: what it tests is SQL; on SQLite, PostgreSQL and MariaDB")
    config.addinivalue_line("markers", "databases(*kinds): the same, on these alone")
    # kombu's Redis transport and Celery's Redis backend leave connections to the garbage collector.
    redis = rf"<socket\.socket .*\b{services.redis_port()}\b"
    unraisable = "pytest.PytestUnraisableExceptionWarning"
    for line in (f"Exception ignored in. {redis}:{unraisable}", f"unclosed {redis}:ResourceWarning"):
        config.addinivalue_line("filterwarnings", f"ignore:{line}")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    # Keep bytecode, whatever the environment says: otherwise each of some thousand processes compiles the package anew.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONUTF8"] = "1"  # for all processes from here on, whatever the locale of this one
    if not config.option.collectonly:
        pace(config.getoption("numprocesses", None) or 1)


@pytest.fixture(scope="session", autouse=True)
def _memory() -> Iterator[None]:
    """The second place of all journals, also of those of the processes that tests start, is gone with the tests."""
    with tempfile.TemporaryDirectory(prefix="asynctask-tests-", dir="/dev/shm") as directory:
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = directory
        yield
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def _ignore(*_: object) -> None:
    """Does nothing, as a background job does with a signal; unlike SIG_IGN, no process started here inherits it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that requests a database gets SQLite, or each database that its mark names."""
    if "database_kind" not in metafunc.fixturenames:
        return
    marks = {mark.name: mark for mark in metafunc.definition.iter_markers()}
    kinds = marks["databases"].args if "databases" in marks else DATABASES if "every_database" in marks else ("sqlite",)
    server = () if TIERS.keys() & marks.keys() else (pytest.mark.database,)
    params = [pytest.param(kind, marks=server if kind in SERVERS else ()) for kind in kinds]
    metafunc.parametrize("database_kind", params, indirect=True, scope="session")


def tier_of(item: pytest.Item) -> str:
    """The mark of the test's tier; "" for the default tier."""
    marks = TIERS.keys() & {mark.name for mark in item.iter_markers()}
    if len(marks) > 1:
        raise pytest.UsageError(f"{item.nodeid} is of more than one tier: {', '.join(sorted(marks))}")
    return next(iter(marks), "")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = tier_of(item)
        if tier in ("browser", "faults") and tier != item.path.parent.name:
            raise pytest.UsageError(f"{item.nodeid} is not in tests/{tier}, where .ci/run looks for its tier")
        if tier in TOGETHER and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_select_variants(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not VARIANTS:
        return
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        variants.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {one for every in variants.values() for one in every[:: -(-len(every) // VARIANTS)]}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_look_that_groups_are_kept(config: pytest.Config, items: list[pytest.Item]) -> None:
    """pytest-xdist recognizes a group by the end of a test's id, which not every pytest lets it write."""
    if config.getoption("loadgroup", False):
        for item in items:
            group = item.get_closest_marker("xdist_group")
            if group is not None and not item.nodeid.endswith(f"@{group.args[0]}"):
                raise pytest.UsageError("this pytest-xdist does not group tests with this pytest")


def pytest_collection_finish() -> None:
    """Freeze all objects that exist now: otherwise a tenth of the tests' time goes to the garbage collector."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    Current.tier = tier_of(item)
    try:
        return (yield)
    finally:
        Current.tier = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and SKIP_NOTHING and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, where nothing may be: {report.longrepr}"
    if report.failed and (text := str(report.longrepr)) != (shown := _encodable(text)):
        report.longrepr = shown  # pytest-xdist ends with the process that sends it half a character
    report.sections = [(_encodable(title), _encodable(content)) for title, content in report.sections]
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="session")
def database_kind(request: pytest.FixtureRequest) -> str:
    """One of `services.DATABASES`, as the test's marks say."""
    return str(request.param)


@pytest.fixture
def database(database_kind: str, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database for this test only."""
    with services.new_database(database_kind, tmp_path) as url:
        yield url


@pytest.fixture(autouse=True, scope="session")
def _state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep journals without a configured directory out of the home of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
