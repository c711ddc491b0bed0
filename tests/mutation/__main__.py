"""Runs the mutation tests in a temporary copy of the tree, so that the checkout never changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("celery_asynctask", "tests", "pyproject.toml")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for one in COPIED:
            source = ROOT / one
            if source.is_dir():
                shutil.copytree(source, copy / one, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
            else:
                shutil.copy(source, copy / one)
        # The copy precedes the installed package; the tests need no plugin, and plugins take long to load.
        environment = {**os.environ, "PYTHONPATH": name, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, "-m", "tests.mutation.run", *sys.argv[1:]]
        return subprocess.run(command, cwd=copy, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
