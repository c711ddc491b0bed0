"""The descriptions of code in docs/, and their words."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import celery_asynctask
from celery_asynctask.capture.payload.commands import TOOLS
from celery_asynctask.capture.payload.names import SENSITIVE_NAMES
from celery_asynctask.capture.payload.redaction import MIN_VALUE
from celery_asynctask.capture.payload.secrets import MAX_SECRETS, MAX_SIZE, PART
from celery_asynctask.capture.payload.tokens import VENDORS
from celery_asynctask.capture.payload.walk import MIN_DIGITS
from celery_asynctask.core.marks import MARKS
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.journal import metrics
from celery_asynctask.queries.search.filter import parse
from celery_asynctask.queries.search.keys import KEYS
from tests.unit.test_architecture import ARROWS

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(celery_asynctask.__file__).parent


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_arrows_are_those_that_are_tested() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.*)\|$", page("architecture.md"), re.MULTILINE)
    drawn = {part: set(re.findall(r"`(\w+)`", others)) for part, others in rows}
    single = {"auto", "django", "settings", "rules", "errors"}
    assert drawn == {part: others for part, others in ARROWS.items() if part not in single}


def test_the_paths_lead_through_files_that_are_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page("architecture.md")))
    assert {"capture/publish.py", "store/fold.py", "web/answer.py"} <= named
    missing = {one for one in named if not (PACKAGE / one).is_file() and not (DOCS.parent / one).is_file()}
    assert not missing


def test_the_glossary_has_every_status() -> None:
    terms = set(re.findall(r"^(\w[^\n]*)\n: ", page("glossary.md"), re.MULTILINE))
    assert {status.value for status in AsyncTaskStatus} <= terms


def test_the_words_that_are_not_used_are_listed() -> None:
    """A word on the left and at least one on the right, none of which stands on the left."""
    table = page("glossary.md").partition("| We say | not |\n| --- | --- |\n")[2]
    rows = [re.fullmatch(r"\| ([^|]+) \| ([^|]+) \|", line) for line in table.splitlines() if line]
    assert rows
    assert all(rows)
    ours = {row[1] for row in rows if row}
    assert not ours & {word.strip() for row in rows if row for word in row[2].split(",")}


def test_every_mark_is_described() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", page("security.md"), re.MULTILINE)) == set(MARKS)


def test_everything_that_is_redacted_is_listed() -> None:
    """Names, vendors of tokens, programs and addresses, each list in the order of the code."""
    text = page("redaction.md")
    listed = re.search(r"These are the names:\n\n(.+?)\n\n", text, re.DOTALL)
    assert listed
    assert tuple(" ".join(name.split()) for name in re.findall(r"`([^`]+)`", listed[1])) == SENSITIVE_NAMES
    flat = " ".join(text.split())
    assert f"Tokens are known of {', '.join(VENDORS)}." in flat
    programs = [f"`{program}`" for tool in TOOLS for program in tool.programs.split()]
    assert f"of these programs: {', '.join(programs)}." in flat
    assert f"every text of {MIN_VALUE} characters or more, every whole number of {MIN_DIGITS} digits or more" in flat
    assert f"At most {MAX_SECRETS} in one task, of {MAX_SIZE:,} characters together" in flat
    assert f"the first or last {PART} characters or more" in flat


def test_every_metric_is_described() -> None:
    described = set(re.findall(r"^\| `(asynctask\.[\w.]+)`", page("operating.md"), re.MULTILINE))
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    assert described == set(re.findall(r'"(asynctask\.[\w.]+)", *\n? *(?:unit|\[)', source))


def test_every_search_that_is_shown_is_understood() -> None:
    shown = re.findall(rf"`(-?(?:{'|'.join(KEYS)})(?:\.[\w.]+)?:[^`]+)`", page("searching.md"))
    assert "kwargs.order.id:17" in shown
    for search in shown:
        assert parse(search, dt.datetime.now(dt.timezone.utc)).terms, search


def test_what_contributors_are_led_to_is_there() -> None:
    """Paths and names of code; the checkout has this page, a source distribution has not."""
    for guide in (DOCS.parent / ".github").glob("CONTRIBUTING.md"):
        named = set(re.findall(r"`([a-z_]+)`", guide.read_text(encoding="utf-8")))
        assert {"published", "add_requested"} <= named
        code = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE.rglob("*.py")))
        code += (DOCS.parent / "tests" / "conftest.py").read_text(encoding="utf-8")
        assert named - {"priority"} <= set(re.findall(r"\w+", code))
