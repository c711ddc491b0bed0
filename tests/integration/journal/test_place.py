"""Where the journal is: the first place that this user has, and in which nobody else can put another in its stead."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from celery_asynctask.errors import JournalError
from celery_asynctask.journal import Directory, place
from celery_asynctask.journal.place import default_directory, is_nowhere
from celery_asynctask.journal.survey import survey_of
from celery_asynctask.settings import Settings

STORE = "postgresql://h:5432/shop"
NAME = "postgresql-h-5432-shop-"


class Places:
    """The places in their order: state, runtime, memory, temporary. The first does not exist at the beginning."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.paths = [root / name for name in ("state", "runtime", "memory", "temporary")]
        for path in self.paths[1:]:
            path.mkdir()
        monkeypatch.setenv("XDG_STATE_HOME", str(self.paths[0]))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(self.paths[1]))
        monkeypatch.setattr(place, "SHARED_MEMORY", str(self.paths[2]))
        monkeypatch.setenv("TMPDIR", str(self.paths[3]))

    def close(self, number: int) -> None:
        """A file in place of a directory: nobody can use that, root included."""
        if self.paths[number].is_dir():
            self.paths[number].rmdir()
        self.paths[number].touch()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    return Places(tmp_path, monkeypatch)


def test_the_order(places: Places) -> None:
    me = os.geteuid()
    first = default_directory(STORE)
    assert first.parent == places.paths[0] / "celery-asynctask"
    assert first.name.startswith(NAME)
    for number in range(1, 4):
        places.close(number - 1)
        path = default_directory(STORE)
        assert path == places.paths[number] / f"celery-asynctask-{me}-{first.name}"
        assert not path.exists(), "it only looks"
        Directory(path, STORE)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert default_directory(STORE) == path
        (path / "store").unlink()
        path.rmdir()
    places.close(3)
    assert is_nowhere(default_directory(STORE))
    assert survey_of(default_directory(STORE)) is None
    with pytest.raises(
        JournalError, match=r"^There is no place for the journal: .* Set HOME, or asynctask_journal_dir"
    ):
        Directory(default_directory(STORE), STORE)


def test_no_home_at_all(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an arbitrary user id in a container."""

    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert default_directory(STORE).parent == places.paths[2]


def test_the_state_directory_of_another_user_is_not_used(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    Directory(default_directory(STORE), STORE)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    monkeypatch.setattr(place, "_TRUSTED", me)
    path = default_directory(STORE)
    assert path.parent == places.paths[1]
    assert path.name.startswith(f"celery-asynctask-{me + 1}-")


@pytest.mark.parametrize("kind", ["link", "file", "another user's"])
def test_what_somebody_else_has_put_there_is_not_used(
    places: Places, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In a directory that all users share."""
    places.close(0)
    path = default_directory(STORE)
    if kind == "link":
        (places.root / "theirs").mkdir()
        path.symlink_to(places.root / "theirs")
    elif kind == "file":
        path.touch()
    else:
        path.mkdir()
        lstat = Path.lstat

        def theirs(self: Path) -> os.stat_result:
            found = lstat(self)
            return os.stat_result((*found[:4], found.st_uid + 1, *found[5:])) if self == path else found

        monkeypatch.setattr(Path, "lstat", theirs)
    assert default_directory(STORE).parent == places.paths[2]


@pytest.mark.parametrize(("mode", "is_safe"), [(0o777, False), (0o1777, True), (0o770, True), (0o755, True)])
def test_a_directory_in_which_others_can_replace_it_is_not_used(places: Places, mode: int, is_safe: bool) -> None:
    places.close(0)
    places.paths[1].chmod(mode)
    assert default_directory(STORE).parent == places.paths[1 if is_safe else 2]


def test_it_stays_the_same_in_a_process(places: Places) -> None:
    """The journal writes where the recorder reads, also when a better place can be had meanwhile."""
    places.close(0)
    settings = Settings(url="postgresql://h/shop")
    assert settings.directory.parent == places.paths[1]
    places.paths[0].unlink()
    assert settings.directory.parent == places.paths[1]
    assert Settings(url="postgresql://h/shop").directory.parent.parent == places.paths[0]


# -- a directory that is configured and belongs to root, as the volume of a container does


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user stands for root, a later one for that of the process; both can write."""
    me = os.geteuid()
    monkeypatch.setattr(place, "_TRUSTED", me)
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.mark.parametrize("mode", [0o775, 0o2775, 0o1777])
def test_a_volume_has_a_directory_for_this_user(volume: Path, mode: int) -> None:
    volume.chmod(mode)
    assert Settings(journal_dir=volume).directory == volume / f"celery-asynctask-{os.geteuid()}"


def test_a_directory_of_another_user_is_no_volume(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could put other events into it."""
    monkeypatch.setattr(place, "_TRUSTED", os.geteuid() + 1)
    volume.chmod(0o775)
    assert Settings(journal_dir=volume).directory == volume


def test_a_volume_in_which_everybody_can_write_says_what_to_do(volume: Path) -> None:
    volume.chmod(0o777)
    assert Settings(journal_dir=volume).directory == volume
    with pytest.raises(JournalError, match=f"such as {volume}/celery-asynctask, which is then created"):
        Directory(volume, STORE)


def test_a_directory_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    """Also an empty one of mode 0700, and one that does not exist yet."""
    tmp_path.chmod(0o700)
    for path in (tmp_path, tmp_path / "new"):
        assert Settings(journal_dir=path).directory == path
        Directory(path, STORE)
