"""The results of a search, computed again in plain Python, and rows that are as varied as rows can be.

It follows the words of the grammar, not its SQL: a condition is right if it finds the same on every database.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import insert

from celery_asynctask.core.status import SHOWN, TERMINAL
from celery_asynctask.queries.search.filter import Filter, Term, Value
from celery_asynctask.queries.search.keys import JSON_KEYS
from celery_asynctask.store import Store
from celery_asynctask.store.models import AsyncTask, AsyncTaskAttempt

START = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.timezone.utc)
_SECOND = dt.timedelta(seconds=1)
_MICROSECOND = dt.timedelta(microseconds=1)

TEXTS = (
    "shop.charge", "shop.Charge", "shop.charge ", "shop_charge", "shop%charge", "shop.*", "shop.[ab]", "Größe.münze",
    "日本.語", "it's \"quoted\"", "back\\slash", "a!b", "none", "*", "?", "", " ", "x😀y", "shop.charge.refund", "50%",
)  # fmt: skip
ERRORS = (None, "ValueError", "valueerror", "KeyError", "Value%Error", "")
MESSAGES = (
    None,
    "no money",
    "No Money",
    "50% off_",
    "'; DROP TABLE async_task; --",
    "line\nbreak",
    "a*b?c[d]",
    "",
    "ünï",
)
CUSTOMERS = (
    None,
    "42",
    "7",
    "-5",
    f"{2**63 - 1}",
    "0",
    "acme",
    "Acme",
    "acme*",
    "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
)
CREATORS = (None, "7", "42", "ada@example", "none")
WORKERS = ((), (None,), ("celery@one",), ("celery@one", "celery@two"), ("celery@Two", None))
JSONS: tuple[Any, ...] = (
    None, 17, "17", 17.0, 17.5, "17.5", True, False, "true", "null", 0, -0.0, -3, "-3", 1e20, 10**20, 10**30,
    10**30 + 1,
    str(10**30), 1e-05, 0.1, 0.30000000000000004, "", " ", "a b ", "a b", "A b",
    "50%_*?[x]", "é😀", 'q"u\\o', "line\nbreak",
    [], {}, [17], {"x": 17}, 2**53 + 1, 2**63, -(2**63), 1.5e300,
)  # fmt: skip
KEYS = ("id", "odd key", "dot.ted", "co:lon", "é", 'q"u', "b\\s", "0", "1-", "$", "[0]", "a'b", "%", "*")


def rows() -> tuple[list[AsyncTask], list[AsyncTaskAttempt]]:
    """Some 60 tasks and their attempts."""
    tasks, attempts = [], []
    statuses = list(SHOWN)
    for number in range(64):
        status = statuses[number % len(statuses)]
        created = START + (number // 2) * 7_919 * _SECOND + (number % 5) * 250_001 * _MICROSECOND
        started = (
            None
            if number % 7 == 3
            else created + (number % 4) * 1500 * 1000 * _MICROSECOND + (number % 3) * _MICROSECOND
        )
        task_id = (
            f"{number:08x}-Aa{'%_!'[number % 3]}" if number % 3 else f"{number * 7:08x}-0000-4000-8000-{number:012x}"
        )
        tasks.append(
            AsyncTask(
                celery_task_id=task_id,
                name=TEXTS[number % len(TEXTS)],
                created_by_name=None if number % 4 == 1 else TEXTS[(number * 3) % len(TEXTS)],
                created_at=created,
                status=status,
                error_type=ERRORS[number % len(ERRORS)],
                error_message=MESSAGES[number % len(MESSAGES)],
                retries=(number * 5) % 4,
                started_at=started,
                completed_at=(started or created) + number * 100_000 * _MICROSECOND if status in TERMINAL else None,
                root_task_id=None if number % 6 == 0 else f"{number // 4:08x}-root",
                parent_task_id=None if number % 2 else f"{number // 4:08x}-Root",
                trace_id=None if number % 5 == 0 else f"{number % 8:032x}",
                span_id=None if number % 5 < 2 else f"{number:016x}",
                task_args=None if number % 8 == 0 else [JSONS[number % len(JSONS)], [number, {"0": "in"}], "s"],
                task_kwargs=_kwargs(number),
                result=JSONS[number % len(JSONS)],
                content=_content(number),
                **owner("customer", CUSTOMERS[number % len(CUSTOMERS)] or ""),
                **owner("created_by", CREATORS[number % len(CREATORS)]),
                origin_key="",
                order_key="",
                trace_key="",
                content_key="",
            )
        )
        for run, worker in enumerate(WORKERS[number % len(WORKERS)]):
            attempts.append(
                AsyncTaskAttempt(
                    celery_task_id=task_id,
                    customer_key=tasks[-1].customer_key,
                    run_key=f"{run:04x}",
                    name="shop.charge",
                    retries=run,
                    redelivered=False,
                    worker=worker,
                    queue=(None, "celery", "high%", "Celery")[(number + run) % 4],
                    end_key="",
                )
            )
    return tasks, attempts


def owner(column: str, key: str | None) -> dict[str, Any]:
    """The columns of the id of a customer or creator."""
    is_number = key is not None and re.fullmatch(r"-?[0-9]{1,19}", key) is not None
    return {column: int(key) if is_number and key is not None else None, f"{column}_key": key}


def _kwargs(number: int) -> Any:
    if number % 9 == 0:
        return None
    value = JSONS[(number * 5) % len(JSONS)]
    nested = {key: JSONS[(number + at) % len(JSONS)] for at, key in enumerate(KEYS)}
    return {"account_id": value, "order": {"id": value, "lines": [{"n": number}, value]}, **nested}


def _content(number: int) -> Any:
    if number % 4 == 0:
        return None
    return (
        {"periodic_task_name": TEXTS[number % len(TEXTS)]}
        if number % 4 == 1
        else {"17": number % 3, "l": [[number % 3]]}
    )


def found(search: Filter, tasks: Sequence[AsyncTask], attempts: Sequence[AsyncTaskAttempt]) -> set[str]:
    """Ids of the tasks that the search finds."""
    runs: dict[str, list[AsyncTaskAttempt]] = {}
    for attempt in attempts:
        runs.setdefault(attempt.celery_task_id, []).append(attempt)
    return {
        task.celery_task_id
        for task in tasks
        if all(holds(term, task, runs.get(task.celery_task_id, [])) for term in search.terms)
    }


def holds(term: Term, task: AsyncTask, runs: Sequence[AsyncTaskAttempt]) -> bool:
    """Whether a term holds for a task."""
    return any(_holds(term, value, task, runs) for value in term.values) is not term.negated


_PLAIN = {
    "status": "status", "retries": "retries",
    "created": "created_at",
    "since": "created_at", "until": "created_at", "started": "started_at", "completed": "completed_at",
}  # fmt: skip
_TEXT = {
    "name": "name", "created_by_name": "created_by_name", "error": "error_type", "message": "error_message", "id":
    "celery_task_id", "root": "root_task_id", "parent": "parent_task_id", "trace": "trace_id", "span": "span_id",
}  # fmt: skip


def _holds(term: Term, value: Value, task: AsyncTask, runs: Sequence[AsyncTaskAttempt]) -> bool:
    if term.key in ("customer", "created_by"):
        if value.operator in ("=", "none", "any"):
            return _fits(getattr(task, f"{term.key}_key") or None, value)
        return _compares(getattr(task, term.key), value)
    if term.key in _PLAIN:
        return _compares(getattr(task, _PLAIN[term.key]), value)
    if term.key in ("wait", "run"):
        first, last = (task.created_at, task.started_at) if term.key == "wait" else (task.started_at, task.completed_at)
        return _compares(last - first if first is not None and last is not None else None, value)
    if term.key in ("worker", "queue"):
        texts = [text for run in runs if (text := getattr(run, term.key)) is not None]
        return not texts if value.operator == "none" else any(_fits(text, value) for text in texts)
    if term.key == "periodic":
        return _is_like(at(task.content, ("periodic_task_name",)), value)
    if term.key in _TEXT:
        if term.key == "message" and value.operator == "=":
            value = value._replace(value=f"*{value.value}*")
        if term.key == "id" and value.operator == "=" and not re.search(r"[*?](?!\])", value.value):
            value = value._replace(value=f"{value.value}*")
        return _fits(getattr(task, _TEXT[term.key]), value)
    assert term.key in JSON_KEYS, f"{term.key}: add the key to _PLAIN or _TEXT, and values of its column to rows()"
    column = "result" if term.key == "result" else "content" if term.key == "content" else f"task_{term.key}"
    return _is_like(at(getattr(task, column), term.path), value)


def _compares(what: Any, value: Value) -> bool:
    if value.operator in ("none", "any"):
        return (what is None) is (value.operator == "none")
    if what is None:
        return False
    found: dict[str, bool] = {
        "=": what == value.value,
        ">": what > value.value,
        ">=": what >= value.value,
        "<": what < value.value,
        "<=": what <= value.value,
        "..": value.high is not None and value.value <= what <= value.high,
    }
    return found[value.operator]


def _fits(text: str | None, value: Value) -> bool:
    if value.operator in ("none", "any"):
        return (text is None) is (value.operator == "none")
    return text is not None and re.match(fnmatch.translate(value.value), text) is not None


def at(value: Any, path: Sequence[str]) -> Any:
    """The value at the path; None: there is none."""
    for name in path:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]*", name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _is_like(what: Any, value: Value) -> bool:
    if value.operator in ("none", "any"):
        return (what is None) is (value.operator == "none")
    if isinstance(what, str):
        return _fits(what, value)
    if what is None or isinstance(what, (list, Mapping)):
        return False
    wanted = value.value
    if isinstance(what, bool):
        return bool(wanted == json.dumps(what))
    if not re.fullmatch(r"-?[0-9].*", wanted) or re.match("-?0[0-9]", wanted):
        return False
    try:
        return Decimal(json.dumps(what)) == Decimal(wanted)
    except InvalidOperation:
        return False


def row(task_id: str, **more: Any) -> dict[str, Any]:
    """A pending task. The keys of its customer and creator are those of the numbers, where none are given."""
    keys = dict.fromkeys(("origin_key", "order_key", "trace_key", "content_key"), "")
    columns = {"name": "shop.charge", "status": "PENDING", "retries": 0, "created_at": START, "customer": None}
    numbers = {f"{name}_key": str(more[name]) for name in ("customer", "created_by") if more.get(name) is not None}
    owners = {"customer_key": "", "created_by_key": None, **numbers}
    return {"celery_task_id": task_id, **columns, **keys, **owners, **more}


def add(store: Store, rows: list[dict[str, Any]]) -> None:
    with store.engine.begin() as connection:
        connection.execute(insert(AsyncTask), rows)
