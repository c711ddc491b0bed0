"""The package's statements about itself: its version has one place, and its metadata agrees with what CI runs."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.specifiers import SpecifierSet

import celery_asynctask

ROOT = Path(__file__).parents[2]
PYTHON = "Programming Language :: Python :: "


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    versions: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return versions


def test_the_version_has_one_place(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["hatch"]["version"] == {"path": "celery_asynctask/__init__.py"}


def test_the_installed_version_is_that_of_the_code() -> None:
    assert version("celery-asynctask") == celery_asynctask.__version__, "install the checkout again"


def test_classifiers_name_the_pythons_that_pip_accepts(pyproject: dict[str, Any]) -> None:
    named = [one.removeprefix(PYTHON) for one in pyproject["project"]["classifiers"] if one.startswith(PYTHON)]
    minors = [one for one in named if "." in one]
    oldest = SpecifierSet(pyproject["project"]["requires-python"])
    assert minors[0] in oldest
    assert f"3.{int(minors[0].removeprefix('3.')) - 1}" not in oldest
