"""The file by which `code` finds a server: of its user alone, and no obstacle to the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celery_asynctask.cli.running import announced, running

SECRET = b"x" * 32


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "celery-asynctask" / "serve"


def test_a_server_is_found_while_it_runs(directory: Path) -> None:
    assert running() == []
    with announced("http://127.0.0.1:5556", 5556, SECRET) as is_found, announced("http://x", 1, SECRET):
        assert is_found
        assert [(one.url, one.port, one.secret) for one in running()] == [
            ("http://x", 1, SECRET),
            ("http://127.0.0.1:5556", 5556, SECRET),
        ]
        assert {one.stat().st_mode & 0o777 for one in (directory, *directory.iterdir())} == {0o700, 0o600}
    assert running() == []
    assert not directory.exists()


def test_files_that_servers_left_are_ignored_and_replaced(directory: Path) -> None:
    directory.mkdir(parents=True, mode=0o700)
    (directory / "1").write_text(json.dumps({"pid": 2**22 + 1, "url": "x", "port": 1, "secret": ""}), encoding="utf-8")
    for number, content in enumerate(
        ("", "{}", "[]", '{"pid": "1"}', '{"pid": 1, "url": "x", "port": 1, "secret": 5}')
    ):
        (directory / f"9{number}").write_text(content, encoding="utf-8")
    assert running() == []
    with announced("http://x", 1, SECRET) as is_found:
        assert is_found
        assert [one.port for one in running()] == [1]


def test_a_directory_that_others_can_use_is_not_used(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(parents=True, mode=0o755)
    directory.chmod(0o755)
    with announced("http://x", 1, SECRET) as is_found:
        assert not is_found
        assert list(directory.iterdir()) == []
    directory.rmdir()
    directory.symlink_to(tmp_path)
    with announced("http://x", 1, SECRET) as is_found:
        assert not is_found


def test_a_user_without_a_place_for_it_can_serve(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    directory.parent.write_text("a file", encoding="utf-8")
    with announced("http://x", 1, SECRET) as is_found:
        assert not is_found
    assert running() == []
