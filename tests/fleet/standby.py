"""A PostgreSQL server with a standby that follows it, and can be cut off and promoted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.faults.proc import send
from tests.faults.server import Server, own, own_server
from tests.waiting import wait_for

SECONDS = 20


class Standby(Server):
    """A copy of ``primary``, which streams from it."""

    def __init__(self, directory: Path, binaries: Path, primary: Server) -> None:
        self.primary = primary
        super().__init__(directory, binaries)

    def create(self) -> None:
        source = ("-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres")
        self.run("pg_basebackup", "-D", str(self.data), *source, "-X", "stream", "-c", "fast", "--no-sync")
        (self.data / "standby.signal").touch()
        self.set(primary_conninfo=f"host=127.0.0.1 port={self.primary.port} user=postgres")

    def cut(self) -> None:
        """Let it follow no longer."""
        self.set(primary_conninfo="")
        wait_for(lambda: self.ask("SELECT count(*) FROM pg_stat_wal_receiver") == 0, SECONDS, "the standby to be alone")

    def promote(self) -> None:
        assert self.ask("SELECT pg_promote()"), "the standby was not promoted"


class Pair(NamedTuple):
    primary: Server
    standby: Standby

    def url(self, database: str) -> str:
        """That of whichever can be written to."""
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in self)
        return f"postgresql+psycopg://postgres@/{database}?{hosts}&target_session_attrs=read-write"


@contextmanager
def own_pair() -> Iterator[Pair]:
    """Two running servers, of which the second follows the first."""
    with own_server() as primary:
        with (primary.data / "pg_hba.conf").open("a", encoding="utf-8") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
        send(primary.pids[:1], signal.SIGHUP)
        with own(lambda directory, binaries: Standby(directory, binaries, primary)) as standby:
            follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            wait_for(lambda: primary.ask(follows) == 1, SECONDS, "the standby to follow")
            yield Pair(primary, standby)
