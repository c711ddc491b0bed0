"""A tag that must not be released is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.release import dated, problems, section

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2027-01-31

- New.

## [1.2.2] - 2027-01-01

- Old.
"""
GOOD: dict[str, Any] = {
    "tag": "v1.2.3",
    "repository": "some/record",
    "version": "1.2.3",
    "changelog": CHANGELOG,
    "pyproject": {
        "project": {"urls": {"Source": "https://github.com/some/record", "Issues": "https://github.com/some/record/i"}}
    },
}


def test_what_may_be_released() -> None:
    assert problems(**GOOD) == []
    assert section(CHANGELOG, dated("1.2.3")) == "- New."


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tag": "v1.2.4"}, "The tag is v1.2.4, the version is 1.2.3"),
        ({"changelog": CHANGELOG.replace("[1.2.3]", "[1.2x3]")}, "no section '## [1.2.3] - YYYY-MM-DD'"),
        ({"changelog": CHANGELOG.replace("- New.", "")}, "no section"),
        ({"changelog": CHANGELOG.replace("released]", "released]\n\n- Not yet.")}, "entries under Unreleased"),
        ({"repository": "another/record"}, "project.urls has https://github.com/some/record as Source"),
        ({"repository": "some/rec"}, "project.urls has https://github.com/some/record/i as Issues"),
    ],
)
def test_what_may_not(wrong: dict[str, Any], said: str) -> None:
    assert any(said in one for one in problems(**{**GOOD, **wrong}))
