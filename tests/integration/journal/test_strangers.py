"""What others put into the journal directory is neither read nor waited for, and never stops what is ours."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.names import CLAIM_NAME, LOCK_NAME, STORE_NAME
from celery_asynctask.journal.survey import Survey
from celery_asynctask.operations.doctor import Level
from celery_asynctask.operations.doctor.journal import journal as checks
from celery_asynctask.operations.doctor.journal import recorder as recorder_check
from celery_asynctask.store import Store
from tests.histories import HISTORIES, ID
from tests.integration.draining import MakeDrain, append
from tests.integration.rows import stored

STORE = "postgresql://h/shop"
NAMES = [
    "0link.000001.events",
    "1pipe.000001.events",
    "2directory.000001.events",
    "3.quarantine",
    "4.000001.events-new",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def clutter(path: Path) -> None:
    """Put in a link, pipes and directories, each with a name of ours."""
    (path / NAMES[0]).symlink_to("/dev/zero")
    (path / NAMES[2]).mkdir()
    for name in (NAMES[1], NAMES[3], NAMES[4]):
        os.mkfifo(path / name)
        os.utime(path / name, (0, 0))


def test_the_drain_goes_on_and_says_it_once(
    store: Store, make_drain: MakeDrain, journal: Journal, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(journal, *HISTORIES["success"]())
    clutter(path)
    drain = make_drain()
    with caplog.at_level(logging.WARNING):
        drain.work()
        drain.work()
    assert ID in stored(store)
    [record] = [one for one in caplog.records if "leaves out" in one.message]
    assert f"{NAMES[0]!r}, {NAMES[1]!r}, {NAMES[2]!r} and 2 more" in record.message
    assert drain.directory.strangers() == NAMES
    assert {one.name for one in path.iterdir()} >= set(NAMES)


def test_the_segments_of_another_user_are_left_out(store: Store, make_drain: MakeDrain, journal: Journal) -> None:
    append(journal, *HISTORIES["success"]())
    drain = make_drain()
    drain.directory.owner += 1
    drain.work()
    assert stored(store) == {}
    assert f"{journal.source}.000001.events" in drain.directory.strangers()


@pytest.mark.parametrize("name", [STORE_NAME, LOCK_NAME, CLAIM_NAME])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_pipe_in_place_of_a_file_is_refused_at_once(path: Path, name: str, kind: str) -> None:
    Directory(path, STORE)
    (path / name).unlink(missing_ok=True)
    if kind == "link":
        (path / name).symlink_to(path.parent / "elsewhere")
    else:
        os.mkfifo(path / name)
    if name == STORE_NAME:
        with pytest.raises(JournalError, match=r"no regular file of this user|symbolic links"):
            Directory(path, STORE)
        with pytest.raises(OSError, match=r"symbolic links|seek"):
            Survey(path)
    else:
        assert Directory(path, STORE).strangers() == [name]
        if kind == "link":
            with pytest.raises(OSError, match="symbolic links"):
                is_being_written(path / name)
    assert not (path.parent / "elsewhere").exists()


def test_doctor_names_them(store: Store, make_drain: MakeDrain, path: Path) -> None:
    settings = make_drain().settings
    assert settings.directory == path
    clutter(path)
    assert [one for one in recorder_check(settings) if one.check == "quarantine" and one.level is not Level.OK] == []
    [problem] = [one for one in checks(settings) if one.level is Level.PROBLEM]
    assert f"In {path}, {NAMES[0]!r}, {NAMES[1]!r}, {NAMES[2]!r} and 2 more are left out" in problem.text


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_used_directory_that_everybody_could_write_to_is_refused(
    store: Store, make_drain: MakeDrain, path: Path, mode: int
) -> None:
    settings = make_drain().settings
    path.chmod(mode)
    with pytest.raises(JournalError, match=f"has the mode {mode:04o}.*Remove what is not yours.* chmod 700 {path}"):
        Directory(path, settings.store_id)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [one.level for one in checks(settings) if f"{mode:04o}" in one.text] == [Level.PROBLEM]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o2775])
def test_one_that_others_could_only_read_or_a_group_write_to_is_closed(path: Path, mode: int) -> None:
    """Kubernetes gives the group of a volume all rights at each start of a pod, also in the directories of others."""
    Directory(path, STORE)
    path.chmod(mode)
    Directory(path, STORE)
    assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o700


def test_other_things_in_it_do_not_matter(path: Path) -> None:
    """A new volume has some."""
    (path / "lost+found").mkdir(parents=True)
    path.chmod(0o777)
    Directory(path, STORE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_process_that_starts_beside_another_does_not_take_its_files_for_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    path.chmod(0o777)
    real = os.scandir

    def slow(at: Path) -> object:
        """Meanwhile, another process begins to use the directory."""
        monkeypatch.setattr(os, "scandir", real)
        Directory(path, STORE)
        return real(at)

    monkeypatch.setattr(os, "scandir", slow)
    Directory(path, STORE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
