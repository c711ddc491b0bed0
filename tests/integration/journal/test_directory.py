"""The journal directory: who may use it, who records from it, and its files."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, Journal
from celery_asynctask.journal.files import is_being_written
from celery_asynctask.journal.names import CLAIM_NAME, LOCK_NAME
from celery_asynctask.journal.survey import Survey, holder
from tests.processes import at_once

STORE = "postgresql://h/shop"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal"


# -- permissions ---------------------------------------------------------------------


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(JournalError, match=r"symbolic links are not followed.*asynctask_journal_dir"):
        Directory(tmp_path / "link", STORE)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be used: File exists"):
        Directory(tmp_path / "file", STORE)


def test_the_directory_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Directory(path, STORE)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(JournalError, match=f"belongs to user id {me}, but this process runs as {me + 1}. Set "):
        Directory(path, STORE)


def test_rights_of_others_are_taken_away(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)
    Directory(path, STORE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_another_store_is_refused(path: Path) -> None:
    Directory(path, STORE)
    Directory(path, STORE)
    with pytest.raises(JournalError, match=f"belongs to the store {STORE}, not to mysql://h/other. Give each store"):
        Directory(path, "mysql://h/other")


@pytest.mark.parametrize(
    ("claimed", "store"),
    [
        (
            "postgresql://127.0.0.1/a-database-with-a-long-name",
            "postgresql://localhost:5432/a-database-with-a-long-name",
        ),
        ("mariadb://h:3306/shop", "mysql://h:3306/shop"),
        ("postgresql:///shop", "postgresql://:5432/shop?host=/cloudsql/one"),
    ],
)
def test_a_claim_of_the_same_store_in_an_earlier_spelling_is_renewed(path: Path, claimed: str, store: str) -> None:
    """The id of the directory stays: by it, the database knows the processes of this journal."""
    path.mkdir(parents=True)
    (path / "store").write_text(f"{claimed}\n0123456789abcdef\n", encoding="utf-8")
    directory = Directory(path, store)
    assert Survey(path).old_id == directory.old_id == Directory(path, store).old_id == "0123456789abcdef"
    assert Survey(path).id == directory.id == Directory(path, store).id != directory.old_id
    assert (path / "store").read_text(encoding="utf-8") == f"{store}\n0123456789abcdef\n"


def test_a_directory_is_not_taken_from_the_store_at_the_usual_socket(path: Path) -> None:
    Directory(path, "postgresql://:5432/shop")
    with pytest.raises(JournalError, match="belongs to the store"):
        Directory(path, "postgresql://:5432/shop?host=/cloudsql/one")


def test_a_store_that_comes_in_between(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process claims the directory after this one has seen that it is free."""
    flock = fcntl.flock

    def other_first(handle: int, lock: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        Directory(path, "other")
        flock(handle, lock)

    monkeypatch.setattr(fcntl, "flock", other_first)
    with pytest.raises(JournalError, match="belongs to the store other"):
        Directory(path, STORE)


def test_stores_that_come_at_once(path: Path) -> None:
    """One of them gets the directory, whichever is first."""
    path.mkdir(parents=True)

    def claim(number: int) -> bool:
        try:
            Directory(path, f"store-{'x' * number}")
        except JournalError:
            return False
        return True

    assert sorted(at_once(6, claim)) == [False] * 5 + [True]
    shutil.rmtree(path)
    path.mkdir()
    assert at_once(6, lambda _number: claim(1)) == [True] * 6


@pytest.mark.parametrize("content", [b"\xff\xfe", b"two\nlines\n"])
def test_a_damaged_marker_is_refused(path: Path, content: bytes) -> None:
    path.mkdir(parents=True)
    (path / "store").write_bytes(content)
    with pytest.raises(JournalError, match="belongs to the store"):
        Directory(path, STORE)


def test_an_empty_marker_is_nobodys(path: Path) -> None:
    """Its writer died, or the machine, before the name was on the disk."""
    path.mkdir(parents=True)
    (path / "store").touch()
    Directory(path, STORE)
    with pytest.raises(JournalError):
        Directory(path, "other")


def test_a_store_with_an_odd_name(path: Path) -> None:
    name = "sqlite:////home/ü/\udcff/x.db"
    Directory(path, name)
    Directory(path, name)


def test_a_store_s_name_is_the_same_in_every_locale(path: Path) -> None:
    name = "sqlite:////home/\u00fc/x.db"
    imports = "from pathlib import Path\nfrom celery_asynctask.journal import Directory\n"
    script = f"{imports}Directory(Path({str(path)!r}), {name!a})"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script], env=plain, check=True)
    Directory(path, name)


# -- election ------------------------------------------------------------------------


def test_one_recorder_at_a_time(path: Path) -> None:
    directory = Directory(path, STORE)
    held = directory.elect()
    assert held is not None
    assert directory.elect() is None
    assert at_once(3, lambda _number: directory.elect()) == [None] * 3
    os.close(held)
    held = directory.elect()
    assert held is not None
    os.close(held)


def test_the_lock_of_a_killed_recorder_is_free(path: Path) -> None:
    directory = Directory(path, STORE)
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            directory.elect()
            os.write(tell, b"!")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"!"
    assert directory.elect() is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    held = directory.elect()
    assert held is not None
    for handle in (held, ready, tell):
        os.close(handle)


# -- its files -----------------------------------------------------------------------


def test_only_segments_are_listed_in_order(path: Path) -> None:
    directory = Directory(path, STORE)
    for name in ("b.000001.events", "a.000010.events", "a.000002.events"):
        (path / name).touch()
    for name in ("a.000003.events-new", "drain.lock", "a.quarantine", "x.events", "a.x.events", ".events"):
        (path / name).touch()
    assert [(one.source, one.number) for one in directory.segments()] == [("a", 2), ("a", 10), ("b", 1)]


def test_quarantine_keeps_one_entry_a_line(path: Path) -> None:
    directory = Directory(path, STORE)
    directory.quarantine("source", b"first")
    directory.quarantine("source", b"second")
    file = path / "source.quarantine"
    assert file.read_bytes() == b"first\nsecond\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert directory.segments() == []


def test_quarantine_follows_no_link(path: Path, tmp_path: Path) -> None:
    directory = Directory(path, STORE)
    directory.spare = None  # where it would go instead
    (path / "source.quarantine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        directory.quarantine("source", b"x")


# -- looking at locks ----------------------------------------------------------------


@pytest.mark.parametrize("look", [is_being_written, holder], ids=lambda look: look.__name__)
def test_a_look_is_not_seen(path: Path, look: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes look at the same file of a dead process at the same time."""
    path.mkdir(parents=True)
    segment = path / "dead.000001.events"
    segment.touch()
    flock = fcntl.flock
    held: list[bool] = []

    def meanwhile(handle: int, lock: int) -> None:
        flock(handle, lock)
        monkeypatch.setattr(fcntl, "flock", flock)
        held.append(is_being_written(segment))

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    assert not look(segment)
    assert held == [False]


@pytest.mark.parametrize("look", [is_being_written, holder], ids=lambda look: look.__name__)
def test_nobody_writes_what_is_not_there(path: Path, look: Callable[[Path], object]) -> None:
    """A segment that was stored and removed, or an unclaimed directory."""
    assert not look(path / "gone.000001.events")


def test_a_look_does_not_keep_others_from_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment gets its name only once it is locked."""
    flock = fcntl.flock
    names: list[str] = []

    def looking(handle: int, lock: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        names.extend(os.listdir(path))  # noqa: PTH208
        for segment in Directory(path, STORE).segments():
            assert not is_being_written(segment.path)
        flock(handle, lock)

    journal = Journal(path, STORE)
    Directory(path, STORE)
    monkeypatch.setattr(fcntl, "flock", looking)
    assert journal.append(b"written")
    assert [name for name in names if name.endswith((".events", ".events-new"))] == [
        f"{journal.source}.000001.events-new"
    ]
    journal.close()


def test_a_look_delays_an_election_and_a_claim_by_a_turn(path: Path) -> None:
    directory = Directory(path, STORE)
    for take, name in ((directory.elect, LOCK_NAME), (directory.claim, CLAIM_NAME)):
        looking = os.open(path / name, os.O_RDONLY | os.O_CREAT, 0o600)
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert take() is None
        assert not is_being_written(path / name)
        os.close(looking)
        held = take()
        assert held is not None
        assert is_being_written(path / name)
        assert holder(path / name) == os.getpid()
        os.close(held)
