"""A PostgreSQL server of a test's own, which can be stopped, killed, frozen, and made to refuse connections.

It is controlled only by its own process id, and has a directory and a port of its own. PostgreSQL does not run as root,
so a root user starts it as another user.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pwd import getpwnam
from typing import Any, TypeVar

from sqlalchemy import NullPool, create_engine, text

from tests import services
from tests.faults.proc import descendants, kill_tree, send, wait_gone
from tests.pace import patience
from tests.waiting import wait_for

START_SECONDS = 30
STOP_SECONDS = 20
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '32MB'
fsync = off
logging_collector = off
include_if_exists = 'faults.conf'
"""
_TRUST = "host all all 127.0.0.1/32 trust\n"
_REJECT = "host all all 127.0.0.1/32 reject\n"


@cache
def _binaries() -> Path | None:
    places = []
    if shutil.which("pg_config"):
        asked = subprocess.run(["pg_config", "--bindir"], capture_output=True, encoding="utf-8", check=False)
        places.append(Path(asked.stdout.strip()))
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


def _user() -> str | None:
    """The user that runs the server instead of root; None: this user."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            getpwnam(name)
        except KeyError:
            continue
        return name
    raise services.Unavailable("no user but root to run a PostgreSQL server as")


def server_user() -> dict[str, Any]:
    """The arguments of `subprocess.Popen` with which a server does not run as root."""
    user = _user()
    return {} if user is None else {"user": user, "group": getpwnam(user).pw_gid, "extra_groups": []}


def free_port() -> int:
    """A port for a server that must have the same port again after a fault.

    It lies below the range from which the kernel gives out ports: a port in that range that is free now may be taken
    once the server is down.
    """
    first, last = 10_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()[0]) - 1
    while True:
        port = random.SystemRandom().randint(first, last)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """A server in ``directory``. It does not run when created."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self.data = directory / "data"
        self.log = directory / "postgresql.log"
        self.binaries = binaries
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        user = _user()
        self._as = server_user()
        if user is not None:
            os.chown(directory, getpwnam(user).pw_uid, getpwnam(user).pw_gid)
        self.create()
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"{_CONFIGURATION}port = {self.port}\n")
        (self.data / "pg_hba.conf").write_text(_TRUST, encoding="utf-8")

    def create(self) -> None:
        """Make the data directory."""
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        self.run("initdb", "-D", str(self.data), *options)

    def url(self, database: str = "postgres", **query: str) -> str:
        options = "?" + "&".join(f"{key}={value}" for key, value in query.items()) if query else ""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}{options}"

    @property
    def pids(self) -> list[int]:
        assert self.process is not None, "the server does not run"
        return [self.process.pid, *descendants(self.process.pid)]

    def start(self) -> None:
        """Start it, and wait until it answers: after a kill it first recovers."""
        assert self.process is None, "the server runs"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.binaries / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                **self._as,
            )
        wait_for(
            self._answers, START_SECONDS, f"PostgreSQL to answer; its log:\n{self.log.read_text(encoding='utf-8')}"
        )

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Shut it down: with SIGINT as "fast", with SIGQUIT as "immediate", which is like a crash."""
        process, self.process = self.process, None
        if process is None:
            return
        pids = [process.pid, *descendants(process.pid)]
        send([process.pid], signum)
        try:
            process.wait(patience(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()
            raise AssertionError(f"PostgreSQL did not stop within {patience(STOP_SECONDS):.0f} s") from None
        finally:
            wait_gone(pids)

    def kill(self) -> None:
        """Kill all its processes with SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            pids = kill_tree(process.pid)
            process.wait()
            wait_gone(pids)

    def freeze(self) -> None:
        """Freeze it without closing anything: connections neither fail nor answer."""
        pids = self.pids
        send(pids[:1], signal.SIGSTOP)
        send(self.pids, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None:
            send(self.pids[::-1], signal.SIGCONT)

    def set(self, **settings: str) -> None:
        """Settings for all sessions, also present ones; without any, the defaults."""
        path = self.data / "faults.conf"
        path.write_text("".join(f"{key} = '{value}'\n" for key, value in settings.items()), encoding="utf-8")
        path.chmod(0o644)  # the server runs as another user, whatever the umask
        if self.process is not None:
            send(self.pids[:1], signal.SIGHUP)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self.set(default_transaction_read_only="on")
        wait_for(lambda: self.ask("SHOW default_transaction_read_only") == "on", 10, "the server to be read-only")
        try:
            yield
        finally:
            self.set()
            wait_for(lambda: self.ask("SHOW default_transaction_read_only") == "off", 10, "the server to be writable")

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse all connections and end the present ones."""
        engine = create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            (self.data / "pg_hba.conf").write_text(_REJECT, encoding="utf-8")
            send(self.pids[:1], signal.SIGHUP)
            wait_for(lambda: not self._answers(), 10, "the server to refuse")
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            )
        engine.dispose()
        try:
            yield
        finally:
            (self.data / "pg_hba.conf").write_text(_TRUST, encoding="utf-8")
            send(self.pids[:1], signal.SIGHUP)
            wait_for(self._answers, 10, "the server to let us in")

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """URL of an empty database, dropped at the end."""
        name = f"faults_{uuid.uuid4().hex[:12]}"
        self.ask(f"CREATE DATABASE {name}")
        yield self.url(name)
        self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    def ask(self, statement: str) -> Any:
        """The first value of the answer, on a separate connection."""
        options = {"connect_timeout": f"{patience(5):.0f}"}
        engine = create_engine(self.url(**options), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"PostgreSQL ended:\n{self.log.read_text(encoding='utf-8')}"
        try:
            return bool(self.ask("SELECT 1") == 1)
        except Exception:  # noqa: BLE001 - not yet, whatever the reason
            return False

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            capture_output=True,
            encoding="utf-8",
            cwd="/",
            check=False,
            **self._as,
        )
        assert done.returncode == 0, done.stdout + done.stderr


AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def own_server(**settings: str) -> Iterator[Server]:
    """A server with these settings that runs, and is removed at the end with everything that it stored."""

    def make(directory: Path, binaries: Path) -> Server:
        server = Server(directory, binaries)
        server.set(**settings)
        return server

    with own(make) as server:
        yield server


@contextmanager
def own(make: Callable[[Path, Path], AnyServer]) -> Iterator[AnyServer]:
    """`own_server`, with the server that ``make`` makes of a directory and that of PostgreSQL's programs."""
    binaries = _binaries()
    if binaries is None:
        raise services.Unavailable("no PostgreSQL server programs (pg_config --bindir, /usr/lib/postgresql/*/bin)")
    directory = Path(tempfile.mkdtemp(prefix="asynctask-postgresql-"))  # not below pytest's, which is closed to others
    server = None
    try:
        server = make(directory, binaries)
        server.start()
        yield server
    finally:
        if server is not None:
            server.thaw()
            server.kill()
        shutil.rmtree(directory, ignore_errors=True)
