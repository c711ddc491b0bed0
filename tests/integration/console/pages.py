"""Requests for pages of the console, and their text."""

from __future__ import annotations

import html
import re
from typing import Any

from httpx import Response

from tests.integration.http.client import ADMIN, Api


def look(api: Api, path: str, who: str | None = ADMIN, status: int = 200, **parameters: Any) -> str:
    """A page."""
    answer = api.get(f"/console{path}", who, **parameters)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    return answer.text


def words(page: str) -> str:
    """The text of a page's main part."""
    main = page[page.index("<main") : page.index("</main>")]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


def sent_form(api: Api, path: str, who: str | None = ADMIN, headers: Any = (), **fields: str) -> Response:
    """The answer to a posted form."""
    return api.ask("POST", f"/console{path}", who, headers, data=fields)
