"""Nothing is lost, everything is counted: random schedules of everything that can go wrong.

``ASYNCTASK_SCHEDULES`` is their number (`tests.soak` tries 10,000), ``ASYNCTASK_SEED`` selects them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_asynctask.journal import Directory, directory, files, frame, page, spare, survey, waiting, writer
from celery_asynctask.journal.names import KEPT
from celery_asynctask.settings import Settings
from celery_asynctask.store import Store
from tests.integration.faulty import Disk, FailingStore
from tests.integration.schedules import EFFECTS, STEPS, Runner, schedule

SEED = os.environ.get("ASYNCTASK_SEED", "1")
COUNT = int(os.environ.get("ASYNCTASK_SCHEDULES", "150"))


def noting(letting_go: Callable[..., Any], disk: Disk, path: Path) -> Callable[..., Any]:
    """That function, where the disk knows which kept segments made room."""

    def kept() -> set[str]:
        return {file.stem for place in (path, disk.second) for file in place.glob(f"*{KEPT}")}

    def noted(*arguments: Any) -> Any:
        before = kept()
        result = letting_go(*arguments)
        disk.let_go |= before - kept()
        return result

    return noted


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    second = tmp_path / "second"
    disk = Disk(second)
    for module in (writer, directory, files, page, spare):
        monkeypatch.setattr(module, "os", disk)
    monkeypatch.setattr(spare, "shutil", disk)
    for place, name, value in (
        *((writer, "SEGMENT_BYTES", 1500), (writer, "CHECK_BYTES", 500), (waiting, "KEPT_EVENTS", 3)),
        *((writer, "CHECK_SECONDS", 0), (writer, "RETRY_SECONDS", 0), (frame, "READ_BYTES", 700)),
        *((writer, "FULL_SECONDS", 0), (spare, "SPARE_BYTES", 4000), (spare, "OWN_BYTES", 1000)),
        (spare, "SEGMENT_BYTES", 500),
    ):
        monkeypatch.setattr(place, name, value)
    for owner, name in ((Directory, "let_go"), (spare, "make_room")):
        monkeypatch.setattr(owner, name, noting(getattr(owner, name), disk, tmp_path / "journal"))
    store = FailingStore(Settings(url=f"sqlite:///{tmp_path / 'ledger.db'}", journal_dir=tmp_path / "journal"))
    store.prepare()
    (tmp_path / "journal").mkdir()
    logging.disable()
    try:
        made = Runner(tmp_path / "journal", store, disk)
        for module in (spare, survey):
            monkeypatch.setattr(module, "spare_of", lambda *_: second if made.has_second else None)
        yield made
    finally:
        logging.disable(logging.NOTSET)
        Store.close(store)


def test_nothing_is_lost_and_everything_is_counted(runner: Runner) -> None:
    for number in range(COUNT):
        steps = schedule(f"{SEED}-{number}")
        kind = {"has_second": number % 2 > 0, "loses_host": number % 5 == 4}
        if runner.fails(steps, **kind):
            fewest = runner.shrink(steps, **kind)
            why = runner.fails(fewest, **kind)
            pytest.fail(f"ASYNCTASK_SEED={SEED}, schedule {number}, {kind}: {why}\n{fewest}", pytrace=False)
    print(f"\n{COUNT} schedules:", ", ".join(f"{name} {n}" for name, n in sorted(runner.happened.items())))
    assert [name for name in (*STEPS, *EFFECTS) if not runner.happened[name]] == []
