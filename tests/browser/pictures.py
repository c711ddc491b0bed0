"""``python -m tests.browser.pictures`` takes the pictures of the docs again, from the example's records, in Chromium.

The example runs in a directory of its own, so that no path of a checkout is in a picture.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from celery_asynctask import AsyncTask
from tests.browser.conftest import chromium
from tests.integration.serving import serving

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = ROOT / "docs" / "images"
WIDTH: Final = 1240
PACKAGES: Final = ("asyncio", "collections", "concurrent", "email", "html", "http", "json", "logging", "xml")
"""Of the standard library, in the large tree."""
SMALL: Final = ("html", "json")
BROKEN: Final = "def announce(title):\n    print title\n"
"""Python 2: does not parse."""


def tree(directory: Path, packages: tuple[str, ...]) -> Path:
    """A tree of sources with a file that does not parse, and one that is not UTF-8."""
    for one in packages:
        source = Path(sysconfig.get_paths()["stdlib"]) / one
        shutil.copytree(source, directory / one, ignore=shutil.ignore_patterns("__pycache__"))
    old = directory / "legacy"
    old.mkdir()
    (old / "announce.py").write_text(BROKEN, encoding="utf-8")
    (old / "letters.py").write_text('# -*- coding: latin-1 -*-\nCAFE = "café"\n', encoding="latin-1")
    return directory


def newest(url: str, name: str) -> str:
    """Id of the newest task of a name."""
    engine = create_engine(url)
    with Session(engine) as session:
        asked = select(AsyncTask.celery_task_id).where(AsyncTask.name == name).order_by(AsyncTask.created_at.desc())
        found = session.scalars(asked).first()
    engine.dispose()
    assert found is not None, f"there is no {name}"
    return found


def take(directory: Path) -> None:
    shutil.copytree(ROOT / "example_worker", directory / "example_worker")
    large, small = tree(directory / "library", PACKAGES), tree(directory / "sources", SMALL)
    os.environ["EXAMPLE_DATA_DIR"] = str(directory / "data")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(directory), str(ROOT)))
    for one in (large, small):
        subprocess.run([sys.executable, "-m", "example_worker", str(one)], cwd=directory, check=True)
    url = f"sqlite:///{directory / 'data' / 'records.db'}"
    failed, root = newest(url, "example_worker.tasks.parse"), newest(url, "example_worker.tasks.take_census")
    pictures = {
        "overview": ("/", 900, "light"),
        "task": (f"/tasks/{failed}", 900, "light"),
        "waterfall": (f"/tasks/{root}/workflow?view=waterfall", 700, "dark"),
    }
    serve = ("-m", "celery", "-A", "example_worker", "asynctask", "serve", "--open", "--port", "0")
    with serving(directory, *serve) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        for name, (path, height, theme) in pictures.items():
            page = browser.new_page(
                viewport={"width": WIDTH, "height": height},
                color_scheme="dark" if theme == "dark" else "light",
                timezone_id="UTC",
                locale="en-GB",
            )
            page.goto(f"{address}/console{path}", wait_until="networkidle")
            page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="census-") as directory:
        take(Path(directory).resolve())


if __name__ == "__main__":
    main()
