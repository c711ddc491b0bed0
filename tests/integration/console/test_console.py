"""All pages of the console: authentication, headers, files, addresses; and the page of tasks."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from httpx import Response
from markupsafe import escape

from celery_asynctask.console.markup import SEARCH_EXAMPLES, SECURITY, rate
from celery_asynctask.core.status import SHOWN
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.http.client import OURS, Api, api_over, statements, tell
from tests.tokens import cookie_of, token_of

PAGES = (
    "/",
    "/tasks",
    "/errors",
    "/names",
    "/name?name=shop.charge",
    "/workers",
    "/tasks/ours",
    "/tasks/ours/workflow",
)
MAX_BYTES = 100_000
pytestmark = pytest.mark.usefixtures("two_tenants")

ROWS = re.compile(r'<tr id="t-\d+">')


def get(api: Api, path: str, who: str | None = "admin", headers: Any = ()) -> Response:
    """A page as a browser requests it, with the cookie of a signed-in user."""
    cookie = {"Cookie": cookie_of(who)} if who is not None else {}
    answer = api.ask("GET", f"/console{path}", None, {**cookie, **dict(headers)})
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY
    return answer


def post(api: Api, path: str, **fields: str) -> Response:
    return api.ask("POST", f"/console{path}", None, data=fields)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_a_signed_in_user(api: Api, path: str) -> None:
    answer = get(api, path, None)
    assert answer.status_code == 401
    assert ">Token</label>" in answer.text
    assert "shop.charge" not in re.sub(r'value="[^"]*"', "", answer.text)
    assert get(api, path, "ours-none").status_code == 403
    assert get(api, path).status_code == 200


@pytest.mark.usefixtures("one_minute")
@pytest.mark.parametrize("path", [path for path in PAGES if path != "/workers"])
def test_an_idle_page_is_one_read(api: Api, path: str) -> None:
    """Except the page of workers: their heartbeats are no change of the record."""
    first = get(api, path)
    tag = {"If-None-Match": first.headers["etag"]}
    get(api, path, headers=tag)  # from here on it is known at which revision that was
    with statements(api) as sent:
        answer = get(api, path, headers=tag)
    assert (answer.status_code, answer.content) == (304, b"")
    assert [one for one in sent if not one.startswith(("BEGIN", "ROLLBACK"))] == sent[-1:]
    assert "async_task_revision" in sent[-1]


@pytest.mark.parametrize("path", ["/tasks", "/errors"])
@pytest.mark.parametrize(("search", "made"), [("since:2d", True), ("since:2020-01-01Z", False)])
def test_a_search_that_counts_from_now_is_made_again(api: Api, path: str, search: str, made: bool) -> None:
    """Later it finds other tasks, although no task has changed."""
    there = f"{path}?search={search}"
    tag = {"If-None-Match": get(api, there).headers["etag"]}
    get(api, there, headers=tag)
    with statements(api) as sent:
        assert get(api, there, headers=tag).status_code == 304
    assert any("async_task.created_at" in one for one in sent) is made


def test_a_tag_belongs_to_its_caller(api: Api) -> None:
    tag = {"If-None-Match": get(api, "/tasks").headers["etag"]}
    get(api, "/tasks", headers=tag)
    assert get(api, "/tasks", "ours", headers=tag).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_code_or_styles_in_it(api: Api, path: str) -> None:
    """The content security policy would refuse them."""
    page = get(api, path).text
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=|javascript:", page)
    assert not re.search(r"https?://(?!www\.w3\.org)", re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL))


@pytest.mark.parametrize("path", ["/tasks", "/errors", "/names"])
def test_a_parameter_that_is_not_known_is_refused(api: Api, path: str) -> None:
    answer = get(api, f"{path}?serach=x")
    assert answer.status_code == 422
    assert "serach" in answer.text


def test_the_menu_is_there_for_who_can_follow_it(api: Api, store: Store) -> None:
    for path in ("/", "/sign-in"):
        assert ">Errors</a>" not in get(api, path, None).text
    assert ">Errors</a>" in get(api, "/sign-in").text
    with api_over(store, loopback=True, asynctask_tokens=None) as here:
        assert ">Errors</a>" in get(here, "/sign-in", None).text


def test_signing_in_leads_back_to_where_one_was(api: Api) -> None:
    there = "/console/task/a%3Fb%23c%20%C3%A9"
    assert f'value="{there}?attempts=first"' in api.ask("GET", f"{there}?attempts=first", None).text


@pytest.mark.parametrize(
    "back",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/a\nb", ""],
)
def test_signing_in_leads_nowhere_else(api: Api, back: str) -> None:
    assert post(api, "/sign-in", token=token_of("ours"), back=back).headers["location"] == "/console/"


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/tasks/ours/rerun"])
def test_other_sites_do_nothing(api: Api, path: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Cookie": cookie_of("admin")}
    answer = api.ask("POST", f"/console{path}", None, headers, data={"token": token_of("admin")})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_the_api_knows_no_cookie(api: Api) -> None:
    """So no page of another site can query it."""
    answer = api.ask("GET", "/async-tasks", None, {"Cookie": cookie_of("admin")})
    assert answer.status_code == 401


def test_files_are_small_and_kept(api: Api) -> None:
    directory = files("celery_asynctask.console") / "static"
    sizes = {one.name: len(one.read_bytes()) for one in directory.iterdir()}
    assert sum(size for name, size in sizes.items() if name.endswith((".js", ".css"))) <= MAX_BYTES
    for link in set(re.findall(r'(?:href|src)="(/console/static/[^"]+)"', get(api, "/").text)):
        answer = api.app, fetched(api, link)
        assert answer[1].status_code == 200
        assert "immutable" in answer[1].headers["cache-control"]
        assert "immutable" not in fetched(api, link.partition("?")[0]).headers["cache-control"]
    assert fetched(api, "/console/static/..%2Fentry.py").status_code == 404


def fetched(api: Api, path: str) -> Response:
    """Without the headers that `Api.ask` expects of every answer: browsers keep files."""
    answer: Response = api.loop.run_until_complete(api._asked("GET", path))
    return answer


def test_the_root_address_leads_to_it(api: Api) -> None:
    answer = api.ask("GET", "/", None)
    assert (answer.status_code, answer.headers["location"]) == (307, "/console/")


@pytest.mark.parametrize("path", ["", "/"])
def test_its_address_without_more(api: Api, path: str) -> None:
    answer = api.ask("GET", f"/console{path}", None)
    assert (answer.status_code, answer.headers.get("location")) == ((401, None) if path else (307, "/console/"))


def test_credentials_of_a_proxy_do_not_hide_ours(api: Api) -> None:
    assert get(api, "/tasks", headers={"Authorization": "Basic b3BzOm9wcw=="}).status_code == 200


def test_a_cookie_of_another_server(store: Store) -> None:
    """Browsers send it to every port of a host."""
    with api_over(store, loopback=True, asynctask_tokens=None) as here:
        assert get(here, "/tasks").status_code == 200
        assert "without signing in" in get(here, "/sign-in").text
        assert "set-cookie" not in post(here, "/sign-in", token="").headers


def test_where_nobody_can_sign_in(store: Store) -> None:
    """The form does not promise what every page refuses."""
    with api_over(store, asynctask_tokens=None) as closed:
        assert get(closed, "/tasks").status_code == 401
        page = get(closed, "/sign-in").text
        assert "Nobody can read it until the operator sets" in page
        assert "without signing in" not in page


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers"])
def test_a_database_without_tables(tmp_path: Path, path: str) -> None:
    """Nothing has failed: no task was recorded yet, and the page says what to do."""
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'fresh.db'}"))
    with api_over(made) as fresh:
        for _ in range(2):
            page = get(fresh, path)
            assert page.status_code == 503
            assert "<h1>No tables yet</h1>" in page.text
            assert "celery -A APP asynctask upgrade" in page.text
            assert str(tmp_path) not in page.text
            assert (">Try again</a>" in page.text) == (path == "/")
            made.engine.connect().close()  # from here on there is a file
        made.prepare()
        assert get(fresh, path).status_code == 200
    made.engine.dispose()


def test_a_database_file_without_a_directory(tmp_path: Path) -> None:
    """No worker can create it: the page says what can be done, and the log where."""
    made = Store(Settings(url=f"sqlite:///{tmp_path / 'no-such' / 'fresh.db'}"))
    with api_over(made) as fresh:
        page = get(fresh, "/")
        assert page.status_code == 503
        assert "<h1>No directory for the database</h1>" in page.text
        assert "Create it, or correct asynctask_url." in page.text
        assert "Start a worker" not in page.text
        assert str(tmp_path) not in page.text
    made.engine.dispose()


def nobody(_request: object) -> None:
    """As the function of an application in which nobody has logged in."""


def test_a_page_without_a_login_says_what_to_do(store: Store) -> None:
    log_in = "Log in to the application"
    with api_over(store, asynctask_tokens=None, asynctask_access=nobody) as mounted:
        for path in ("/", "/sign-in"):
            assert log_in in get(mounted, path, None).text
        assert ">Token</label>" not in get(mounted, "/", None).text
    with api_over(store, asynctask_access=nobody) as both:
        page = get(both, "/", None).text
        assert ">Token</label>" in page
        assert "log in to the application" in page
    with api_over(store, asynctask_tokens=None) as closed:
        assert "set asynctask_tokens" in get(closed, "/", None).text
    with api_over(store) as tokens:
        page = get(tokens, "/sign-in", None).text
        assert "celery -A APP asynctask token" in page
        assert "application" not in page


@pytest.mark.parametrize("fields", [{"token": "\u20ac"}, {"token": ""}, {f"f{number}": "x" for number in range(30)}])
def test_forms_of_any_kind(api: Api, fields: dict[str, str]) -> None:
    assert post(api, "/sign-in", **fields).status_code in (401, 422)


def test_an_origin_that_is_none(api: Api) -> None:
    answer = api.ask("POST", "/console/sign-in", None, {"Origin": "http://[::1"}, data={"token": token_of("admin")})
    assert answer.status_code == 403


def test_looking_at_the_form_signs_nobody_in(api: Api) -> None:
    answer = api.ask("HEAD", "/console/sign-in", None)
    assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)


@pytest.mark.every_database
@pytest.mark.parametrize("task_id", ["a/b", "..", ".", "a\\b", "a b", "?x", "ü#%2F", "..%2F"])
def test_ids_of_any_kind_have_a_page(api: Api, store: Store, task_id: str) -> None:
    tell(store, task_id, OURS)
    link = re.search(r'href="/console(/task[^"]*)">shop.charge<', get(api, "/tasks?limit=25").text)
    assert link is not None
    answer = get(api, link[1].replace("&amp;", "&"))
    if answer.status_code == 302:
        answer = get(api, answer.headers["location"].removeprefix("/console"))
    assert answer.status_code == 200
    assert f"<code>{escape(task_id)}</code>" in answer.text


# -- the page of tasks


@pytest.mark.parametrize("path", ["/tasks", "/errors"])
@pytest.mark.parametrize("search", SEARCH_EXAMPLES)
def test_each_example_of_a_search_works(api: Api, path: str, search: str) -> None:
    [link] = re.findall(rf'href="([^"]+)"><code>{re.escape(str(escape(search)))}</code>', get(api, path).text)
    assert parse_qs(urlsplit(link.replace("&amp;", "&")).query)["search"] == [search]
    assert api.get(f"/console{path}", search=search).status_code == 200


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 per minute"),
        (1234.5, "1,234 per minute"),
        (10, "10 per minute"),
        (9.94, "9.9 per minute"),
        (0.1, "0.1 per minute"),
        (0.09, "130 per day"),
        (0.001, "1.4 per day"),
    ],
)
def test_a_low_rate_is_per_day(value: float, shown: str) -> None:
    assert rate(value) == shown


def test_the_help_of_a_search_says_what_a_term_may_be(api: Api) -> None:
    page = get(api, "/tasks").text
    for piece in (*SHOWN, "none", "low..high", "2026-01-31T14:05", "yesterday", "90s"):
        assert f"<code>{piece}</code>" in page


def test_other_parameters_stay_where_a_search_is_refused(api: Api) -> None:
    page = get(api, "/tasks?search=nonsense:1&status=FAILURE&ordering=createdAt&limit=25&columns=trace").text
    assert '<input type="hidden" name="status" value="FAILURE">' in page
    assert '<option value="createdAt" selected>' in page
    assert "<option selected>25</option>" in page
    assert 'value="trace" checked' in page
    assert 'value="last" selected' in page or "sort=last" in get(api, "/errors?search=nonsense:1&sort=last").text


@pytest.mark.every_database
def test_a_file_has_all_rows_however_large_their_values(
    api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        tell(store, f"more-{number}", OURS)
    monkeypatch.setattr(sys.modules["celery_asynctask.queries.search.page"], "MAX_CHARACTERS", 1000)
    assert len(get(api, "/tasks.ndjson?limit=200").text.splitlines()) == 152
    assert len(get(api, "/tasks.ndjson?limit=100").text.splitlines()) == 100


def test_customers_see_and_count_their_own(api: Api) -> None:
    page = get(api, "/tasks", "ours").text
    assert len(ROWS.findall(page)) == 1
    assert "SUCCESS 1" in re.sub(r"<[^>]+>", "", page)
    assert "theirs" not in page
    assert len(ROWS.findall(get(api, "/tasks").text)) == 2


def test_counts_are_of_the_search_whatever_status_is_chosen(api: Api) -> None:
    """They link to the other statuses."""
    for search, count in (("", 2), (f"customer:{OURS}", 1)):
        page = get(api, f"/tasks?status=FAILURE&search={search}").text
        assert not ROWS.findall(page)
        text = re.sub(r"<[^>]+>", "", page)
        assert f"SUCCESS {count}" in text
        assert "FAILURE 0" in text


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_there_is_no_file_of_a_search_that_is_refused(api: Api, suffix: str) -> None:
    answer = get(api, f"/tasks.{suffix}?search=retries:x")
    assert answer.status_code == 422
    assert "a whole number" in answer.text


def test_what_was_typed_stays_where_it_is_refused(api: Api) -> None:
    answer = get(api, "/tasks?search=nonsense%3A%22%3Cb%3E%22")
    assert answer.status_code == 422
    assert 'value="nonsense:&#34;&lt;b&gt;&#34;"' in answer.text
    assert 'role="alert"' in answer.text


def test_three_answers_without_tasks(api: Api, store: Store) -> None:
    assert "No tasks match" in get(api, "/tasks?search=name:nothing").text
    assert get(api, "/tasks?search=name:").status_code == 422
    assert "No tasks recorded yet" in get(api, "/tasks", "nobody").text
    store.engine.dispose()


@pytest.mark.parametrize("path", ["/tasks", "/errors", "/names"])
def test_a_search_that_finds_nothing_is_corrected(api: Api, path: str) -> None:
    page = get(api, f"{path}?search=name:notify").text
    assert "name: takes the whole name; name:*notify* finds a part." in page
    assert "Did you mean status:FAILURE?" in get(api, f"{path}?search=FAILURE").text
    assert "<b>" not in re.sub(r"(?s).*<main", "", get(api, f"{path}?search=name:*nothing*").text)


def test_values_need_their_right(api: Api) -> None:
    assert get(api, "/tasks?search=kwargs.currency:EUR", "reader").status_code == 403
    assert len(ROWS.findall(get(api, "/tasks?search=kwargs.currency:EUR").text)) == 2
    for who, there in (("admin", True), ("reader", False)):
        assert ("EUR" in get(api, "/tasks.ndjson", who).text) is there
        assert ("EUR" in get(api, "/tasks.csv", who).text) is there


def test_files_have_what_the_page_shows(api: Api) -> None:
    page = get(api, "/tasks?search=name:shop.*&ordering=createdAt&limit=25").text
    for suffix in ("csv", "ndjson"):
        link = re.search(rf'href="/console(/tasks\.{suffix}[^"]*)"', page)
        assert link is not None
        query = parse_qs(urlsplit(link[1].replace("&amp;", "&")).query)
        assert query == {"search": ["name:shop.*"], "ordering": ["createdAt"], "limit": ["25"]}
        answer = get(api, link[1].replace("&amp;", "&"))
        assert "attachment" in answer.headers["content-disposition"]
        if suffix == "csv":
            ids = [row["celery_task_id"] for row in csv.DictReader(io.StringIO(answer.text))]
        else:
            ids = [json.loads(line)["celeryTaskId"] for line in answer.text.splitlines()]
        assert sorted(ids) == ["ours", "theirs"]


@pytest.mark.parametrize("query", ["limit=7", "ordering=name", "cursor=x", "status=GONE", "limit=x"])
def test_what_is_not_allowed_is_said(api: Api, query: str) -> None:
    answer = get(api, f"/tasks?{query}")
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
