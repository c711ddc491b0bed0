"""An SQLite file is its owner's alone, however the URL names it; `doctor` says who else can read one."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.pool import NullPool

from celery_asynctask.errors import NoTablesError
from celery_asynctask.operations.doctor import Finding, Level
from celery_asynctask.operations.doctor.database import database
from celery_asynctask.queries import Reader
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(path: Path) -> dict[str, int]:
    return {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.iterdir()}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{path}/x.db",
        "sqlite:///{path}/x.db?timeout=5",
        "sqlite+pysqlite:///{path}/x.db",
        "sqlite:///file:{path}/x.db?uri=true",
        "sqlite:///file:{path}/%78.db?uri=true&mode=rwc",
        "sqlite:///file://{path}/x.db?uri=true",
        "sqlite:///file:///{path}/x.db?uri=true",
    ],
)
def test_it_and_its_log_are_made_for_the_owner(url: str, tmp_path: Path) -> None:
    with closing(Store(Settings(url=url.format(path=tmp_path)))) as store:
        store.prepare()
        assert modes(tmp_path) == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


def test_where_it_can_only_be_made_by_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mknod", refuse)
    with closing(Store(Settings(url=f"sqlite:///{tmp_path}/x.db"))) as store:
        store.prepare()
        assert set(modes(tmp_path).values()) == {0o600}


@pytest.mark.parametrize("url", ["sqlite:///x.db", "sqlite:///file:x.db?uri=true"])
def test_a_relative_one_too(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store(Settings(url=url))) as store:
        store.prepare()
        assert set(modes(tmp_path).values()) == {0o600}


def test_one_that_a_link_leads_to_too(tmp_path: Path) -> None:
    (folder := tmp_path / "of the link").mkdir()
    (folder / "link.db").symlink_to(tmp_path / "x.db")
    with closing(Store(Settings(url=f"sqlite:///{folder}/link.db"))) as store:
        store.prepare()
        assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.glob("x.db*")} == {0o600}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x.db?uri=true&mode=memory&cache=shared",
        "sqlite:///file:x.db?uri=true&mode=ro",
    ],
)
def test_no_file_is_made_where_sqlite_makes_none(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store(Settings(url=url, engine_options={"poolclass": NullPool}))) as store:
        if "mode=ro" in url:
            with pytest.raises(Exception, match="unable to open"):
                store.engine.connect()
        else:
            store.engine.connect().close()
    assert modes(tmp_path) == {}


@pytest.mark.parametrize("url", ["sqlite:///x.db", "sqlite:///file:x.db?uri=true", "sqlite:///file:%78.db?uri=True"])
def test_who_only_reads_makes_none(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a mistyped name."""
    monkeypatch.chdir(tmp_path)
    with closing(Reader(url)) as reader, pytest.raises(NoTablesError, match=f"no database file {tmp_path}/x.db"):
        reader.check_schema()
    assert modes(tmp_path) == {}
    with closing(Store(Settings(url=url))) as store, closing(Reader(url)) as reader:
        store.prepare()
        reader.check_schema()


def test_alembic_makes_it_the_same_way(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "celery_asynctask:migrations")
    config.set_main_option("sqlalchemy.url", f"sqlite:///{tmp_path}/x.db")
    command.upgrade(config, "head")
    assert modes(tmp_path) == {"x.db": 0o600}


@pytest.fixture
def reached() -> Iterator[Path]:
    """A directory that others can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def found(path: Path) -> list[Finding]:
    settings = Settings(url=f"sqlite:///{path}/x.db")
    with closing(Reader(settings.url)) as reader:
        return [finding for finding in database(settings, reader) if finding.check == "database file"]


def test_one_that_others_can_read_keeps_its_mode_and_is_a_problem(reached: Path) -> None:
    file = reached / "x.db"
    file.touch(0o644)
    with closing(Store(Settings(url=f"sqlite:///{file}"))) as store:
        store.prepare()
        assert modes(reached)["x.db"] == 0o644
        [finding] = found(reached)
    assert finding.level is Level.PROBLEM
    assert f"{file} (0644)" in finding.text
    assert f"chmod go= {file} {file}-wal {file}-shm" in finding.remedy
    for one in reached.iterdir():
        one.chmod(0o640)
    assert [one.level for one in found(reached)] == [Level.NOTE]
    reached.chmod(0o700)
    assert found(reached) == []  # nobody gets there
