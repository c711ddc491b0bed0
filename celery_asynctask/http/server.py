"""`Server`: uvicorn, with bounds on what a client may take before anybody knows who it is.

uvicorn itself reads any number of headers for any time, from any number of connections. `_Connection` is its protocol
with bounds on bytes and seconds, `_Connections` has the bound on their number. What is refused is counted, and logged
once a minute: whoever floods the server must not flood its log.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from celery_asynctask.core.logs import logger_of
from celery_asynctask.errors import logger
from celery_asynctask.web.problem import HEADERS, ProblemError

MAX_HEAD: Final = 65_536
"""Bytes of a request that are not of its body: address, headers, and what separates the chunks of a body."""
MAX_HEADERS: Final = 100
"""Headers of a request. Each is looked through several times."""
HEAD_SECONDS: Final = 10.0
"""From the connection, or the first byte of a later request, to the end of the headers."""
BODY_SECONDS: Final = 30.0
"""From the end of the headers to the end of the body."""
READ_SECONDS: Final = 30.0
"""In which a client must read some of its answer."""
MAX_CONNECTIONS: Final = 500
"""Connections at a time, if the process may open as many files."""
MAX_HELD: Final = 8_388_608
"""Bytes of all requests that are not complete."""
_RESERVE: Final = 128
"""File descriptors for the database, the broker, and connections that are accepted before others are closed."""
_MAX_UNREAD_BODY: Final = 1_048_576
"""Bytes of a body that are thrown away after the answer. A client that is cut off may not see the answer."""
_MAX_PIPELINED: Final = 32
"""Requests of a connection that wait for the answer to an earlier one."""
_MAX_AHEAD: Final = 65_536
"""Bytes of these requests."""
_SOME: Final = 16_384
"""Bytes of an answer."""
_GRACE_SECONDS: Final = 1.0
"""In which the first request of a connection may be under way, or wait for us, and an answer may wait to be read."""
_SLICE: Final = 4096
"""Bytes that are parsed before the bounds are looked at."""
_ACCEPTED: Final = 16
"""Connections that are accepted before any of them is served, or another closed."""
_QUEUE: Final = 1024
"""Connections that the kernel keeps until they are accepted."""
_SHUTDOWN_SECONDS: Final = 15
"""For answers to finish after SIGTERM: longer than a query may take."""
_LOG_SECONDS: Final = 60.0
_NO_DESCRIPTOR: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_errors: Final = logger_of("uvicorn.error.connection")
"""Logs the errors of requests, but no warnings: any client can cause those, for example with what is not HTTP."""
_errors.addFilter(lambda record: record.levelno >= logging.ERROR)  # uvicorn resets the levels of its loggers


def _answer(kind: str, status: HTTPStatus, detail: str) -> bytes:
    """A problem as the bytes of an answer."""
    response = ProblemError(kind, status, detail, headers={**HEADERS, "Connection": "close"}).response()
    head = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, status.phrase.encode(), head, bytes(response.body))


_INVALID: Final = _answer("invalid-request", HTTPStatus.BAD_REQUEST, "This is not a request in HTTP/1.1.")
_LARGE: Final = _answer(
    "headers-too-large",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"Address and headers are larger than {MAX_HEAD:,} bytes, or more than {MAX_HEADERS}. Send fewer.",
)
_LARGE_HEAD: Final = "request with too large or too many headers"
_LATE: Final = _answer("timeout", HTTPStatus.REQUEST_TIMEOUT, "The request was not complete in time. Send it again.")
_BUSY: Final = _answer("busy", HTTPStatus.SERVICE_UNAVAILABLE, "All connections are in use. Try again later.")


def _room() -> int:
    """How many connections there may be at a time, so that files can still be opened. Raises the process's own limit,
    which is often lower than it needs to be."""
    wanted = MAX_CONNECTIONS + _RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        higher = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (higher, hard))
            soft = higher
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft - _RESERVE, soft // 2))


class Server(uvicorn.Server):
    """Serves an application to those who connect to the sockets that `run` gets, until SIGTERM or SIGINT."""

    def __init__(self, api: ASGIApp, *, access_log: bool = False) -> None:
        """``access_log``: log each request."""
        self._connections = connections = _Connections(_room())
        config = uvicorn.Config(
            api,
            http=cast("type[asyncio.Protocol]", partial(_Connection, connections)),
            ws="none",
            lifespan="off",
            access_log=access_log,
            server_header=False,
            proxy_headers=False,  # headers of a proxy about the client are not believed: any client may send them, too
            backlog=_ACCEPTED,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn."""
        asyncio.get_running_loop().set_exception_handler(self._connections.on_exception)
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_QUEUE)  # asyncio accepts as many at once as it lets the kernel keep

    async def on_tick(self, counter: int) -> bool:
        """As in uvicorn: called ten times a second, returns whether to stop."""
        if counter % 10 == 0:  # once a second
            self._connections.look(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn."""
        self._connections.close()
        await super().shutdown(sockets)
        self._connections.log()


class _Connections:
    """The connections of a server. When there are too many, or they hold too much of requests that are not complete,
    one that waits for its client is closed: the oldest of those from which no whole request ever came, unless it is
    new, or else the one that is idle for the longest time, or whose client has not read its answers for the longest
    time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.refused: Counter[str] = Counter()
        """What was refused since it was last logged, by what it is."""
        self._all: set[_Connection] = set()
        self._fresh: dict[_Connection, float] = {}
        self._idle: dict[_Connection, None] = {}
        self._unread: dict[_Connection, float] = {}
        self._held = 0
        self._logged_at = -math.inf

    def made(self, connection: _Connection) -> None:
        """A client connected."""
        self._all.add(connection)
        if len(self._all) > self.most and not self._make_room():
            self.refused["connection, because all others are in use"] += 1
            connection.end(_BUSY)
        else:
            self._fresh[connection] = connection.loop.time()

    def hold(self, connection: _Connection, size: int) -> None:
        """So many bytes have come of the connection's newest request, the rest of which has not."""
        self._held += size - connection.held
        connection.held = size
        while self._held > MAX_HELD and self._make_room():
            pass

    def _make_room(self) -> bool:
        """Close a connection that waits for its client; False: there is none."""
        oldest = next(iter(self._fresh), None)
        if not _is_old(self._fresh):
            oldest = next(iter(self._idle), oldest)
            if oldest not in self._idle and _is_old(self._unread):
                oldest = next(iter(self._unread))
        if oldest is None:
            return False
        self.refused["connection that waited for its client, to make room for others"] += 1
        self._forget(oldest)
        oldest.transport.abort()
        return True

    def whole(self, connection: _Connection) -> None:
        """A request is to be answered: the connection waits for us, not for its client."""
        self._fresh.pop(connection, None)
        self._idle.pop(connection, None)

    def answered(self, connection: _Connection) -> None:
        """The connection waits for its client again."""
        self.whole(connection)
        self._idle[connection] = None

    def stuck(self, connection: _Connection) -> None:
        """What was written to the connection waits until its client reads."""
        self._unread[connection] = connection.loop.time()

    def flowing(self, connection: _Connection) -> None:
        """The client has read."""
        self._unread.pop(connection, None)

    def lost(self, connection: _Connection) -> None:
        """The connection has ended."""
        self._all.discard(connection)
        self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        self.whole(connection)
        self.flowing(connection)
        self.hold(connection, 0)

    def look(self, now: float) -> None:
        """End what takes too long. ``now`` is the time of the event loop."""
        for connection in tuple(self._all):
            connection.look(now)
        if self.refused and now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            self.log()

    def log(self) -> None:
        """Log what was refused since the last time."""
        if self.refused:
            refused = "; ".join(f"{count:,} x {what}" for what, count in self.refused.items())
            logger.warning("Refused or cut off, said once a minute: %s.", refused)
            self.refused.clear()

    def close(self) -> None:
        """Close the connections that wait for their clients."""
        for connection in (*self._fresh, *self._idle):
            connection.transport.close()

    def on_exception(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """What the event loop would log: where no more connections can be accepted, some 16 tracebacks a second."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR and "socket" in context:
            self.refused["connection, for want of file descriptors"] += 1
        else:
            loop.default_exception_handler(dict(context))


def _is_old(waiting: Mapping[_Connection, float]) -> bool:
    """Whether the first connection has waited for long enough to be closed. The values are when each began to."""
    return any(one.loop.time() - since >= _GRACE_SECONDS for one, since in islice(waiting.items(), 1))


class _Connection(HttpToolsProtocol):
    """A connection with bounds on what it may send, and for how long."""

    def __init__(self, connections: _Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _errors
        self._connections = connections
        self._until = self.loop.time() + HEAD_SECONDS
        """When what is awaited of the client must have come; infinite: nothing is."""
        self._is_whole = False
        """Whether all of the newest request has come."""
        self.held = 0
        """As in `_Connections.hold`."""
        self._refusal = _INVALID
        self._head = 0
        self._body = 0
        self._ahead = 0
        self._unsent = 0
        self._unsent_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.lost(self)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            part = data[start : start + _SLICE]
            self._head += len(part)  # of which `on_body` takes away what is none
            super().data_received(part)
            if self.transport.is_closing():
                return
            if self._head > MAX_HEAD or (not self._is_whole and len(self.headers or ()) > MAX_HEADERS):
                self._refuse(_LARGE_HEAD, _LARGE)
                return
            self._ahead = self._ahead + len(part) if self.pipeline else 0
            if len(self.pipeline) > _MAX_PIPELINED or self._ahead > _MAX_AHEAD or self._body > _MAX_UNREAD_BODY:
                self._refuse("connection with too many requests at once, or too large a body")
                return
            held = 0 if self._is_whole else self._head + min(self._body, MAX_HEAD)
            if held != self.held:
                self._connections.hold(self, held)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_whole = False
        if self.cycle is not None:
            self._until = self.loop.time() + HEAD_SECONDS

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS:
            self._refusal = _LARGE
            raise ValueError  # ends parsing; uvicorn calls `send_400_response`
        super().on_headers_complete()
        self._until = self.loop.time() + BODY_SECONDS

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._head -= len(body)
        self._body += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_whole = True
        self._head = self._body = 0
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        """Wait for the next request, or until this one is answered."""
        if self.cycle.response_complete:
            self._connections.answered(self)
            if self._is_whole:
                self._until = self.loop.time() + HEAD_SECONDS
        elif self._is_whole:
            self._connections.whole(self)
            self._until = math.inf

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.stuck(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.flowing(self)
        self._unsent = 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(_LARGE_HEAD if self._refusal is _LARGE else "request that is not HTTP", self._refusal)

    def look(self, now: float) -> None:
        """End the connection if its client takes too long to send or to read. A client that sends nothing at all may be
        a browser, which connects before it needs to."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and (not self._unsent or unsent <= self._unsent - _SOME):
            self._unsent, self._unsent_at = unsent, now
        elif unsent and now - self._unsent_at > READ_SECONDS:
            self._connections.refused["client that does not read its answer"] += 1
            self.transport.abort()
        elif now > self._until and not self.transport.is_closing():
            if self._head:
                self._refuse("request that was not complete in time", _LATE)
            else:
                self.transport.close()
        if not unsent:
            self._unsent = 0

    def _refuse(self, what: str, answer: bytes = b"") -> None:
        self._connections.refused[what] += 1
        self.end(answer)

    def end(self, answer: bytes = b"") -> None:
        """Close the connection, if possible with an answer to the newest request."""
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        if cycle is None:
            is_next = True
        elif cycle.scope is self.scope:
            is_next = not (cycle.response_started or self.pipeline)
        else:  # its headers are not complete
            is_next = cycle.response_complete
        if is_next:
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()
