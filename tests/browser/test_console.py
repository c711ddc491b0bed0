"""The console as people use it: pages, filters, keys, live updates, themes, narrow, without JavaScript, tenants."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from celery_asynctask import AsyncTask
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.browser.conftest import HOST, Open, patient
from tests.browser.shop import SECONDS, Shop
from tests.integration.commands import Project
from tests.integration.serving import serving
from tests.pace import patience
from tests.tokens import token_of
from tests.waiting import wait_for

pytestmark = pytest.mark.browser

PAGES = {
    "overview": "/",
    "tasks": "/tasks",
    "search": "/tasks?search=status:FAILURE",
    "nothing": "/tasks?search=name:nothing.like.this",
    "refused": "/tasks?search=nonsense:1",
    "errors": "/errors",
    "names": "/names",
    "name": "/name?name=shop.charge",
    "workers": "/workers",
    "task": "/tasks/{chain}",
    "failed": "/tasks/{broken}",
    "large": "/tasks/{pack}",
    "hostile": "/tasks/{hostile}",
    "tree": "/tasks/{broken}/workflow",
    "waterfall": "/tasks/{chain}/workflow?view=waterfall",
    "table": "/tasks/{chord}/workflow?view=table",
    "rerun": "/tasks/{broken}/rerun",
    "sign-in": "/sign-in",
    "missing": "/tasks/no-such-task",
}
AXE = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}}


def path_of(made: Shop, name: str) -> str:
    return PAGES[name].format(**made.ids)


VIEWS = [("light", 320), ("dark", 1280), ("light", 1280), ("dark", 320)]
LOOKS = (
    [(name, *view) for name in PAGES for view in VIEWS]
    if "ASYNCTASK_BROWSER" in os.environ
    else [(name, *VIEWS[number % 2]) for number, name in enumerate(PAGES)]
)
"""Pages and how they are opened. `tests.soak` opens each in every view; they share one stylesheet."""


@pytest.mark.parametrize(("name", "theme", "width"), LOOKS)
def test_everybody_can_use_it(
    made: Shop, opened: Open, name: str, theme: Any, width: int, pictures: Path | None
) -> None:
    """No axe violation, no scrolling sideways, and no script out of the database runs."""
    page = opened(path_of(made, name), color_scheme=theme, viewport={"width": width, "height": 900})
    if pictures is not None:
        page.screenshot(path=pictures / f"{name}-{theme}-{width}.png", full_page=width == 1280)
    for one in page.locator("main details").all()[:30]:
        one.evaluate("one => { one.open = true; }")
    report = Axe().run(page, options=AXE)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked") is None


def test_from_the_overview_to_the_cause_in_two_clicks(made: Shop, opened: Open) -> None:
    page = opened()
    page.get_by_role("link", name="shop.charge").first.click()
    expect(page.locator("main")).to_contain_text("ValueError")
    expect(page.locator("main")).to_contain_text("card of order 13 was refused")
    expect(page.locator("main")).to_contain_text("in charge")


def test_a_search_is_in_the_url(made: Shop, opened: Open) -> None:
    page = opened("/tasks")
    page.keyboard.press("/")
    page.keyboard.type("name:shop.charge status:FAILURE")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("search=name"))
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    page.goto(page.url)
    expect(page.locator("#search")).to_have_value("name:shop.charge status:FAILURE")


def test_status_chips_and_columns(made: Shop, opened: Open) -> None:
    page = opened("/tasks")
    page.get_by_role("link", name=re.compile("FAILURE")).first.click()
    expect(page.locator("a[aria-current=true]")).to_contain_text("FAILURE")
    for row in page.locator("table.rows tbody tr").all():
        expect(row).to_contain_text("FAILURE")
    page.get_by_text("Columns, order and page size").click()
    page.get_by_label("Trace").check()
    page.get_by_label("Order", exact=True).select_option("oldest first")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("columnheader", name="Trace")).to_be_visible()
    expect(page.locator("a[aria-current=true]")).to_contain_text("FAILURE")


def test_the_keyboard_is_enough(made: Shop, opened: Open) -> None:
    page = opened("/tasks")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    second = page.locator("table.rows tbody tr").nth(1)
    expect(second).to_be_focused()
    title = second.locator("a").first.inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/tasks/.+"))
    expect(page.locator("h1")).to_contain_text(title)
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.wait_for_url(re.compile("/errors"))


def test_a_tree_folds(made: Shop, opened: Open) -> None:
    page = opened(f"/tasks/{made.chain}/workflow")
    rows = page.locator("[data-tree] tbody tr")
    expect(rows).to_have_count(3)
    page.keyboard.press("j")
    page.keyboard.press("ArrowLeft")
    expect(rows.nth(1)).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(rows.nth(1)).to_be_visible()


def test_it_is_live(made: Shop, opened: Open, tmp_path: Path) -> None:
    """Changes appear without a reload; focus, selection and open parts stay; paused, no request is sent."""
    until = tmp_path / "until"
    page = opened("/tasks?search=name:shop.wait")
    page.get_by_text("Search syntax").click()
    page.locator("#search").focus()
    task = made.send(f"print(wait.delay({str(until)!r}).id)")
    row = page.locator("table.rows tbody tr")
    expect(row).to_contain_text("STARTED", timeout=1000 * patience(7))
    expect(row).to_contain_text("so far")
    expect(page.locator("#search")).to_be_focused()
    expect(page.locator("dl.keys").first).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    requests: list[str] = []
    page.on("request", lambda one: requests.append(one.url))
    until.touch()
    over = AsyncTask.completed_at.is_not(None)
    wait_for(lambda: made.count(AsyncTask.celery_task_id == task, over), SECONDS, "the task to end")
    page.wait_for_timeout(2500)
    assert not requests
    expect(row).to_contain_text("STARTED")
    page.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("SUCCESS", timeout=1000 * patience(7))


def test_an_idle_page_gets_nothing_twice(made: Shop, opened: Open) -> None:
    page = opened(f"/tasks/{made.chain}")
    statuses: list[int] = []
    page.on("response", lambda one: statuses.append(one.status) if "/tasks/" in one.url else None)

    def answered() -> bool:
        page.wait_for_timeout(100)
        return 304 in statuses

    wait_for(answered, SECONDS, "an answer without a body")


def test_times_are_the_readers(made: Shop, opened: Open) -> None:
    page = opened(f"/tasks/{made.chain}")
    time = page.locator("main time").first
    exact = time.get_attribute("datetime")
    assert exact is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", exact)
    assert time.get_attribute("title") == exact
    tokyo = page.evaluate("at => new Intl.DateTimeFormat(undefined, {timeStyle: 'medium'}).format(new Date(at))", exact)
    expect(time).to_contain_text(tokyo)


def test_the_zone_of_the_times_is_named(made: Shop, opened: Open) -> None:
    expect(opened().locator("#zone")).to_have_text("Asia/Tokyo (UTC+9)")
    expect(opened(timezone_id="UTC").locator("#zone")).to_have_text("UTC")
    expect(opened(java_script_enabled=False).locator("#zone")).to_have_text("UTC")


@pytest.mark.parametrize(
    ("name", "keys", "missing"),
    [
        ("tasks", ("Search", "Open the row", "Refresh"), ("Collapse or expand a branch",)),
        ("overview", ("Open the row", "Refresh"), ("Search",)),
        ("tree", ("Collapse or expand a branch",), ("Search",)),
        ("missing", ("These keys",), ("Search", "Open the row", "Refresh", "Pause or resume")),
    ],
)
def test_help_names_the_keys_that_work_here(
    made: Shop, opened: Open, name: str, keys: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    page = opened(path_of(made, name))
    page.keyboard.press("?")
    shown = page.locator("#help dd")
    for key in keys:
        expect(shown.get_by_text(key, exact=True)).to_be_visible()
    for key in missing:
        expect(shown.get_by_text(key, exact=True)).to_be_hidden()


@pytest.mark.parametrize("view", ["tree", "waterfall"])
def test_a_long_name_stays_beside_its_twist(made: Shop, opened: Open, view: str) -> None:
    page = opened(f"/tasks/{made.broken}/workflow?view={view}", viewport={"width": 320, "height": 900})
    page.evaluate(
        "for (const one of document.querySelectorAll('[data-tree] td a')) one.textContent += '.long'.repeat(9)"
    )
    for row in page.locator("[data-tree] tbody tr").all():
        twist, link = row.locator(".twist").bounding_box(), row.locator("td a").first.bounding_box()
        assert twist is not None
        assert link is not None
        assert abs(link["y"] - twist["y"]) < twist["height"] / 2
        assert link["x"] >= twist["x"] + twist["width"] - 1


def test_an_error_uses_the_room_that_is_there(made: Shop, opened: Open) -> None:
    """And the page stays as wide as the window."""
    page = opened("/tasks?search=status:FAILURE", viewport={"width": 1800, "height": 900})
    cell, table = page.locator("td.text").first.bounding_box(), page.locator("table.rows").bounding_box()
    assert cell is not None
    assert table is not None
    assert cell["width"] > 650, "28rem were 420 px"
    assert table["width"] <= 1800


@pytest.mark.parametrize("name", ["overview", "tasks", "failed", "tree", "waterfall", "table", "errors", "names"])
def test_it_is_read_without_javascript(made: Shop, opened: Open, name: str) -> None:
    page = opened(path_of(made, name), java_script_enabled=False)
    expect(page.locator("main")).to_contain_text("shop.charge")
    expect(page.locator("#live-state")).to_be_hidden()


def test_searching_without_javascript(made: Shop, opened: Open) -> None:
    page = opened("/tasks", java_script_enabled=False)
    page.locator("#search").fill("name:shop.report")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    assert "search=name" in page.url


def test_signing_in_and_out(made: Shop, opened: Open) -> None:
    page = opened("/tasks?search=name:shop.report", who=None)
    expect(page.locator("h1")).to_have_text("Sign in")
    page.get_by_label("Token").fill(token_of("wrong"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Invalid token")
    page.get_by_label("Token").fill(token_of("ours"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("search=name"))
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{made.address}/console/tasks")
    expect(page.locator("h1")).to_have_text("Sign in")


def test_signing_in_without_tls_at_another_name(made: Shop, browser: Browser) -> None:
    """There, browsers do not send the site that a form comes from."""
    page = browser.new_page()
    page.goto(f"{made.address.replace('localhost', HOST)}/console/tasks")
    page.get_by_label("Token").fill(token_of("ours"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Tasks")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("h1")).to_have_text("Sign in")
    page.close()


def test_a_printed_address_signs_in_with_one_click(tmp_path: Path, browser: Browser) -> None:
    """What `serve` prints where no tokens are configured."""
    store = Store(Settings(url=f"sqlite:///{tmp_path / 'rows.db'}"))
    store.prepare()
    store.close()
    Project(tmp_path, asynctask_url=store.settings.url)
    with serving(tmp_path, "-m", "celery", "-A", "proj", "asynctask", "serve", "--port", "0"):
        log = tmp_path / "server.log"

        def printed() -> Any:
            return re.search(r"^Sign in: (\S+)$", log.read_text(encoding="utf-8"), re.MULTILINE)

        page = patient(browser.new_context()).new_page()
        page.goto(wait_for(printed, SECONDS, f"the address; see {log}")[1])
        expect(page.get_by_role("button", name="Sign in")).to_be_focused()
        assert "#" not in page.url, "the code is in no history"
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("Overview")
        page.context.close()


def test_customers_see_their_own(made: Shop, opened: Open) -> None:
    page = opened("/tasks", who="theirs")
    expect(page.locator("table.rows tbody tr")).to_have_count(1)
    for path in ("/", "/errors", "/names", "/workers"):
        page.goto(f"{made.address}/console{path}")
        expect(page.locator("main")).not_to_contain_text("shop.charge")
    page.goto(f"{made.address}/console/tasks/{made.broken}")
    expect(page.locator("h1")).to_have_text("Not found")


def test_a_rerun_after_a_preview(made: Shop, opened: Open) -> None:
    page = opened(f"/tasks/{made.broken}")
    before = made.count(AsyncTask.name == "shop.charge")
    page.get_by_role("link", name=re.compile("Rerun")).click()
    page.get_by_role("button", name="Rerun now").click()
    failed = AsyncTask.status == AsyncTaskStatus.FAILURE
    wait_for(lambda: made.count(AsyncTask.name == "shop.charge") == before + 1, SECONDS, "the new task")
    wait_for(lambda: made.count(AsyncTask.name == "shop.charge", failed) == 2, SECONDS, "its failure")
    expect(page.locator("main")).to_contain_text("Rerun sent")


def test_callers_without_the_right_see_no_rerun(made: Shop, opened: Open) -> None:
    page = opened("/tasks", who="theirs")
    page.locator("table.rows tbody a").first.click()
    expect(page.locator("h1")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("Rerun"))).to_have_count(0)


SITE = """
from celery_asynctask.http import create_app
from fastapi import FastAPI
from proj import app

site = FastAPI()
site.mount("/ops/record", create_app(app))
"""


def test_below_a_prefix_of_another_application(made: Shop, browser: Browser) -> None:
    (made.project.path / "site_.py").write_text(SITE, encoding="utf-8")
    with serving(made.project.path, "-m", "uvicorn", "site_:site", "--port", "0") as listening:
        address = listening.replace("127.0.0.1", "localhost")
        context = patient(browser.new_context())
        page = context.new_page()
        page.goto(f"{address}/ops/record/")
        page.get_by_label("Token").fill(token_of("admin"))
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("h1")).to_have_text("Overview")
        for name in ("Tasks", "Errors", "Task types", "Workers", "Overview"):
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
            expect(page.locator("h1")).to_have_text(re.compile(name))
            assert page.url.startswith(f"{address}/ops/record/console/")
        [cookie] = context.cookies()
        assert (cookie.get("path"), cookie.get("httpOnly")) == ("/ops/record/console", True)
        assert not [link for link in links(page) if not link.startswith(f"{address}/ops/record/console/")]
        context.close()


def links(page: Any) -> list[str]:
    hrefs: list[str] = page.evaluate("[...document.querySelectorAll('a[href]')].map(one => one.href)")
    return hrefs


def test_a_live_list_keeps_the_focus(made: Shop, opened: Open, tmp_path: Path) -> None:
    """When rows above the focused row disappear, it stays focused. Tab reaches a list that was empty."""
    first, second = tmp_path / "first", tmp_path / "second"
    page = opened("/tasks?search=name:shop.wait status:STARTED")
    row = page.locator("table.rows tbody tr")
    expect(row).to_have_count(0)
    made.send(f"wait.delay({str(first)!r})")
    expect(row).to_have_count(1, timeout=1000 * patience(7))
    page.get_by_role("region", name="Tasks found").focus()
    page.keyboard.press("Tab")
    expect(row).to_be_focused()
    made.send(f"wait.delay({str(second)!r})")
    expect(row).to_have_count(2, timeout=1000 * patience(7))
    expect(row.nth(1)).to_be_focused()
    second.touch()
    expect(row).to_have_count(1, timeout=1000 * patience(7))
    expect(row).to_be_focused()
    first.touch()
    expect(row).to_have_count(0, timeout=1000 * patience(7))
    expect(page.locator("#main")).to_be_focused()


def test_what_a_live_page_says_of_itself(made: Shop, opened: Open) -> None:
    page = opened(f"/tasks/{made.chain}")
    button, state = page.get_by_role("button", name="Pause"), page.locator("#live-state")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    with page.expect_response(re.compile("/tasks/")):
        page.keyboard.press("r")
    page.wait_for_timeout(300)
    expect(state).to_have_text("Paused")
    button.click()
    expect(state).to_have_text("Live")
    page.context.clear_cookies()
    page.keyboard.press("r")
    expect(state).to_have_text("Signed out: reload the page")


def test_the_keyboard_without_single_keys(made: Shop, opened: Open) -> None:
    page = opened("/tasks")
    rows = page.locator("table.rows tbody tr")
    page.keyboard.press("?")
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    page.get_by_label("Single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    for _ in range(2):
        rows.first.focus()
        page.keyboard.press("j")
        page.keyboard.press("/")
        page.keyboard.press("?")
        expect(rows.first).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(rows.nth(1)).to_be_focused()
        page.reload()
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("Single-key shortcuts").check()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(rows.first).to_be_focused()
