"""Checks before a release: ``python -m tests.release TAG REPOSITORY NOTES`` (v1.2.3, owner/name, a file).

The tag must be the version of the code, CHANGELOG.md must have a dated section for it and no unreleased entries, and
the addresses in the metadata must be those of the repository that releases. It writes the section into the file NOTES,
or prints every problem and exits with 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli

import celery_asynctask

ROOT = Path(__file__).parents[1]


def section(changelog: str, heading: str) -> str | None:
    """The text below a heading of the second level that matches, or None."""
    for part in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        first, _, text = part.partition("\n")
        if re.fullmatch(heading, first.strip()):
            return text.strip()
    return None


def problems(tag: str, repository: str, version: str, changelog: str, pyproject: dict[str, Any]) -> list[str]:
    """The reasons why this tag cannot be released; empty: none."""
    faults = []
    if tag != f"v{version}":
        faults.append(f"The tag is {tag}, the version is {version}: tag v{version}, or change __version__.")
    if not section(changelog, dated(version)):
        faults.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD': name Unreleased so.")
    if section(changelog, r"\[Unreleased\]"):
        faults.append("CHANGELOG.md has entries under Unreleased: move them to the section of this version.")
    address = f"https://github.com/{repository}"
    for name, url in pyproject["project"]["urls"].items():
        if url != address and not url.startswith(f"{address}/"):
            faults.append(f"project.urls has {url} as {name}: the repository is {address}.")
    return faults


def dated(version: str) -> str:
    """The pattern of the heading of a released version."""
    return rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d"


def main(arguments: Sequence[str]) -> int:
    tag, repository, notes = arguments
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pyproject = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    faults = problems(tag, repository, celery_asynctask.__version__, changelog, pyproject)
    for fault in faults:
        print(fault)
    if not faults:
        text = section(changelog, dated(celery_asynctask.__version__)) or ""
        Path(notes).write_text(f"{text}\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
