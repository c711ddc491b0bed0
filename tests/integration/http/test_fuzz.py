"""Generated requests: every operation keeps what the document promises, for all callers.

Schemathesis makes them of the document, such as fit it and such as do not, and looks at every answer: no error of the
server; a status, a content type and a body that the document has; what fits is accepted, what does not is refused, and
nothing is answered without a token.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from celery import Celery
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from celery_asynctask import uninstall
from celery_asynctask.http import create_app
from celery_asynctask.queries.search.order import ORDERS, Cursor
from celery_asynctask.store import Store
from celery_asynctask.web import attempts
from celery_asynctask.web.parameters import ORDER_BY
from tests.histories import HISTORIES, about, lines, variant
from tests.integration.http.client import ADMIN, OURS, THEIRS, Api, api_over
from tests.services import SERVERS
from tests.tokens import token_of
from tests.workflows import CHARGE, order

pytestmark = pytest.mark.slow

UTC = dt.timezone.utc
EXAMPLES = int(os.environ.get("ASYNCTASK_FUZZED", "5"))
"""Requests to each operation; `tests.soak` makes more."""
# All that differs with the caller is tried on SQLite; what differs with the server is the SQL.
CALLERS = (ADMIN, "ours-of-7", "reader", None)
CALLERS_OF_SERVERS = CALLERS if "ASYNCTASK_FUZZED" in os.environ else (ADMIN,)
IDS = [f"of-{OURS}", f"of-{THEIRS}", CHARGE, f"of-{OURS}", "success"]
"""Ids of stored tasks; one of a customer more often, so that its own caller sees it."""

_PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0",<>'), min_size=1, max_size=20)
_QUOTED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0"\\'), max_size=9).map('"{}"'.format)
_KNOWN = st.sampled_from(["shop.*", "none", "*", "shop.charge", "celery@one", "1", "Value?rror", "1111111*", "t1"])
_TERMS = st.sampled_from(
    [
        *("status:FAILURE,lost", "retries:>=1", "since:2d", "created:2025-06-15", "-name:shop.*", "charge"),
        *("kwargs.currency:EUR", "args.0:7", "result:none", "wait:>1ms", "content.order:1", "customer:42..43"),
        *("11111111", "-run:<1h", "until:now", "message:money", "queue:celery", 'args.1:"é"', "result.0:1"),
    ]
)
_CURSORS = st.builds(
    lambda order, at, number: str(Cursor(order, at, number)),
    st.sampled_from(ORDERS),
    st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.integers(0, 2**63 - 1),
)
FORMATS = {
    "asynctask-text": st.lists(_PLAIN | _QUOTED | _KNOWN, min_size=1, max_size=20).map(",".join),
    "asynctask-search": st.lists(_TERMS, max_size=8).map(" ".join),
    "asynctask-duration": st.sampled_from(["0s", "1ms", "1.5h", "30d", "2w", "100y"]),
    "asynctask-cursor": _CURSORS,
    "asynctask-id": st.uuids().map(str) | st.sampled_from(["acme", "é 1", "42", "a*b", "none"]),
}
"""Texts of the document's own formats."""


@pytest.fixture(scope="module", autouse=True)
def _formats() -> None:
    for name, strategy in FORMATS.items():
        schemathesis.openapi.format(name, strategy)


@pytest.fixture
def api(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API over tasks with every history, of some customers and of none. Wrong tokens, which are in many requests,
    are not delayed."""
    monkeypatch.setattr(attempts, "FREE", 10**6)
    for name, history in HISTORIES.items():
        store.write(lines(about(history(), name)))
    for customer in (OURS, THEIRS):
        whose = {"customer": customer, "created_by": 7, "content": {"order": 1}}
        store.write(lines(about([variant(one, **whose) for one in HISTORIES["failed"]()], f"of-{customer}")))
    store.write(lines(order()))
    app = Celery("api", broker="memory://", set_as_current=False)
    with api_over(store, app, asynctask_journal_dir=str(tmp_path / "journal")) as made:
        yield made
    uninstall(app)  # a rerun has begun to record what it sends
    app.close()


def document() -> dict[str, Any]:
    """The OpenAPI document, the same over every store."""
    app = Celery("document", broker="memory://", set_as_current=False)
    made: dict[str, Any] = create_app(app).openapi()
    app.close()
    return made


def ask(api: Api, who: str | None, examples: int) -> None:
    """Send so many valid and invalid requests to each operation."""
    schema = schemathesis.openapi.from_dict(document())
    schema.app = api.app
    headers = {} if who is None else {"Authorization": f"Bearer {token_of(who)}"}
    seen: dict[str, set[int]] = {}
    ids: dict[str, str] = {}

    def check(case: Any) -> None:
        if case.meta.generation.mode.is_positive:
            _make_sense(case, ids)
        else:  # what is none, or empty, is not in the URL: what is wrong about it is not sent
            assume(all(value is not None and value not in ([], {}) for value in case.query.values()))
        answer = case.call_and_validate(headers=headers)
        seen.setdefault(case.operation.definition.raw["operationId"], set()).add(answer.status_code)

    operations = [one.ok() for one in schema.get_all_operations()]  # type: ignore[union-attr] # an error fails here
    modes = cast("Iterable[GenerationMode]", GenerationMode)  # mypy, told of 3.10, knows no StrEnum
    for operation in sorted(operations, key=lambda one: one.path.endswith("/purge")):  # at last, for it deletes them
        for mode in modes:
            cases = operation.as_strategy(generation_mode=mode)
            bounded = settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            bounded(given(cases)(check))()
    _is_enough(seen, who)


def _make_sense(case: Any, ids: dict[str, str]) -> None:
    """Values that no schema has: ids of stored tasks in place of generated ones, and a cursor of the requested
    order."""
    if "id" in case.path_parameters:
        made_up = case.path_parameters["id"]
        case.path_parameters["id"] = ids.setdefault(made_up, IDS[len(ids) % len(IDS)])
    if "cursor" in case.query and case.path == "/async-tasks":
        case.query["ordering"] = list(ORDER_BY)[base64.urlsafe_b64decode(case.query["cursor"][:4])[0]]


def _is_enough(seen: dict[str, set[int]], who: str | None) -> None:
    """Every operation succeeded or refused for the right reason, and refused invalid requests."""
    task = {200, 404} if who == "ours-of-7" else {200}
    expected = {
        "async_tasks_list": {200, 422},
        "async_tasks_stats": {200, 422},
        "async_tasks_retrieve": task,
        "async_tasks_attempts": task,
        "async_tasks_workflow": task,
        "async_tasks_rerun": {403} if who == "reader" else {422},
        "async_tasks_purge": {403} if who == "reader" else {200, 422},
        "audit_list": {200, 422} if who == ADMIN else {403},
        "health_retrieve": {200},
    }
    assert seen.keys() == expected.keys()
    for name, statuses in expected.items():
        assert (statuses if who is not None else {401}) <= seen[name], (name, seen[name])
    assert (who in (ADMIN, "ours-of-7")) == bool(seen["async_tasks_rerun"] & {200, 201}), seen


@pytest.mark.parametrize("who", CALLERS, ids=str)
def test_every_operation(api: Api, who: str | None) -> None:
    ask(api, who, EXAMPLES)


@pytest.mark.databases(*SERVERS)
@pytest.mark.parametrize("who", CALLERS_OF_SERVERS, ids=str)
def test_every_operation_over_a_server(api: Api, who: str | None) -> None:
    ask(api, who, EXAMPLES)
