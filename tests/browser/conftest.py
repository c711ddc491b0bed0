"""A browser and the site that it opens, once for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from celery_asynctask.web.sessions import COOKIE
from tests import services
from tests.browser.shop import Shop, shop
from tests.pace import patience
from tests.tokens import session_of

HOST = "ops.example"
"""A name of this host that is not localhost: browsers trust it less."""
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(tmp_path_factory.mktemp("shop")) as site:
        yield site


def chromium() -> str | None:
    """Where the browser is; None: it is not found."""
    return os.environ.get("ASYNCTASK_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    services.need(path, "no Chromium: install Debian's package, or name one by ASYNCTASK_TEST_CHROMIUM")
    expect.set_options(timeout=1000 * patience(5))
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=[f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
        )
        yield launched
        launched.close()


Open = Callable[..., Page]


def patient(context: BrowserContext) -> BrowserContext:
    """A context whose timeouts fit the speed of this machine."""
    context.set_default_timeout(1000 * patience(30))
    return context


@pytest.fixture
def opened(made: Shop, browser: Browser) -> Iterator[Open]:
    """``opened(path, who="admin", **context)``: a page of a new browser, signed in as one of the shop's tokens. A test
    fails if the page writes an error to the browser's console, or sends a request to another server."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def open_page(path: str = "/", who: str | None = "admin", **options: object) -> Page:
        context = patient(browser.new_context(**{"timezone_id": "Asia/Tokyo", "locale": "en-GB", **options}))  # type: ignore[arg-type]
        contexts.append(context)
        if who is not None:
            name = f"{COOKIE}_{made.address.rpartition(':')[2]}"
            context.add_cookies([{"name": name, "value": session_of(who), "domain": "localhost", "path": "/console"}])
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda one: wrong.append(one.url) if not one.url.startswith((made.address, "data:", "about:")) else None,
        )
        page.goto(f"{made.address}/console{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    unexpected = [one for one in wrong if "responded with a status of 4" not in one]
    assert not unexpected, unexpected


@pytest.fixture
def pictures() -> Path | None:
    """Where screenshots are put; None: nowhere."""
    directory = os.environ.get("ASYNCTASK_TEST_PICTURES")
    return Path(directory) if directory else None
