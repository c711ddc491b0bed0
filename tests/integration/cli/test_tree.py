"""`celery asynctask tree` and `why`: their output."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from celery_asynctask.core.event import Event
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.histories import lines, published
from tests.integration.commands import Ended, Project
from tests.workflows import CHARGE, CHECKOUT, INVOICE, NOTIFY, SHIP, of, order

TREE = """\
5 tasks: ✔ 3 SUCCESS, ✖ 2 FAILURE
Since 2025-06-15 15:06:40.000, 1.0 s

✔ SUCCESS  shop.checkout  11111111  100 ms  ◆
├── ✔ SUCCESS  shop.charge  22222222  360 ms  1 retry  ◆
│   └── ✖ FAILURE  shop.ship  33333333  480 ms  ValueError  ◆◀
│       └── ✖ FAILURE  shop.notify  44444444  never sent
└── ✔ SUCCESS  shop.invoice  55555555  20 ms

◆ critical path  ◀ requested task
"""
WATERFALL = """\
5 tasks: ✔ 3 SUCCESS, ✖ 2 FAILURE
Since 2025-06-15 15:06:40.000, 1.0 s

                        |0              |250 ms         |500 ms         |750 ms   1.0 s|
◆  ✔ shop.checkout      ░███████                                                              100 ms
◆  ✔   shop.charge              ▓▓▓▓▓·············██████                                      360 ms
◆◀ ✖     shop.ship                                      ░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓      480 ms
   ✖       shop.notify                                                                 !  never sent
   ✔   shop.invoice              ░██                                                           20 ms

░ queued  · delayed (ETA or retry)  █ ran  ▓ failed  ? outcome unknown  ! never started

◆ critical path  ◀ requested task
"""
WHY = f"""\
✖ FAILURE  shop.notify  {NOTIFY}
It was never sent, because a task before it in its workflow did not succeed.
shop.ship [{SHIP}] failed:
It failed with ValueError: no stock.
Raised at app/shop/tasks.py:88 ship.
The attempt ended at 2025-06-15 15:06:41.000, after 480 ms on celery@one, process 4711.
"""


@pytest.fixture
def project(store: Store, tmp_path: Path) -> Project:
    """A project whose store has the workflow `tests.workflows.order`."""
    store.write(lines(order()))
    return Project(tmp_path, asynctask_url=store.settings.url)


def test_the_tree_of_a_workflow(project: Project) -> None:
    ended = project.run("tree", "33333")
    assert ended == Ended(0, TREE, "")


def test_the_waterfall(project: Project) -> None:
    ended = project.run("tree", SHIP, "--waterfall")
    assert ended == Ended(0, WATERFALL, "")
    assert max(map(len, ended.lines)) <= 100


def test_the_failed_branches_as_json(project: Project) -> None:
    ended = project.run("tree", INVOICE, "--failed", "--json", "--waterfall")
    assert (ended.code, ended.err) == (0, "")
    told = [(one["celery_task_id"], one["depth"], one["parent"], one["critical"]) for one in ended.values]
    assert told == [
        (CHECKOUT, 0, None, True),
        (CHARGE, 1, CHECKOUT, True),
        (SHIP, 2, CHARGE, True),
        (NOTIFY, 3, SHIP, False),
    ]
    assert [one["never_sent"] for one in ended.values] == [False, False, False, True]
    charge = ended.values[1]["attempts"]
    assert [(one["outcome"], one["error_type"]) for one in charge] == [("retried", "TimeoutError"), ("succeeded", None)]
    assert charge[1]["eta"] == "2025-06-15T15:06:40.400000Z"


def test_why_a_step_was_not_sent(project: Project) -> None:
    assert project.run("why", "44444") == Ended(0, WHY, "")
    told = project.run("why", NOTIFY, "--json").values
    assert told == [
        {
            "celery_task_id": NOTIFY,
            "name": "shop.notify",
            "status": "FAILURE",
            "cause": SHIP,
            "reasons": WHY.splitlines()[1:],
        }
    ]


@pytest.fixture
def file(tmp_path: Path) -> Project:
    """The same in an SQLite file, where the database does not matter."""
    store = Store(Settings(url=f"sqlite:///{tmp_path}/records.db"))
    store.prepare()
    hostile = cast("list[Event]", [{**published(), "name": "evil\x1b[2J\nname"}])
    store.write(lines([*order(), *of("evil", hostile, "evil")]))
    store.close()
    return Project(tmp_path, asynctask_url=store.settings.url)


def test_texts_from_rows_command_no_terminal(file: Project) -> None:
    for words in (("tree", "evil"), ("tree", "evil", "--waterfall"), ("why", "evil")):
        ended = file.run(*words)
        assert ended.code == 0
        assert "evil\ufffd[2J name" in ended.out
        assert "\x1b" not in ended.out


def test_nothing_has_failed(file: Project) -> None:
    ended = file.run("tree", "evil", "--failed")
    assert (ended.code, ended.err) == (0, "Nothing in this workflow has failed.\n")
    assert file.run("tree", "evil", "--failed", "--json").values == []


@pytest.mark.parametrize("command", ["tree", "why"])
def test_what_cannot_be_done(file: Project, command: str) -> None:
    assert file.run(command, "nobody") == Ended(1, "", "Error: No task has the id nobody, and none begins with it.\n")
    assert file.run(command).code == 2
    nowhere = file.run(command, SHIP, group=("--url", "sqlite:///nowhere.db"))
    assert (nowhere.code, nowhere.out) == (3, "")
    assert nowhere.err.startswith("Error: There is no database file")
