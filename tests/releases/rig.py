"""Workers and producers of this release and of its predecessor, on one queue and one database.

`predecessor.tar.xz` has what processes that record are made of, as it was before the journal got control pages and
another suffix, and the ledger its last word (schema 0003)::

    git archive 7a24d9a celery_asynctask/{capture,core,journal,migrations,recorder,store,*.py} | xz -9e

Both releases run the application of the faults.
"""

from __future__ import annotations

import signal
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from celery_asynctask.journal.names import OLD_SUFFIX, SUFFIX
from celery_asynctask.recorder import Recorder
from celery_asynctask.settings import Settings
from celery_asynctask.store.models import AsyncTask
from tests.faults.truth import runs_of
from tests.faults.world import STOP_SECONDS, Worker, World
from tests.pace import patience
from tests.waiting import wait_for

NEW = Path(__file__).parents[2]
"""Where this release is."""
ARCHIVE = Path(__file__).with_name("predecessor.tar.xz")
RUN = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
)
"""Runs a module with the release in the directory given first, whatever is in the present one."""


class Rig(World):
    """The processes of one test. A node is a journal directory, named by a word."""

    def __init__(self, directory: Path, store: str) -> None:
        super().__init__(directory, store)
        self.old = directory / "predecessor"
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(self.old, filter="data")
        self.seed = 0

    def run(self, release: Path, node: str, name: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A module of a release, running on a node."""
        name = f"{name}-{node}-{'old' if release == self.old else 'new'}"
        return self.start(name, "-c", RUN, str(release), *arguments, FAULTS_JOURNAL=str(self.of(node)))

    def begin(self, release: Path, node: str) -> Worker:
        """A worker that begins to start."""
        self.seed += 1
        options = ("-l", "INFO", "-c2", "-n", f"{node}-{self.seed}@localhost", "--without-gossip", "--without-mingle")
        return Worker(*self.run(release, node, "worker", "celery", "-A", "tests.faults.app", "worker", *options))

    @contextmanager
    def load(self, release: Path, node: str, pause: float) -> Iterator[None]:
        """Tasks of all shapes, with a pause between them."""
        self.seed += 1
        process, log = self.run(release, node, "producer", "tests.faults.producer", str(self.seed), str(pause))
        try:
            yield
            assert process.poll() is None, log.read_text(encoding="utf-8")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(patience(20))

    def ran(self, more: int) -> None:
        """Wait until so many more bodies have begun."""
        target = len(self.runs.read()) + more
        wait_for(lambda: len(self.runs.read()) >= target, 40, f"{more} more bodies")

    def replace(self, workers: dict[str, Worker], *names: str, by: Path) -> None:
        """End these workers and start those of another release in their places. Before the first space, a name is that
        of a node."""
        self.end([workers.pop(name) for name in names if name in workers])
        workers.update({name: self.begin(by, name.partition(" ")[0]) for name in names})
        for name in names:
            workers[name].wait_ready()

    def end(self, workers: Iterable[Worker]) -> None:
        """End these workers together."""
        ending = list(workers)
        for worker in ending:
            worker.process.send_signal(signal.SIGTERM)  # only once: the second one kills
        for worker in ending:
            code = worker.process.wait(patience(STOP_SECONDS))
            assert code == 0, f"a worker ended with {code}:\n{worker.text}"

    def leave(self, release: Path, node: str) -> None:
        """Send tasks from a process that ends at once: what it has recorded waits for a recorder of its release, or of
        a later one."""
        arguments = ("tests.faults.sender", "early", "20", "0", "_exit")
        assert self.run(release, node, "sender", *arguments)[0].wait(patience(20)) == 0

    def hold(self, seconds: float, count: int) -> None:
        """Run tasks of this length, and wait until they have ended. None may be taken for lost meanwhile."""
        arguments = ("tests.faults.sender", "early", str(count), str(seconds))
        assert self.run(NEW, "b", "sender", *arguments)[0].wait(patience(20)) == 0

        def have_ended() -> bool:
            with self.session() as session:
                lost = session.scalars(select(AsyncTask.celery_task_id).where(AsyncTask.status == "LOST")).all()
            assert not lost, f"taken for lost: {lost}"
            runs = runs_of(self.runs.read(), {})
            return sum(bool(run.ended) and run.ended_at - run.started >= seconds * 10**9 for run in runs) >= count

        wait_for(have_ended, seconds + 20, "the long tasks to end")

    def of(self, node: str) -> Path:
        return self.directory / node

    def left(self, node: str, *suffixes: str) -> list[str]:
        """The segments that wait in a journal: those of the predecessor, and those of this release."""
        names = [path.name for path in self.of(node).iterdir()] if self.of(node).exists() else []
        return sorted(name for name in names if name.endswith(suffixes or (OLD_SUFFIX, SUFFIX)))

    def drain(self, node: str) -> None:
        """Store what is left in a journal, with this release."""
        recorder = Recorder(Settings(url=self.store, journal_dir=self.of(node), flush_interval=0.1))
        recorder.start()
        try:
            wait_for(lambda: not self.left(node), 30, f"{node} to be stored; there are {self.left(node)}")
        finally:
            recorder.stop(patience(20))
