"""What a client may take of the server before anybody knows who it is: one connection, without a network."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from uvicorn.server import ServerState

from celery_asynctask.errors import logger
from celery_asynctask.http import server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE_BODY = server._MAX_UNREAD_BODY + 1


class Transport(asyncio.Transport):
    """Keeps what is written, of which the client reads nothing unless a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread = 0
        self.ended = ""
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


class Client:
    """A connection to a server."""

    def __init__(self, connections: server._Connections, config: uvicorn.Config, loop: Any) -> None:
        self.transport = Transport()
        self.connection = server._Connection(
            connections, config=config, server_state=ServerState(), app_state={}, _loop=loop
        )
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        """As the loop does: at most 256 KiB at a time, and none once the connection is closed."""
        for start in range(0, len(data), 262_144):
            if not self.transport.ended:
                self.connection.data_received(data[start : start + 262_144])

    @property
    def ended(self) -> str:
        return self.transport.ended

    @property
    def statuses(self) -> list[int]:
        parts = self.transport.written.split(b"HTTP/1.1 ")[1:]
        return [int(part[:3]) for part in parts]


class World:
    """Connections of an application whose answers wait until a test lets them go."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.connections = server._Connections(1000)
        self.free = asyncio.Event()
        self.free.set()
        self.config = uvicorn.Config(
            self.answer, interface="asgi3", lifespan="off", ws="none", access_log=False, log_config=None
        )
        self.config.load()

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        await self.free.wait()
        response: Response = PlainTextResponse("ok")
        if scope["method"] == "POST":
            try:
                response = PlainTextResponse(str(len(await Request(scope, receive).body())))
            except ClientDisconnect:
                return
        await response(scope, receive, send)

    def client(self) -> Client:
        return Client(self.connections, self.config, self.loop)

    def settle(self) -> None:
        """Let the loop do what it has to do."""

        async def turns() -> None:
            for _ in range(50):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def look(self, seconds: float) -> None:
        """As the server does each second, when so many have passed."""
        for connection in tuple(self.connections._all):
            connection.look(self.loop.time() + seconds)

    @property
    def refused(self) -> str:
        return "; ".join(self.connections.refused)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.free.set()
    made.settle()
    for task in asyncio.all_tasks(made.loop):
        task.cancel()
    made.settle()
    made.loop.close()


def problem(client: Client) -> Any:
    return json.loads(client.transport.written.rpartition(b"\r\n\r\n")[2])


def test_requests_are_answered(world: World) -> None:
    client = world.client()
    for number in range(3):
        client.send(REQUEST)
        world.settle()
        assert client.statuses == [200] * (number + 1)
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65_536)
    world.settle()
    assert client.transport.written.endswith(b"65536")
    client.send(REQUEST * 5)
    world.settle()
    assert client.statuses == [200] * 9
    assert not client.ended
    assert not world.refused


def test_a_head_as_large_as_allowed(world: World) -> None:
    client = world.client()
    large = b"a: %b\r\n" % (b"x" * (server.MAX_HEAD // 2))
    client.send(b"GET /%b HTTP/1.1\r\n" % (b"x" * 25_000) + large + b"a: b\r\n" * (server.MAX_HEADERS - 1) + b"\r\n")
    world.settle()
    assert client.statuses == [200]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: " + b"x" * 1_000_000,
        b"GET /" + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (server.MAX_HEADERS + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000,
        b"\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"a: b\r\n" * 20_000,
    ],
    ids=["value", "address", "name", "many", "endless", "lines", "extension", "trailers"],
)
@pytest.mark.parametrize("step", [262_144, 1000])
def test_a_head_that_is_too_large(world: World, sent: bytes, step: int) -> None:
    client = world.client()
    read = 0
    while not client.ended and read < len(sent):
        client.send(sent[read : read + step])
        read += step
    assert client.ended == "closed"
    assert client.statuses == [431]
    assert b"connection: close\r\n" in client.transport.written
    assert problem(client)["type"] == "urn:problem-type:celery-asynctask:headers-too-large"
    assert read <= server.MAX_HEAD + 262_144
    assert len(client.connection.headers or ()) < 1500, "each takes more memory than its bytes"
    assert world.refused == "request with too large or too many headers"


def test_what_is_not_http(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        "GET /ü HTTP/1.1\r\n\r\n".encode(),
        b"x",
    ):
        client = world.client()
        client.send(sent)
        world.settle()
        assert (client.statuses, client.ended) == ([400], "closed")
    assert world.connections.refused == {"request that is not HTTP": 4}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_an_upgrade_is_answered_as_if_it_were_none(
    world: World, protocol: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.client()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol)
    world.settle()
    assert client.statuses == [200]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_request_that_does_not_come_in_time(world: World) -> None:
    silent, half, later, body = (world.client() for _ in range(4))
    half.send(b"GET / HTTP/1.1\r\n")
    later.send(REQUEST)
    world.settle()
    later.send(b"\r\nGET /")
    body.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    world.settle()
    world.look(server.HEAD_SECONDS - 1)
    assert [half.ended, later.ended, body.ended] == [""] * 3
    world.look(server.HEAD_SECONDS + 1)
    assert (half.statuses, half.ended) == ([408], "closed")
    assert (later.statuses, later.ended) == ([200, 408], "closed")
    assert (silent.statuses, silent.ended) == ([], "closed")
    assert not body.ended
    world.look(server.BODY_SECONDS + 1)
    assert (body.statuses, body.ended) == ([408], "closed")
    assert problem(body)["type"].endswith(":timeout")
    body.connection.connection_lost(None)
    world.settle()
    assert body.statuses == [408], "and nothing after that"


def test_no_answer_in_the_middle_of_another(world: World) -> None:
    world.free.clear()
    waiting = world.client()
    waiting.send(REQUEST)
    waiting.send(b"GET / HTTP/1.1\r\n")
    world.settle()
    world.look(server.HEAD_SECONDS + 1)
    assert (waiting.statuses, waiting.ended) == ([], "aborted")
    waiting.connection.connection_lost(None)
    world.free.set()
    answered = world.client()
    answered.send(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    world.settle()
    assert answered.statuses == [200], "its body is not needed"
    world.look(server.BODY_SECONDS + 1)
    assert (answered.statuses, answered.ended) == ([200], "aborted")


def test_a_client_that_sends_nothing_is_no_news(world: World) -> None:
    client = world.client()
    world.look(server.HEAD_SECONDS + 1)
    assert (client.statuses, client.ended) == ([], "closed")
    assert not world.refused


def test_an_answer_may_take_its_time(world: World) -> None:
    world.free.clear()
    client = world.client()
    client.send(REQUEST)
    world.settle()
    world.look(3600)
    assert not client.ended
    world.free.set()
    world.settle()
    assert client.statuses == [200]
    client.send(b"\r\n")
    world.look(server.HEAD_SECONDS + 1)
    assert client.ended, "a line break now and then does not keep it open"


def test_a_client_that_does_not_read(world: World) -> None:
    client = world.client()
    client.send(REQUEST)
    world.settle()
    client.transport.unread = 1_000_000
    world.look(0)
    world.look(server.READ_SECONDS - 1)
    client.transport.unread -= 100_000
    world.look(server.READ_SECONDS)
    world.look(2 * server.READ_SECONDS - 1)
    client.connection.pause_writing()
    client.connection.resume_writing()
    world.look(2 * server.READ_SECONDS)
    world.look(3 * server.READ_SECONDS - 1)
    assert client.ended == "closed", "which lets it read the rest"
    world.look(3 * server.READ_SECONDS + 1)
    assert client.ended == "aborted"
    assert "client that does not read its answer" in world.refused


@pytest.mark.parametrize(
    "sent",
    [REQUEST * 1000, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + b"x" * LARGE_BODY],
    ids=["requests", "body"],
)
def test_too_much_at_once(world: World, sent: bytes) -> None:
    client = world.client()
    client.send(sent)
    assert client.ended
    assert len(client.connection.pipeline) < 300
    assert world.refused == "connection with too many requests at once, or too large a body"


def test_requests_that_wait_for_an_earlier_one_are_small(world: World) -> None:
    world.free.clear()
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000
    few, many = world.client(), world.client()
    few.send(REQUEST + 3 * post)
    many.send(REQUEST + 30 * post)
    assert (few.ended, many.ended) == ("", "aborted")
    assert world.refused == "connection with too many requests at once, or too large a body"
    many.connection.connection_lost(None)
    world.free.set()
    world.settle()
    few.send(10 * REQUEST)
    world.settle()
    assert few.statuses == [200] * 14


def test_those_who_hold_much_and_do_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HELD", 40_000)
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.0)
    unread = [world.client() for _ in range(3)]
    for client in unread:
        client.connection.pause_writing()
        client.send(REQUEST + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n" + b"x" * 20_000)
    assert [client.ended for client in unread] == ["aborted", "", ""]
    for client in unread:
        client.connection.connection_lost(None)


def test_the_oldest_that_never_sent_a_request_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.0)
    world.connections.most = 3
    reader = world.client()
    reader.send(REQUEST)
    world.settle()
    first, second = world.client(), world.client()
    second.send(b"GET / HTTP/1.1\r\n")
    third = world.client()
    assert (first.ended, second.ended, reader.ended) == ("aborted", "", "")
    fourth = world.client()
    assert (second.ended, third.ended, reader.ended) == ("aborted", "", "")
    for client in (third, fourth):
        client.send(REQUEST)
    world.settle()
    reader.send(REQUEST)
    world.settle()
    for client in (first, second):
        client.connection.connection_lost(None)
    world.client()
    assert (third.ended, fourth.ended, reader.ended) == ("aborted", "", ""), "else the one that rests the longest"
    assert world.connections.refused.total() == 3


def test_one_that_is_new_may_wait_for_us(world: World) -> None:
    world.connections.most = 3
    idle = world.client()
    idle.send(REQUEST)
    world.settle()
    new = [world.client() for _ in range(3)]
    assert ([client.ended for client in new], idle.ended) == ([""] * 3, "aborted"), "clients expect that of idle ones"
    world.client()
    assert new[0].ended == "aborted", "there is no other"


def test_what_is_held_of_requests_that_are_not_complete(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_HELD", 100_000)
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.0)
    reader = world.client()
    reader.send(REQUEST)
    world.settle()
    halves = [world.client() for _ in range(9)]
    for number, client in enumerate(halves):
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n" + b"x" * (9 * 3000))
        world.settle()
        assert [one.ended for one in halves[: number + 1]] == ["aborted"] * (number - 2) + [""] * min(number + 1, 3)
    halves[-1].send(b"x" * 3000)
    world.settle()
    assert halves[-1].statuses == [200]
    assert world.connections._held < 2 * 30_000, "what is complete is not held"
    for client in halves:
        client.connection.connection_lost(None)
    assert world.connections._held == 0
    assert not reader.ended


def test_no_room_for_another(world: World) -> None:
    world.connections.most = 3
    world.free.clear()
    busy = [world.client() for _ in range(3)]
    for client in busy:
        client.send(REQUEST)
    refused = world.client()
    assert (refused.statuses, refused.ended) == ([503], "closed")
    assert problem(refused)["type"].endswith(":busy")
    refused.connection.connection_lost(None)
    world.free.set()
    world.settle()
    assert [client.statuses for client in busy] == [[200]] * 3
    busy[0].connection.connection_lost(None)
    assert not world.client().ended


def test_who_does_not_read_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.connections.most = 3
    unread = [world.client() for _ in range(3)]
    for client in unread:
        client.connection.pause_writing()
        client.send(REQUEST * 30)  # small requests for large answers, which wait until the client reads
    world.settle()
    assert [client.statuses for client in unread] == [[]] * 3
    assert world.client().statuses == [503], "it may be reading"
    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.0)
    unread[0].connection.resume_writing()
    new = world.client()
    new.send(REQUEST)
    world.settle()
    assert new.statuses == [200]
    assert [client.ended for client in unread] == ["", "aborted", ""], "the one that has read is not cut off"
    for client in unread:
        client.connection.connection_lost(None)


def test_errors_of_the_application_are_logged(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    monkeypatch.setattr(world.free, "wait", lambda: 1 / 0)
    client = world.client()
    client.send(REQUEST)
    world.settle()
    assert client.statuses == [500]
    assert any(record.exc_info for record in caplog.records)


def test_one_line_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for second in range(150):
        world.client().send(b"x")
        world.connections.look(second)
    assert [record.getMessage() for record in caplog.records] == [
        "Refused or cut off, said once a minute: 1 x request that is not HTTP.",
        *["Refused or cut off, said once a minute: 60 x request that is not HTTP."] * 2,
    ]
    assert {record.name for record in caplog.records} == {logger.name}


def test_no_descriptor_for_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(world.loop, "default_exception_handler", told.append)
    for _ in range(1000):
        context = {
            "message": "socket.accept() out of system resource",
            "exception": OSError(24, ""),
            "socket": object(),
        }
        world.connections.on_exception(world.loop, context)
    assert world.connections.refused == {"connection, for want of file descriptors": 1000}
    other = {"message": "Task exception was never retrieved", "exception": OSError(24, "")}
    world.connections.on_exception(world.loop, other)
    assert told == [other]


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "room"),
    [
        (1024, 4096, None, 500),
        (256, 256, 256, 128),
        (256, 4096, 628, 500),
        (256, 400, 400, 272),
        (64, 64, 64, 32),
        (-1, -1, None, 500),
        (256, -1, 628, 500),
    ],
)
def test_room_below_the_limit_of_files(
    soft: int, hard: int, raised: int | None, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    assert server._room() == room
    assert limits == ([] if raised is None else [(raised, hard)])


def test_a_limit_of_files_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert server._room() == 128
