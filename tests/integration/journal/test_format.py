"""A journal as an earlier version wrote it is read by every later one: these bytes never change."""

from __future__ import annotations

import pytest

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.store import Store
from tests.integration.draining import MakeDrain, segment_files, source_of
from tests.integration.rows import stored

pytestmark = pytest.mark.every_database

SOURCE = "20260102T030405-4711-a1b2c3d4"
SEGMENT = (
    b'38aa2f7c 0 {"format":1,"source":"20260102T030405-4711-a1b2c3d4","segment":1,"host":"h","pid":471'
    b'1,"role":"child","at":1767323045000000,"dropped":{}}\n'
    b'7ca5076f 1 {"id":"t1","kind":"published","at":1767323045000000,"name":"n","created":176732304500'
    b'0000,"asked":true,"root":"t1","parent":null,"args":[1],"kwargs":{"k":"\\u00e9"}}\n'
    b'ea69b45f 2 {"id":"t1","run":"06475ef64cf345a1b2c3","kind":"started","at":1767323045000010,"name"'
    b':"n","pid":4711,"source":"20260102T030405-4711-a1b2c3d4","worker":"celery@h","queue":"celery","c'
    b'reated":1767323045000000,"sent":1767323045000001,"delivered":true,"asked":true,"root":"t1","pare'
    b'nt":null,"args":[1],"kwargs":{"k":"\\u00e9"}}\n'
    b'c2242f84 3 {"id":"t1","run":"06475ef64cf345a1b2c3","kind":"succeeded","at":1767323045000020,"sta'
    b'rted":1767323045000010,"name":"n","pid":4711,"source":"20260102T030405-4711-a1b2c3d4","worker":"'
    b'celery@h","queue":"celery","created":1767323045000000,"sent":1767323045000001,"delivered":true,"'
    b'asked":true,"root":"t1","parent":null,"args":[1],"kwargs":{"k":"\\u00e9"},"result":{"ok":true}}\n'
    b'1b45cccc 4 {"id":"t2","run":"06475ef64cf345a1b2c3","kind":"failed","at":1767323045000030,"name":'
    b'"n","retries":1,"ran":true,"inferred":true,"error_type":"WorkerLostError","error_message":"gone"'
    b"}\n"
)


def test_version_1(store: Store, make_drain: MakeDrain) -> None:
    drain = make_drain()
    drain.directory.path.joinpath(f"{SOURCE}.000001.segment").write_bytes(SEGMENT)
    drain.work()
    rows = stored(store)
    task = rows["t1"].task
    assert (task["status"], task["name"], task["result"]) == (AsyncTaskStatus.SUCCESS, "n", {"ok": True})
    assert (task["task_args"], task["task_kwargs"], task["root_task_id"]) == ([1], {"k": "é"}, "t1")
    at = 1_767_323_045_000_000
    assert (task["created_at"], task["started_at"], task["completed_at"]) == (at, at + 10, at + 20)
    [attempt] = rows["t1"].attempts.values()
    assert (attempt["outcome"], attempt["worker"], attempt["pid"]) == ("succeeded", "celery@h", 4711)
    assert (attempt["published_at"], attempt["received_at"], attempt["source"]) == (at + 1, at + 5, SOURCE)
    assert (rows["t2"].task["status"], rows["t2"].task["retries"]) == (AsyncTaskStatus.FAILURE, 1)
    source = source_of(store, SOURCE)
    assert (source.stored, source.last_number, source.quarantined, source.dropped) == (4, 4, 0, None)
    assert (source.host, source.pid, source.role) == ("h", 4711, "child")
    assert segment_files(drain) == []
    drain.look()
    assert source_of(store, SOURCE).settled_at is not None


def test_version_1_whose_recorder_died_before_it_had_settled_all(store: Store, make_drain: MakeDrain) -> None:
    """Its processes have no page: the ledger alone says that there was something."""
    drain = make_drain()
    path = drain.directory.path.joinpath(f"{SOURCE}.000001.segment")
    path.write_bytes(SEGMENT)
    drain._pages.settle = lambda *_: None  # type: ignore[method-assign]
    drain.batch()
    assert source_of(store, SOURCE).settled_at is None
    after = make_drain()
    after.work()
    after._watch.look_at = 0.0
    after.look()
    assert source_of(store, SOURCE).settled_at is not None


def padded(*lines: bytes) -> bytes:
    first, counts, *starts = lines
    return first.ljust(2048, b"\0") + counts.ljust(2048, b"\0") + b"".join(start.ljust(4096, b"\0") for start in starts)


PAGE = padded(
    b'e6e2538a 0 {"format":2,"source":"20260102T030405-4711-a1b2c3d4","segment":1,"host":"h","pid":471'
    b'1,"role":"child","at":1767323045000000,"dropped":{}}\n',
    b'fbde7d71 7 {"dropped":{"ENOSPC":2},"held":1}\n',
    b'e375c40c 6 {"id":"t3","run":"06475ef64cf345a1b2c3","kind":"started","at":1767323045000040,"name"'
    b':"n","pid":4711,"source":"20260102T030405-4711-a1b2c3d4","created":1767323045000000}\n',
    b"\n",
)


def test_the_page_of_version_2(store: Store, make_drain: MakeDrain) -> None:
    drain = make_drain()
    drain.directory.path.joinpath(f"{SOURCE}.page").write_bytes(PAGE)
    drain.work()
    assert stored(store)["t3"].task["status"] == AsyncTaskStatus.STARTED
    source = source_of(store, SOURCE)
    assert (source.host, source.pid, source.role, source.numbered) == ("h", 4711, "child", 7)
    assert (source.last_number, source.stored, source.dropped) == (7, 0, {"ENOSPC": 2})
    assert source.settled_at is not None
