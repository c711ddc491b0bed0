"""The time that readers wait over HTTP: twenty readers of a full PostgreSQL, while a live worker records into it; then
one who opens each page of the console, which is rendered anew each time.

The readers request single tasks and pages of fifty by a filter. Each requests again once it has its answer, or twice a
second, as a page does that refreshes itself. The server is `celery asynctask serve`, one process; readers, worker,
server and database share the machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from tests import services
from tests.benchmarks import rows
from tests.benchmarks.figure import Figure, Interval, Options, skipping
from tests.benchmarks.live import Worker, worker

REDIS_DATABASE = 12
QUICK_ROWS = 50_000
READERS = 20
SECONDS = 20.0
WARM_UP_SECONDS = 3.0
PACE_SECONDS = 0.5
AT_MOST = 50
"""Milliseconds."""
PAGE_AT_MOST = 100
"""Milliseconds for a page of the console."""
LOOKS = 40
"""Repetitions of each page of the console."""
TURN = 10
"""Tasks that the worker runs ten times a second."""
TURN_SECONDS = 0.1
_SERVE = (sys.executable, "-m", "celery", "asynctask")


def measure(options: Options) -> Iterator[Figure]:
    yield from skipping(_figures(min(options.rows, QUICK_ROWS) if options.quick else options.rows), "http")


def _figures(count: int) -> Iterator[Figure]:
    with worker("recorded", services.redis_url(REDIS_DATABASE), 1) as live:
        live.settle()
        rows.fill(live.url, count)
        with _serving(live.url) as (host, port), _recording(live):
            paths = _paths(host, port)
            asyncio.run(_read(host, port, paths, WARM_UP_SECONDS, 0))
            for pace, name in ((PACE_SECONDS, "each twice a second"), (0.0, "each without a pause")):
                taken = asyncio.run(_read(host, port, paths, SECONDS, pace))
                total = sum(map(len, taken.values()))
                for kind, seconds in taken.items():
                    yield _figure(
                        f"http: {kind}, {READERS} readers, {name}", seconds, f"{total / SECONDS:.0f}/s in all"
                    )
            yield from _pages(host, port, paths)
        live.fed += count  # more rows, some of which are no successes; nobody waits for them
        live.variant = "plain"


def _pages(host: str, port: int, paths: dict[str, list[str]]) -> Iterator[Figure]:
    """Opens each page of the console several times, at varying addresses, so that contents cached for a minute are
    computed anew."""
    tasks = [path.removeprefix("/async-tasks") for path in paths["a task"]]
    names = [
        path.partition("?name=")[2] for path in paths["a page by a filter"] if "?name=" in path and "&" not in path
    ]
    failed = quote("status:FAILURE since:30d")
    pages = {
        "overview": ["/"],
        "tasks": ["/tasks"],
        "tasks by a search": [f"/tasks?search={failed}", *(f"/tasks?search=name:{name}" for name in names)],
        "task": [f"/tasks{task}" for task in tasks],
        "workflow": [f"/tasks{task}/workflow?view=waterfall" for task in tasks],
        "errors": ["/errors"],
        "names": ["/names"],
        "name": [f"/name?name={name}" for name in names],
        "workers": ["/workers"],
    }
    chance = random.Random(0)
    for title, some in pages.items():
        taken = []
        for number in range(LOOKS + 3):
            began = time.perf_counter()
            with urlopen(f"http://{host}:{port}/console{chance.choice(some)}") as answer:
                assert answer.status == 200
                answer.read()
            if number >= 3:
                taken.append(time.perf_counter() - began)
        yield _figure(f"http: console, {title}", taken, f"{LOOKS}", PAGE_AT_MOST)


def _figure(name: str, seconds: Sequence[float], note: str, at_most: int = AT_MOST) -> Figure:
    ordered = sorted(seconds)
    middle, high = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.95))
    at = Interval(high, high, high)
    return Figure(f"{name}, p95", "ms", at, at_most=at_most, note=f"p50 {middle:.1f} ms; {len(ordered):,} of {note}")


@contextmanager
def _serving(url: str) -> Iterator[tuple[str, int]]:
    command = [*_SERVE, "--url", url, "serve", "--open", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        found = re.search(r"http://\S+", first)
        assert found is not None, first
        threading.Thread(target=process.stderr.read, daemon=True).start()
        address = urlsplit(found[0].rstrip(","))
        assert address.hostname is not None
        assert address.port is not None
        yield address.hostname, address.port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _recording(live: Worker) -> Iterator[None]:
    """The worker runs a hundred tasks a second."""
    ended = threading.Event()

    def turns() -> None:
        while not ended.wait(TURN_SECONDS):
            live.turn(TURN)

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _paths(host: str, port: int) -> dict[str, list[str]]:
    """The requests, by their names in the table."""
    with urlopen(f"http://{host}:{port}/async-tasks?limit=1000&createdByName=*") as answer:
        tasks = json.load(answer)["results"]
    customers = sorted({task["customer"] for task in tasks} - {None})[:100]
    names = sorted({task["name"] for task in tasks})
    lists = [f"/async-tasks?customer={one}" for one in customers]
    lists += [f"/async-tasks?name={one}" for one in names]
    lists += [f"/async-tasks?name={one}&status=FAILURE&status=LOST" for one in names]
    return {"a task": [f"/async-tasks/{task['celeryTaskId']}" for task in tasks], "a page by a filter": lists}


async def _read(
    host: str, port: int, paths: dict[str, list[str]], seconds: float, pace: float
) -> dict[str, list[float]]:
    """Seconds of each answer."""
    taken: dict[str, list[float]] = {kind: [] for kind in paths}
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_reader(host, port, paths, until, pace, taken, number) for number in range(READERS)))
    return taken


async def _reader(
    host: str,
    port: int,
    paths: dict[str, list[str]],
    until: float,
    pace: float,
    taken: dict[str, list[float]],
    number: int,
) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    chance = random.Random(number)
    await asyncio.sleep(chance.random() * pace)
    while (began := time.perf_counter()) < until:
        kind = chance.choice(list(paths))
        writer.write(f"GET {chance.choice(paths[kind])} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None, head
        await reader.readexactly(int(length[1]))
        took = time.perf_counter() - began
        taken[kind].append(took)
        await asyncio.sleep(max(0, pace - took))
    writer.close()
