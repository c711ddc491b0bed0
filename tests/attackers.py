"""Readers of a server, and those who attack it, each a process: ``python -m tests.attackers NAME HOST PORT SECONDS``
prints what happened as JSON. It loads the standard library alone, so that it begins at once."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

READERS = 20
PACE_SECONDS = 0.5
"""Between two requests of a reader."""
HALVES = 250
"""Connections with a request that is not complete."""
HEAD_BYTES = 115_000_000
WRONG = 600
"""Requests with wrong tokens."""
WRONG_AT_ONCE = 40
TOKEN = f"asynctask_{'Zq3vX9kL' * 5}abc"


class _Client:
    """A connection that is opened when it is needed, and again if the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, head: str, body: bytes = b"") -> int:
        """The status of the answer. Raises `OSError` and `EOFError`."""
        is_used = self._streams is not None
        try:
            return await self._asked(head, body)
        except (OSError, EOFError):
            self.close()
            if not is_used:
                raise
            return await self._asked(head, body)  # it was closed between two requests, which clients have to expect

    async def _asked(self, head: str, body: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{head}\r\nHost: {self._place[0]}\r\n{length}\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if found := re.search(r"content-length: (\d+)", answer):
            await reader.readexactly(int(found[1]))
        if "connection: close" in answer:
            self.close()
        return int(answer.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _readers(host: str, port: int, until: float) -> Any:
    """Seconds of each answer, and what went wrong."""
    taken: list[float] = []
    failures: list[str] = []

    async def reader(number: int) -> None:
        client = _Client(host, port)
        at = time.monotonic() + PACE_SECONDS * number / READERS
        while at < until:
            await asyncio.sleep(at - time.monotonic())
            began = time.monotonic()
            path = "/async-tasks?limit=50" if number % 2 else f"/async-tasks/task-{number}"
            try:
                status = await client.ask(f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}")
            except (OSError, EOFError) as exc:
                failures.append(repr(exc))
            else:
                taken.append(time.monotonic() - began)
                if status != 200:
                    failures.append(str(status))
            at = max(at + PACE_SECONDS, time.monotonic())
        client.close()

    await asyncio.gather(*map(reader, range(READERS)))
    return taken, failures


async def _cookies(host: str, port: int, until: float) -> Any:
    """Cookies of 60,000 and of 65,536 bytes, which the standard library takes long to read."""
    statuses: dict[int, int] = {}

    async def one(path: str, size: int) -> None:
        client = _Client(host, port)
        value = '\\"' * (size // 2 - 10)
        while time.monotonic() < until:
            status = 0
            with suppress(OSError, EOFError):
                status = await client.ask(f'GET {path} HTTP/1.1\r\nCookie: asynctask_token="{value}"')
            statuses[status] = statuses.get(status, 0) + 1
        client.close()

    await asyncio.gather(*(one(path, size) for path in ("/console/", "/health") for size in (60_000, 65_536)))
    return statuses


async def _headers(host: str, port: int, until: float) -> Any:
    """115 MB of headers, on as many connections as the server makes it take."""
    sent = connections = 0
    piece = b"X-Attack: " + b"x" * 60_000 + b"\r\n"
    while sent < HEAD_BYTES and time.monotonic() < until:
        connections += 1
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\n")
            try:
                while sent < HEAD_BYTES and time.monotonic() < until:
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
            finally:
                writer.close()
    return f"{sent:,} bytes on {connections:,} connections"


async def _halves(host: str, port: int, until: float) -> Any:
    """250 requests that are never completed; some two seconds after the server has closed one there is another."""
    opened = 0

    async def one() -> None:
        nonlocal opened
        while time.monotonic() < until:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, port)
                opened += 1
                writer.write(b"GET /console/ HTTP/1.1\r\nHost: localhost\r\n")
                with suppress(asyncio.TimeoutError, OSError):
                    await asyncio.wait_for(reader.read(), max(0.0, until - time.monotonic()))
                writer.close()
            await asyncio.sleep(random.uniform(1, 3))

    await asyncio.gather(*(one() for _ in range(HALVES)))
    return f"{opened:,} connections"


async def _wrong_tokens(host: str, port: int, until: float) -> Any:
    """600 wrong tokens, half of them in the form."""
    statuses: dict[int, int] = {}
    left = iter(range(WRONG))

    async def one() -> None:
        client = _Client(host, port)
        for number in left:
            if time.monotonic() > until:
                break
            token = TOKEN[:-6] + f"{number:06}"
            head, body = f"GET /async-tasks HTTP/1.1\r\nAuthorization: Bearer {token}", b""
            if number % 2:
                head = "POST /console/sign-in HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded"
                body = f"token={token}&back=".encode()
            status = 0
            with suppress(OSError, EOFError):
                status = await client.ask(head, body)
            statuses[status] = statuses.get(status, 0) + 1
        client.close()

    await asyncio.gather(*(one() for _ in range(WRONG_AT_ONCE)))
    return statuses


ATTACKS: dict[str, Callable[[str, int, float], Awaitable[Any]]] = {
    "cookies": _cookies,
    "headers": _headers,
    "half-sent": _halves,
    "wrong-tokens": _wrong_tokens,
}

if __name__ == "__main__":
    called, host, port, seconds = sys.argv[1:]
    run: Any = {**ATTACKS, "readers": _readers}[called](host, int(port), time.monotonic() + float(seconds))
    print(json.dumps(asyncio.run(run)))
