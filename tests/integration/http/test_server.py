"""The bounds of the server on real connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from celery_asynctask.http import server
from tests.pace import patience
from tests.waiting import wait_for

ROOM = 8


async def answer(scope: Any, receive: Any, send: Any) -> None:
    try:
        await Request(scope, receive).body()
    except ClientDisconnect:
        return
    await PlainTextResponse("ok")(scope, receive, send)


@contextmanager
def running() -> Iterator[int]:
    """The port of a server in a thread, which has to end by itself."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        made = server.Server(answer)
        thread = Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_for(lambda: made.started, 10, "the server to start")
            yield listening.getsockname()[1]
        finally:
            made.should_exit = True
            thread.join(patience(10))
            assert not thread.is_alive(), "it waits for its clients"


def test_clients_that_send_half_a_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """They do not keep out others, and do not keep the server from ending."""
    monkeypatch.setattr(server, "_room", lambda: ROOM)
    monkeypatch.setattr(server, "_SHUTDOWN_SECONDS", 3600)
    with ExitStack() as stack, running() as port:

        def client(sent: bytes) -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port), patience(5)))
            made.sendall(sent)
            return made

        halves = [client(b"GET / HTTP/1.1\r\n") for _ in range(5 * ROOM)]
        whole = client(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionResetError):
            assert halves[0].recv(1000) == b"", "the oldest were closed"
        client(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        told = [record.getMessage() for record in wait_for(lambda: caplog.records, 10, "a line in the log")]
    assert len(told) == 1
    assert "connection that waited for its client, to make room for others" in told[0]
