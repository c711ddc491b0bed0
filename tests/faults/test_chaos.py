"""Everything breaks at random for a while; then the rows must have the truth.

There are two workers and a producer, a PostgreSQL server, and a disk for the journal; while the disk is full or
read-only, the database breaks, and whatever is broken, processes are killed. The broker, RabbitMQ or Redis, gives the
messages of a dead worker to another, so every late-acknowledged task ends well.

ASYNCTASK_CHAOS_SECONDS is the time of breaking, ASYNCTASK_CHAOS_SEED its order, ASYNCTASK_CHAOS_BROKER the broker.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from celery_asynctask.recorder import Recorder
from celery_asynctask.recorder.liveness import LOOK_SECONDS, LOST_SECONDS
from tests.faults.disks import Disk, can_mount
from tests.faults.proc import descendants, kill_tree, send, wait_gone
from tests.faults.server import Server, own_server
from tests.faults.truth import ENDS, judge, runs_of
from tests.faults.verifier import Verifier
from tests.faults.world import Worker, World
from tests.pace import pace, patience
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("ASYNCTASK_CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("ASYNCTASK_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
BROKER = os.environ.get("ASYNCTASK_CHAOS_BROKER", ("amqp", "redis")[SEED % 2])
PAUSE = 0.05
"""Seconds between two shapes that the producer sends, each of two or three tasks."""
DISK_MEGABYTES = 48
VISIBILITY = "10"
"""Seconds after which Redis gives a message to another worker: no task takes nearly as long."""
SETTLE_SECONDS = LOST_SECONDS + 3 * LOOK_SECONDS + 30


Fault = Callable[[], None]
Kinds = dict[Fault, int]
"""Faults, and how often each comes beside the others."""


class Chaos:
    """The processes, and the time at which each was killed."""

    def __init__(self, world: World, server: Server, disk: Disk | None, seed: int) -> None:
        self.world = world
        self.server = server
        self.disk = disk
        self.is_answering = True
        """Whether the database is."""
        self.verifier = Verifier(world)
        self.dice = random.Random(seed)
        self.killed: dict[int, int] = {}
        self.counts: Counter[str] = Counter()
        self.kills: Kinds = {
            self.kill_child: 8,
            self.kill_worker: 2,
            self.kill_main: 1,
            self.kill_producer: 1,
            self.kill_elected: 2,
        }
        self.outages: Kinds = {self.kill_database: 2, self.freeze_database: 2}
        self.disks: Kinds = {self.fill_disk: 2, self.protect_disk: 2} if disk is not None else {}
        self.workers = [world.worker("-c2").wait_ready() for _ in range(2)]
        self.producer = self._produce()

    def _produce(self) -> Popen[bytes]:
        seed = self.dice.randrange(10**6)
        return self.world.start("producer", "-m", "tests.faults.producer", str(seed), str(PAUSE))[0]

    def _note(self, pids: list[int]) -> None:
        """The time by which each process was killed: an attempt that starts later with the same pid belongs to another
        process."""
        self.killed.update(dict.fromkeys(pids, time.time_ns()))
        wait_gone(pids)

    def _start_again(self, worker: Worker) -> None:
        worker.process.wait()
        self.workers[self.workers.index(worker)] = self.world.worker("-c2")
        self.counts["workers started"] += 1

    def kill_child(self) -> None:
        worker = self.dice.choice(self.workers)
        children = descendants(worker.pid)
        # A worker that looks for its children before it reads its first message, and misses one, ends itself.
        if children and " received" in worker.text:
            child = self.dice.choice(children)
            send([child], signal.SIGKILL)
            self._note([child])

    def kill_worker(self) -> None:
        worker = self.dice.choice(self.workers)
        self._note(kill_tree(worker.pid))
        self._start_again(worker)

    def kill_main(self) -> None:
        """Kill only the main process: its children go on without it for a moment."""
        self._kill_main(self.dice.choice(self.workers))

    def _kill_main(self, worker: Worker) -> None:
        children = descendants(worker.pid)
        send([worker.pid], signal.SIGKILL)
        self._note([worker.pid])
        self._start_again(worker)
        self._go_on(0.5)
        send(children, signal.SIGKILL)
        self._note(children)

    def kill_producer(self) -> None:
        self._note(kill_tree(self.producer.pid))
        self.producer.wait()
        self.producer = self._produce()

    def kill_elected(self) -> None:
        elected = self.world.elected()
        if elected == self.producer.pid:
            self.kill_producer()
        for worker in self.workers:
            if worker.pid == elected:
                self._kill_main(worker)
                return

    def kill_database(self) -> None:
        self.is_answering = False
        self.server.kill()
        self._break(self.dice.uniform(0, 2), self.kills)
        self.server.start()
        self.is_answering = True

    def freeze_database(self) -> None:
        self.is_answering = False
        self.server.freeze()
        self._break(self.dice.uniform(1, 4), self.kills)
        self.server.thaw()
        self.is_answering = True

    def fill_disk(self) -> None:
        assert self.disk is not None
        with self.disk.full():
            self._break(self.dice.uniform(1, 4), self.kills | self.outages)

    def protect_disk(self) -> None:
        assert self.disk is not None
        with self.disk.read_only():
            self._break(self.dice.uniform(1, 4), self.kills | self.outages)

    def _go_on(self, seconds: float) -> None:
        """Let everything else run for the length of a fault."""
        time.sleep(seconds)

    def _break(self, seconds: float, kinds: Kinds) -> None:
        """Let everything run, and break something of these kinds now and then."""
        until = time.monotonic() + seconds
        self._go_on(max(0, min(seconds, self.dice.uniform(0.1, 0.8))))
        while time.monotonic() < until:
            self._do(self.dice.choices(list(kinds), list(kinds.values()))[0])

    def _do(self, kind: Fault) -> None:
        self.counts[kind.__name__] += 1
        kind()
        self._go_on(self.dice.uniform(0.1, 0.8))
        if self.is_answering:
            self.verifier.look(self.killed)

    def run(self, seconds: float) -> None:
        plan = list(self.kills | self.outages | self.disks)  # each fault once, then at random
        self.dice.shuffle(plan)
        until = time.monotonic() + seconds
        for kind in plan:
            self._do(kind)
        self._break(until - time.monotonic(), self.kills | self.outages | self.disks)

    def settle(self) -> None:
        """Wait until everything is up, nothing is sent any more, and everything sent has run."""
        for worker in self.workers:
            worker.wait_ready()
        self.producer.send_signal(signal.SIGTERM)
        # Not 0: it was started at last, and has sent nothing yet.
        assert self.producer.wait(patience(20)) in (0, -signal.SIGTERM)
        quiet_since, size = time.monotonic(), -1

        def quiet() -> bool:
            nonlocal quiet_since, size
            if (now := self.world.runs.size()) != size:
                quiet_since, size = time.monotonic(), now
            return time.monotonic() - quiet_since > patience(2) and not self.world.waiting()

        wait_for(quiet, 120, "the tasks to be run")

    def none_runs(self) -> bool:
        return not any(row.status.value == "STARTED" for row in self.world.rows())


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    print(f"\nseed {SEED}, {BROKER}, {SECONDS} s")
    with own_server() as server:
        disk = Disk(tmp_path / "disk", DISK_MEGABYTES) if can_mount() else None
        world = World(tmp_path, server.url(), BROKER, tmp_path / "disk" / "journal", FAULTS_VISIBILITY=VISIBILITY)
        made = Chaos(world, server, disk, SEED)
        try:
            yield made
        finally:
            made.verifier.close()
            world.close()
            if disk is not None:
                disk.close()


def test_whatever_breaks_the_rows_tell_the_truth(chaos: Chaos) -> None:
    began = time.monotonic()
    world, verifier = chaos.world, chaos.verifier
    wait_for(world.runs.size, 30, "the first task to run")
    chaos.run(SECONDS)
    chaos.settle()
    settled = time.monotonic() - began
    wait_for(chaos.none_runs, SETTLE_SECONDS, "no row to be STARTED")
    judged = time.monotonic() - began
    for worker in chaos.workers:
        assert worker.stop() == 0
    assert world.waiting() == 0
    Recorder(world.settings).start(once=True)  # events of the last process in its last two seconds
    wait_for(lambda: not world.segments(), 20, "the journal to be empty")

    runs = runs_of(world.runs.read(), chaos.killed)
    asks = world.asks.read()
    rows, attempts = world.rows(), world.attempts()
    verdict = judge(asks, runs, rows, attempts, chaos.killed)
    code, total = verifier.command()
    lies = verifier.lied(runs, chaos.killed)
    complete = sum(answer.is_complete for answer in verifier.answers)
    ended = sum(run.ended in ENDS for run in runs)
    print(f"broken: {dict(chaos.counts)}, {len(chaos.killed)} processes killed")
    print(f"tasks {len(rows)}, runs {len(runs)}, {ended} ended, attempts {len(attempts)}, {dict(verdict.statuses)}")
    print(f"never run {verdict.never_run}, attempts without a note {verdict.unnoted}")
    print(f"verify: {len(verifier.answers)} answers, {complete} of them complete, {verifier.failed} failed")
    print(total)
    print(f"settled after {settled:.0f} s, told after {judged:.0f} s, all in {time.monotonic() - began:.0f} s")
    problems = [*(f"verify lies: {lie}" for lie in lies), *verdict.wrong]
    assert not problems, "\n".join(
        [f"seed {SEED}: verify lies {len(lies)} times, {len(verdict.wrong)} wrong", *problems[:40]]
    )
    world.check_ledger()
    assert (code, total["complete"]) == (0, True), (total, world.unsettled())
    assert verdict.never_run + verdict.unnoted <= len(chaos.killed), "more is missing than kills explain"
    assert len(runs) > 20 * SECONDS / pace(), "there was hardly any load"
