"""The oldest releases that pyproject.toml allows are those that the tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
OURS = {"benchmark", "dev", "docs", "example", "lint", "mutation", "test"}
"""Extras for work on the project, which users do not need."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    highest: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return highest


def floors(requirements: list[str]) -> dict[str, Version]:
    """The highest floor of each package."""
    highest: dict[str, Version] = {}
    for one in map(Requirement, requirements):
        for bound in one.specifier:
            if bound.operator in (">=", "=="):
                highest[one.name] = max(Version(bound.version), highest.get(one.name, Version("0")))
    return highest


@pytest.fixture(scope="module")
def promised(project: dict[str, Any]) -> list[str]:
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for extra in extras.keys() - OURS for one in extras[extra])]


@pytest.fixture(scope="module")
def oldest() -> dict[str, Version]:
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    return floors([one for one in lines if one and not one.startswith("#")])


def test_every_requirement_has_a_floor(promised: list[str]) -> None:
    assert floors(promised).keys() == {Requirement(one).name for one in promised}


def test_the_oldest_releases_are_the_floors(
    project: dict[str, Any], promised: list[str], oldest: dict[str, Version]
) -> None:
    wanted = floors(promised)
    assert {name: oldest.get(name) for name in wanted} == wanted
    more = {name: version for name, version in oldest.items() if name not in wanted}
    tests = floors(project["optional-dependencies"]["test"])
    assert more == {name: tests.get(name) for name in more}
