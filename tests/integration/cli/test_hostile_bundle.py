"""A bundle that somebody has changed is refused with its line, or all that reads it works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celery_asynctask.core.columns import ATTEMPT, TASK, Column, Type
from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.errors import BundleError
from celery_asynctask.operations import bundle
from celery_asynctask.queries import Reader
from celery_asynctask.queries.task import is_id
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.conftest import EXAMPLES
from tests.histories import about, lines, published
from tests.integration.bundles import ODD, bundle_of, import_into
from tests.integration.commands import Project
from tests.integration.http.client import Api, api_over
from tests.integration.purge import record


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


TEXTS: Final = [
    *("", " ", ".", "..", "/", "?", "#", "%2f", "=1+1", "-", "*", "[", "none", "true", "0", "1", "mine", "None"),
    *(
        ODD,
        "\x1b]0;x\x07",
        "\x9b31m",
        "\u202e",
        "<script>",
        "{task_id}",
        "%s%n",
        "a\nb",
        "\r",
        "\0",
        "\ud800",
        "\U0010ffff",
    ),
    *("a" * size for size in (16, 17, 32, 64, 65, 255, 256, 20_000, 70_000)),
]
TIMES: Final = [
    *("1970-01-01T00:00:00Z", "2999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
    *("2026-01-31T14:05:00.123456Z", "2026-01-31", "Z", "", 0),
]
NUMBERS: Final = [0, 1, -1, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, -(2**63) + 1, 2**63, 10**400, 1.5, True, "1"]
VALUES: Final = [
    *(deep(20), deep(99), deep(100), deep(101), 10**400, -0.0, 1e308, "", [], {}, {"": {"": 1}}, [[], {}]),
    *(
        {"$asynctask": mark}
        for mark in ("cut", "as", "cycle", "keys", "redacted", "nothing", 5, None, {"a": 1}, "erased")
    ),
    *(
        {"$asynctask": "cut", "head": 5, "size": "x", "type": []},
        {"$asynctask": "as", "type": 5},
        {"$asynctask": {"cut": 1}},
    ),
    *(
        {"__type__": "datetime", "__value__": "x"},
        {"__type__": "decimal", "__value__": {}},
        {"__type__": [], "__value__": 1},
    ),
    *({"rerun_of": ["a"], "rerun_by": {}}, {"periodic_task_name": []}, {"a.b": 1, "$": 2, "0": 3}),
    *([*TEXTS], {one: one for one in TEXTS}),
]
STATUSES: Final = [*(status.value for status in AsyncTaskStatus), "DONE", "", 0]


def keys() -> list[str]:
    """Keys with the least and the largest parts, and texts that are none."""
    made = ["", "0", "f" * 58, "z" * 41]
    for digit, flag in (("0", "0"), ("f", "1")):
        message, token, time = digit * 6, digit * 20, digit * 14
        for phase in "04":
            event = f"{message}{phase}{flag}{token}{phase}{time}"
            made += [f"{time}1{event}", f"{time}0{event}", f"{time}01{event}", f"{phase}{time}"]
        made += [f"{time}00", f"{time}0"]
        made += [f"{time}{message}1{token}", f"{time}{message}0{token}"]
        made += [f"{time}10{message}0{time}", f"{time}03{message}2{time}"]
    return made


BY_TYPE: Final[dict[Type, st.SearchStrategy[Any]]] = {
    **dict.fromkeys((Type.NUMBER, Type.INTEGER, Type.LONG), st.sampled_from(NUMBERS)),
    Type.TIME: st.sampled_from(TIMES),
    Type.JSON: st.sampled_from(VALUES),
    Type.STATUS: st.sampled_from(STATUSES),
    Type.BOOLEAN: st.booleans(),
    Type.KEY: st.sampled_from(keys()),
}


def values_of(column: Column) -> st.SearchStrategy[Any]:
    return (
        st.none() | BY_TYPE.get(column.type, st.sampled_from(TEXTS))
        if column.nullable
        else BY_TYPE.get(column.type, st.sampled_from(TEXTS))
    )


def row_of(columns: tuple[Column, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Other values for a few columns."""
    return st.lists(
        st.sampled_from(columns).flatmap(lambda column: st.tuples(st.just(column.name), values_of(column))),
        min_size=1,
        max_size=12,
    ).map(dict)


CHANGES: Final = st.tuples(st.integers(0, 50), row_of(TASK), row_of(ATTEMPT) | st.just({}))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Tasks of every kind, members of one workflow."""
    url = f"sqlite:///{tmp_path_factory.mktemp('good')}/rows.db"
    store = Store(Settings(url=url))
    store.prepare()
    for history in ("success", "failed", "retries_exhausted", "ends_carry_starts", "revoked", "lost"):
        record(store, history, history)
    store.write(
        lines(
            e for one, parent in {"1": None, "2": "1"}.items() for e in about([published(root="1", parent=parent)], one)
        )
    )
    store.close()
    reader = Reader(url)
    made = bundle_of(reader)
    reader.close()
    return made


def whole(good: list[bytes], tasks: list[dict[str, Any]]) -> list[bytes]:
    return [
        good[0],
        *(json.dumps(task).encode() for task in tasks),
        json.dumps({"end": True, "tasks": len(tasks)}).encode(),
    ]


@given(changes=st.lists(CHANGES, min_size=5, max_size=5))
@settings(
    max_examples=max(2, EXAMPLES // 50),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
def test_it_is_refused_or_shown(
    good: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, dict[str, Any], dict[str, Any]]],
) -> None:
    tasks = []
    for number, (which, columns, attempt) in enumerate(changes, 1):
        task = json.loads(good[1 + which % (len(good) - 2)])
        task = owned({**task, "id": number, "celery_task_id": f"{number}-task"})
        for name, value in columns.items():
            task = accepted(good, {**task, name: value}) or task
        for name, value in attempt.items():
            task = accepted(good, {**task, "attempts": [{**one, name: value} for one in task["attempts"]]}) or task
        tasks.append(task)
    path = tmp_path_factory.mktemp("there")
    url = f"sqlite:///{path}/rows.db"
    import_into(url, whole(good, tasks))
    looked_at(path, url, [task["celery_task_id"] for task in tasks])


def owned(task: dict[str, Any]) -> dict[str, Any]:
    whose = {name: task[name] for name in ("celery_task_id", "customer_key")}
    return {**task, "attempts": [{**one, **whose} for one in task["attempts"]]}


def accepted(good: list[bytes], task: dict[str, Any]) -> dict[str, Any] | None:
    """The task, its attempts with it; None if it is refused, with its line."""
    task = owned(task)
    try:
        list(bundle.read(whole(good, [task])))
    except BundleError as exc:
        refusal = str(exc)
    else:
        return task
    assert refusal.startswith("Line 2: ")
    return None


def looked_at(path: Path, url: str, ids: list[str]) -> None:
    project = Project(
        path,
        asynctask_url=url,
        asynctask_trace_url="https://t/{trace_id}",
        asynctask_links={"L": "https://l/{name}?{start}"},
    )
    for command in ("list", "list --json", "errors", "stats", "top", "export"):
        clean(project.run(*command.split()))
    assert project.run("export", "--format", "csv").code == 0
    for task_id in ids:
        for command in ("show", "show --full", "tree", "why", "rerun --unfinished --again --force-name"):
            clean(project.run(*command.split(), "--", task_id))
    store = Store(Settings(url=url))
    with api_over(store) as api:
        for address in (
            "/async-tasks",
            "/async-tasks/stats",
            "/health",
            *(f"/console/{page}" for page in ("", "tasks", "errors", "names", "workers", "tasks.csv")),
        ):
            assert api.get(address).status_code == 200, address
        for number, task_id in [
            (one["id"], one["celeryTaskId"]) for one in api.ok("/async-tasks", limit=100)["results"]
        ]:
            for address in ("", "/attempts", "/workflow"):
                assert api.get(f"/async-tasks/{number}{address}").status_code == 200, address
            assert api.post(f"/async-tasks/{number}/rerun", dryRun=True, unfinished=True).status_code in (200, 409)
            for page in ("", "/workflow", "/rerun"):
                shown(api, f"/console/task/{number}{page}", is_addressable=is_id(task_id))
        for task_id in ids:
            assert api.get(f"/console/tasks/{quote(task_id, safe='')}").status_code < 500
    store.close()


def shown(api: Api, address: str, *, is_addressable: bool) -> None:
    """The page, where the address of a number may lead to that of an id. No address has an id with control characters,
    which a broker may carry all the same."""
    answer = api.get(address)
    if answer.status_code == 302:
        answer = api.get(answer.headers["location"])
    assert answer.status_code == 200 or (answer.status_code == 404 and not is_addressable), (address, answer)


def clean(ended: Any) -> None:
    assert ended.code in (0, 1, 2), ended
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", (ended.out + ended.err).replace("\r\n", "")), ended
