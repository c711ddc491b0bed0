"""Entries of the audit as texts: searches without what may be secret, and lines that nobody can forge."""

from __future__ import annotations

import datetime as dt

import pytest

from celery_asynctask.operations import retention
from celery_asynctask.operations.audit import MAX_NAME, MAX_TEXT, Action, Audit, Entry, _fitted, _line, purge_target
from celery_asynctask.operations.audit import search_target as target
from celery_asynctask.queries.scope import Scope
from celery_asynctask.queries.search.filter import parse
from celery_asynctask.queries.search.keys import JSON_KEYS
from celery_asynctask.settings import Settings
from celery_asynctask.store.connection import CONNECT_SECONDS

NOW = dt.datetime(2026, 1, 31, 14, 5, tzinfo=dt.timezone.utc)
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("search", "shown"),
    [
        ("", "*"),
        ("status:FAILURE,lost name:billing.* charge", "status:FAILURE,LOST name:billing.* name:*charge*"),
        ("-status:success customer:42 customer:none worker:*", "-status:SUCCESS customer:42 customer:none worker:*"),
        ("retries:>2 retries:1..3 run:>90s", "retries:>2 retries:1..3 run:>90s"),
        ("since:2d until:2026-01-31", "since:2026-01-29T14:05:00Z until:2026-01-31T00:00:00Z"),
        ('name:"a b"', 'name:"a b"'),
        (f"kwargs.card.number:{SECRET} -message:{SECRET},x", "kwargs.card.number:… -message:…"),
    ],
)
def test_a_search(search: str, shown: str) -> None:
    assert target(parse(search, NOW)) == shown


@pytest.mark.parametrize("key", [*sorted(f"{key}.a" for key in JSON_KEYS), "message"])
def test_values_are_not_in_it(key: str) -> None:
    assert SECRET not in target(parse(f"{key}:{SECRET}", NOW))


def test_a_purge() -> None:
    rules = retention.configured({"customer:42": None, f"content.x:{SECRET}": "12h", "*": "90d"}, NOW)
    assert purge_target(rules, unfinished=False) == "customer:42 stay, content.x:… older than 12h, * older than 90d"
    shown = purge_target(rules[2:], unfinished=True, scope=Scope.of([42, "acme"]))
    assert shown == "* older than 90d; unfinished ones too; of customers 42, acme"
    assert purge_target(rules[2:], unfinished=False, scope=Scope.of([])) == "* older than 90d; of customers none"
    shown = purge_target(rules[2:], unfinished=False, scope=Scope.of([42], [7, "ann"]))
    assert shown == "* older than 90d; of customers 42; of creators 7, ann"


FORGED = Entry(Action.PURGE, "ada\nroot", "10.0.0.1\r\n\x1b[2J", "x\u202ey" * MAX_TEXT, detail="1\x00" * MAX_TEXT)


def test_an_entry_is_one_line_as_long_as_its_columns() -> None:
    fitted = _fitted(FORGED)
    assert all(str(text).isprintable() for text in fitted)
    assert (len(fitted.target or ""), len(fitted.detail or "")) == (MAX_TEXT, MAX_TEXT)
    assert len(_fitted(FORGED._replace(actor="ä" * 1000, origin="ö" * 1000)).actor) == MAX_NAME
    assert _line(FORGED).isprintable()


def test_nobody_waits_long_for_a_host_that_does_not_answer() -> None:
    """But for as long as the user says."""
    url = "postgresql+psycopg://u@h/d"
    for given, seconds in (({}, CONNECT_SECONDS), ({"connect_args": {"connect_timeout": 60}}, 60)):
        audit = Audit(Settings(url=url, engine_options=given))
        assert audit._writer.settings.engine_options["connect_args"]["connect_timeout"] == seconds


def test_a_line_of_the_log() -> None:
    entry = Entry(Action.RERUN, "ada", "10.0.0.1", "5f0c2a", detail="as 7b11", operation="00ff")
    assert _line(entry) == "rerun done by 'ada' from '10.0.0.1': 5f0c2a; as 7b11; operation 00ff"
    assert _line(Entry(Action.SIGN_IN, "ada", "")) == "sign-in done by 'ada' from ''"
