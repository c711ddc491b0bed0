"""Files of quarantine: an entry that is appended while somebody takes the file away is not lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from celery_asynctask.journal import Directory
from celery_asynctask.journal.aside import Aside, aside_of
from tests.integration.journals import STORE

SOURCE = "20260102T030405-4711-a1b2c3d4"


def test_names(tmp_path: Path) -> None:
    path = tmp_path / f"{SOURCE}.quarantine"
    assert aside_of(path) == Aside(SOURCE, "", path)
    path.write_bytes(b"one\n")
    taken = aside_of(path).take()
    assert aside_of(taken.path) == taken
    assert (taken.source, len(taken.token), path.exists()) == (SOURCE, 16, False)
    assert Directory(tmp_path, STORE).paths(".quarantine") == [taken.path]


def test_equal_lines_are_one_and_a_line_may_have_anything(tmp_path: Path) -> None:
    path = tmp_path / f"{SOURCE}.quarantine"
    assert aside_of(path).lines() == []
    path.write_bytes(b"a\n\nb\r\x0bc\n\na\nlast")
    assert aside_of(path).lines() == [b"a", b"", b"b\r\x0bc", b"last"]


@pytest.mark.parametrize("call", ["open", "write", "fstat"])
def test_a_file_that_is_taken_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whoever took it may have read it already, and removes it."""
    directory = Directory(tmp_path, STORE)
    directory.quarantine(SOURCE, b"first")
    original = getattr(os, call)
    taken: list[Aside] = []

    def called(*arguments: object) -> object:
        result = original(*arguments)
        if not taken:
            taken.append(aside_of(tmp_path / f"{SOURCE}.quarantine").take())
        return result

    monkeypatch.setattr(os, call, called)
    directory.quarantine(SOURCE, b"second")
    monkeypatch.undo()
    assert b"first" in taken[0].lines()
    assert aside_of(tmp_path / f"{SOURCE}.quarantine").lines() == [b"second"]
