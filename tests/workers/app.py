"""The application under test: one task for every shape an execution can take. Configured by environment variables."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import Celery, Task, chain, group, signals
from celery.backends.database import DatabaseBackend
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from sqlalchemy import create_engine, text

from celery_asynctask import record_run
from tests.doubles import Batches
from tests.services import apart
from tests.workers import spans

TRACING = os.environ["SHAPES_TRACING"]
if TRACING in ("before", "links"):
    spans.instrument(use_span_links=TRACING == "links")  # connected before us, in the main process
elif TRACING == "after":
    signals.worker_process_init.connect(lambda **_: spans.instrument(), weak=False)  # as its documentation says

app = Celery("shapes", task_cls="celery_asynctask:RecordedTask")
app.conf.update(
    broker_url=os.environ["SHAPES_BROKER"],
    result_backend=os.environ["SHAPES_BACKEND"],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=4,
    result_chord_join_timeout=60,
    asynctask_url=os.environ["SHAPES_STORE"],
    asynctask_journal_dir=os.environ["SHAPES_JOURNAL"],
    asynctask_flush_interval=0.1,
    asynctask_header_keys=os.environ.get("SHAPES_KEYS", "").split() or None,
)
app.conf.update(apart(os.environ["SHAPES_BROKER"], os.environ["SHAPES_QUEUE"]))
app.conf.broker_transport_options |= {
    key: int(value) for key, _, value in (item.partition("=") for item in os.environ["SHAPES_TRANSPORT"].split())
}


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(*_args: Any) -> None:
    raise ValueError("boom")


class Unpicklable(Exception):
    def __init__(self, message: str, _second: int) -> None:
        super().__init__(message)
        self.lock = threading.Lock()  # cannot be pickled


@app.task
def fail_unpicklable() -> None:
    raise Unpicklable("not to be pickled", 2)


@app.task(ignore_result=True)
def silent(x: int) -> int:
    return x


@app.task(bind=True, max_retries=5)
def retry_until(self: Any, times: int, countdown: float = 0) -> str:
    if self.request.retries < times:
        raise self.retry(exc=KeyError("again"), countdown=countdown)
    return f"after {self.request.retries}"


@app.task(bind=True, max_retries=1)
def retry_slow_unwind(self: Any) -> str:
    """The next attempt has ended long before this one ends."""
    if self.request.retries:
        return "second"
    try:
        raise self.retry(exc=KeyError("slow"), countdown=0)
    finally:
        time.sleep(1)


@app.task(bind=True, max_retries=1)
def retry_exhausted(self: Any, with_exception: bool) -> None:
    raise self.retry(exc=RuntimeError("given") if with_exception else None, countdown=0)


@app.task(autoretry_for=(KeyError,), max_retries=2, default_retry_delay=0)
def autoretry() -> None:
    raise KeyError("auto")


@app.task
def ignore() -> None:
    raise Ignore


@app.task(acks_late=True)
def reject() -> None:
    raise Reject("not mine", requeue=False)


@app.task(bind=True, acks_late=True)
def reject_once(self: Any) -> str:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("try another", requeue=True)
    return "taken"


@app.task(bind=True)
def replace(self: Any, by: str, slow: bool = False) -> Any:
    signatures = {
        "task": lambda: add.s(1, 1),
        "chain": lambda: chain(add.s(2, 2), add.s(3)),
        "group": lambda: group(add.s(4, 4), add.s(5, 5)),
    }
    try:
        raise self.replace(signatures[by]())
    finally:
        if slow:
            time.sleep(1)


@app.task
def spawn(depth: int) -> str:
    if depth:
        spawn.delay(depth - 1)
    return f"depth {depth}"


@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@app.task(bind=True, acks_late=True)
def nap_until_redelivered(self: Any, seconds: float) -> str:
    if not self.request.delivery_info["redelivered"]:
        time.sleep(seconds)
    return "redelivered"


@app.task(soft_time_limit=1)
def over_soft_limit(catch: bool) -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
    return "caught"


@app.task(time_limit=1)
def over_hard_limit() -> None:
    time.sleep(30)


@app.task(time_limit=1, acks_late=True)
def over_hard_limit_late() -> None:
    time.sleep(30)


def _die(self: Any, first_only: bool) -> str:
    again = self.request.retries or self.request.delivery_info["redelivered"]
    if not (first_only and again):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


class DiesOnSuccess(app.Task):  # type: ignore[name-defined]
    """Its child is killed when the result is stored, before anybody gets it."""

    def on_success(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=DiesOnSuccess)
def die_with_result() -> str:
    return "stored"


@app.task(base=DiesOnSuccess, acks_late=True, reject_on_worker_lost=True)
def die_with_result_late() -> str:
    return "stored"


@app.task(bind=True)
def die(self: Any) -> str:
    return _die(self, first_only=False)


@app.task(bind=True, acks_late=True)
def die_late(self: Any) -> str:
    return _die(self, first_only=False)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_late_reject(self: Any) -> str:
    return _die(self, first_only=True)


@app.task(bind=True, retry_on_worker_lost=True, max_retries=3, default_retry_delay=0)
def die_and_retry(self: Any) -> str:
    return _die(self, first_only=True)


@app.task
def leave() -> None:
    sys.exit(3)


class Own(BaseException):
    """Nothing that Celery's tracer catches."""


@app.task
def end_with(name: str) -> None:
    """In a child of a pool, its main process is told of it; elsewhere nobody is."""

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    if name == "CancelledError":
        asyncio.run(cancel_itself())
    raise Own("mine")


@app.task
def raise_retry() -> None:
    """Without a message behind it."""
    raise Retry("later")


@app.task(bind=True)
def called_directly(self: Any, part: int = 0) -> int:
    """Calls itself, and another one that reports its progress and sends a task."""
    if not part:
        return sum(self(part) for part in (1, 2))
    self.asynctask.progress(part, 2)
    add.apply_async((part, 0))
    return int(add(part, 0))


@app.task(base=Batches, flush_every=2)
def collect(requests: list[Any]) -> None:
    for request in requests:
        with record_run(request) as run:
            add.apply_async(request.args)
            run.result = sum(request.args)


@app.task
def unserializable() -> object:
    return object()


@app.task(ignore_result=True)
def unserializable_ignored() -> object:
    return object()


@app.task
def run_eagerly(outcome: str) -> Any:
    return (add if outcome == "success" else fail).apply((1,)).state


@app.task
def errback(failed_id: str) -> str:
    return failed_id


@app.task
def errback_inline(request: Any, exc: Any, traceback: Any) -> None:
    """Called in the failing child itself: not an execution of its own."""


@app.task
def link_fixed(result: int) -> int:
    return result


app.conf.database_create_tables_at_setup = False  # otherwise it would fail here and now, not when a result is stored
_NO_BACKEND = DatabaseBackend("sqlite:////nonexistent-directory/results.db", app=app)
_NO_BACKEND.max_retries = 0  # otherwise Celery waits seconds for it, in the worker's main process as well
app.conf.database_create_tables_at_setup = True


@app.task(backend=_NO_BACKEND)
def backend_down(succeed: bool) -> str:
    if not succeed:
        raise ValueError("and the backend is down")
    return "done"


@app.task(bind=True, acks_late=True, max_retries=1)
def leak(self: Any, password: str, way: str) -> Any:
    """Says a secret without its name."""
    if way == "reject":
        raise Reject(f"not {password}", requeue=False)
    if way == "retry":
        raise self.retry(exc=KeyError(password), countdown=0)
    if way == "result":
        return [password, {"said": password}]
    if way == "unserializable":
        return {"said": Unspeakable(password)}
    engine = create_engine(os.environ["SHAPES_STORE"])
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE TEMPORARY TABLE session (word text PRIMARY KEY)"))
            for _ in range(2):
                connection.execute(text("INSERT INTO session VALUES (:word)"), {"word": password})
    finally:
        engine.dispose()


class Unspeakable:
    def __init__(self, word: str) -> None:
        self.word = word

    def __json__(self) -> str:
        raise TypeError(f"cannot say {self.word}")


@app.task(base=DiesOnSuccess)
def die_with_secret(token: str) -> str:
    return f"it is {token}"


class PlainTask(Task):
    """A task class that knows nothing of celery-asynctask."""

    abstract = True


@app.task(base=PlainTask)
def other_base(x: int) -> int:
    return x


@app.task(asynctask_record_args=False, asynctask_record_kwargs=False, asynctask_record_result=False)
def secretive(secret: str, *, key: str) -> str:
    return secret + key


@app.task
def login(user: str, password: str) -> int:
    return len(user + password)


@app.task(bind=True, max_retries=1)
def sync(self: Any, day: str, works: bool) -> str:
    """Given an id that says what it is about, again and again."""
    if not works:
        raise self.retry(exc=RuntimeError(f"no {day}"), countdown=0)
    return day


@app.task(bind=True)
def forward(self: Any, eagerly: bool) -> str:
    """Sends its own message headers along, as a mix-in that passes on a correlation id does."""
    child = add.apply if eagerly else add.apply_async
    return str(child((1, 1), headers=self.request.headers).id)


@app.task(bind=True)
def whoami(self: Any, seconds: float = 0) -> list[Any]:
    """The context of this task, before and after other tasks had their turn."""
    before = self.asynctask.customer
    time.sleep(seconds)
    return [before, self.asynctask.customer, self.asynctask.created_by_name]


@app.task(bind=True)
def noting(self: Any, waits: float) -> str:
    """Records its progress, then waits until somebody has read it."""
    self.asynctask.update({"invoice": 17})
    time.sleep(0.2)
    self.asynctask.progress(1, 2, "half way")
    time.sleep(waits)
    self.asynctask.progress(2, 2)
    return "done"


@app.task(asynctask_record=False)
def unrecorded() -> str:
    return "nobody knows"


app.conf.beat_schedule = {
    "tick": {
        "task": add.name,
        "schedule": 0.5,
        "args": (20, 3),
        "options": {"headers": {"asynctask": {"customer": 99, "created_by_name": "the clock"}}},
    }
}

if TRACING == "late":
    spans.instrument()  # connected after us, in the main process

if os.environ.get("SHAPES_BREAK") == "facts":
    from celery_asynctask.capture import extract

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("broken on purpose")

    extract.from_request = extract.published = broken
