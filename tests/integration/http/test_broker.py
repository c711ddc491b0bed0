"""The broker of reruns over HTTP, and problems where it is away or not set up."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from celery import Celery

from celery_asynctask import uninstall
from celery_asynctask.errors import AsyncTaskError
from celery_asynctask.operations import rerun
from celery_asynctask.store import Store
from tests import services
from tests.integration.http.client import OURS, Api, api_over, is_problem, tell
from tests.integration.rows import rows
from tests.pace import patience
from tests.waiting import wait_for


@pytest.mark.parametrize(
    ("settings", "logged"),
    [
        ({"task_always_eager": True}, "task_always_eager is set"),
        ({"asynctask_enabled": False}, "asynctask_enabled is False"),
        ({"imports": ["no.such.module"]}, "No module named 'no'"),
    ],
    ids=["eager", "off", "imports"],
)
def test_what_the_server_is_not_set_up_for(
    store: Store, shop: Celery, settings: dict[str, Any], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The setup itself is in the log alone."""
    tell(store, "old", OURS)
    with api_over(store, shop, **settings) as api:
        detail = is_problem(api.post("/async-tasks/old/rerun", "ours"), "refused", 409)
    assert detail == "This server is not set up to rerun tasks. Its log says why."
    assert logged in caplog.text
    uninstall(shop)
    assert rows(store).keys() == {"old"}


def test_a_broker_that_is_away(store: Store, shop: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Its address is in the log alone."""
    tell(store, "old", OURS)
    with api_over(store, shop, broker_url="redis://:secret@127.0.0.1:9/0") as api:
        answer = api.post("/async-tasks/old/rerun", "ours")
    detail = is_problem(answer, "broker-unavailable", 503)
    assert "redis" not in detail
    assert answer.headers["retry-after"] == "5"
    assert "redis://:**@127.0.0.1:9/0 cannot be reached" in caplog.text
    assert "secret" not in caplog.text
    uninstall(shop)
    assert rows(store).keys() == {"old"}


def test_a_broker_that_refuses_it(
    store: Store, shop: Celery, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was reached a moment before."""
    tell(store, "old", OURS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(shop.tasks["shop.charge"], "apply_async", fail)
    is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)
    assert "old could not be rerun: ConnectionResetError: gone" in caplog.text


@pytest.mark.parametrize(
    ("step", "kind", "status"), [("reach_broker", "broker-unavailable", 503), ("send", "refused", 409)]
)
def test_an_error_that_says_nothing_of_a_connection(
    store: Store, api: Api, monkeypatch: pytest.MonkeyPatch, step: str, kind: str, status: int
) -> None:
    """Before the broker was reached, it counts as the broker's."""
    tell(store, "old", OURS)

    def fail(*_: Any) -> Any:
        raise AsyncTaskError("No such transport.")

    monkeypatch.setattr(rerun, step, fail)
    is_problem(api.post("/async-tasks/old/rerun"), kind, status)


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_broker_that_goes_away_after_it_was_reached(
    store: Store, shop: Celery, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each raises errors of its own."""
    tell(store, "old", OURS)
    url = {"redis": "redis://127.0.0.1:9/0", "amqp": "amqp://127.0.0.1:9//"}[broker]
    monkeypatch.setattr(rerun, "reach_broker", lambda _app: None)
    with api_over(store, shop, broker_url=url, task_publish_retry=False) as api:
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)


def test_a_result_backend_that_is_away(store: Store, shop: Celery) -> None:
    """Celery calls it before it sends a task."""
    tell(store, "old", OURS)
    shop.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0, "timeout": 1}}
    with api_over(store, shop, result_backend="redis://127.0.0.1:9/0", redis_retry_on_timeout=False) as api:
        is_problem(api.post("/async-tasks/old/rerun"), "broker-unavailable", 503)


@pytest.mark.broker
def test_over_a_real_broker(store: Store, shop: Celery) -> None:
    url = services.redis_url(7)
    tell(store, "old", OURS)
    queue = f"http-{dt.datetime.now(dt.timezone.utc).timestamp():.6f}"
    with api_over(store, shop, broker_url=url, task_default_queue=queue) as api:
        new = api.post("/async-tasks/old/rerun", "ours-rerun").json()["celeryTaskId"]
    with shop.connection_for_read() as connection:
        waiting = connection.SimpleQueue(queue)
        message = waiting.get(timeout=patience(10))
        message.ack()
        waiting.queue.delete()
        waiting.close()
    assert message.headers["id"] == new
    wait_for(lambda: new in rows(store), 20, "the new task's row")
    assert rows(store)[new].content == {"rerun_of": "old", "rerun_by": "ours-rerun"}
