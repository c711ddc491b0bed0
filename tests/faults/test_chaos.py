"""Everything is killed at random for a while; then the rows must have the truth.

There are two workers and a producer, on RabbitMQ (which redelivers the messages of a dead worker, so that every
late-acknowledged task ends well) and PostgreSQL. ASYNCTASK_CHAOS_SECONDS is the time of killing, ASYNCTASK_CHAOS_SEED
its order.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from celery_asynctask.recorder import Recorder
from celery_asynctask.recorder.liveness import LOOK_SECONDS, LOST_SECONDS
from tests.faults.proc import descendants, kill_tree, send, wait_gone
from tests.faults.server import Server, own_server
from tests.faults.truth import judge, runs_of
from tests.faults.world import Worker, World
from tests.pace import pace, patience
from tests.waiting import wait_for

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("ASYNCTASK_CHAOS_SECONDS", "20"))
SEED = int(os.environ.get("ASYNCTASK_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
PAUSE = 0.05
"""Seconds between two shapes that the producer sends, each of two or three tasks."""
SETTLE_SECONDS = LOST_SECONDS + 3 * LOOK_SECONDS + 30


class Chaos:
    """The processes, and the time at which each was killed."""

    def __init__(self, world: World, server: Server, seed: int) -> None:
        self.world = world
        self.server = server
        self.dice = random.Random(seed)
        self.killed: dict[int, int] = {}
        self.counts: Counter[str] = Counter()
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
        self.server.kill()
        self._go_on(self.dice.uniform(0, 2))
        self.server.start()

    def freeze_database(self) -> None:
        self.server.freeze()
        self._go_on(self.dice.uniform(1, 4))
        self.server.thaw()

    def _go_on(self, seconds: float) -> None:
        """Let everything else run for the length of a fault."""
        time.sleep(seconds)

    def run(self, seconds: float) -> None:
        kinds = {
            self.kill_child: 8,
            self.kill_worker: 2,
            self.kill_main: 1,
            self.kill_producer: 1,
            self.kill_elected: 2,
            self.kill_database: 2,
            self.freeze_database: 2,
        }
        until = time.monotonic() + seconds
        plan = list(kinds)  # each fault once, then at random
        self.dice.shuffle(plan)
        while time.monotonic() < until or plan:
            kind = plan.pop() if plan else self.dice.choices(list(kinds), list(kinds.values()))[0]
            self.counts[kind.__name__] += 1
            kind()
            self._go_on(self.dice.uniform(0.1, 0.8))

    def settle(self) -> None:
        """Wait until everything is up, nothing is sent any more, and everything sent has run."""
        for worker in self.workers:
            worker.wait_ready()
        self.producer.send_signal(signal.SIGTERM)
        assert self.producer.wait(patience(20)) == 0
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
    print(f"\nseed {SEED}, {SECONDS} s")
    with own_server() as server:
        world = World(tmp_path, server.url(), broker="amqp")
        try:
            yield Chaos(world, server, SEED)
        finally:
            world.close()


def test_whatever_is_killed_the_rows_tell_the_truth(chaos: Chaos) -> None:
    began = time.monotonic()
    world = chaos.world
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
    world.check_ledger()

    runs = runs_of(world.runs.read(), chaos.killed)
    asks = world.asks.read()
    rows, attempts = world.rows(), world.attempts()
    verdict = judge(asks, runs, rows, attempts, chaos.killed)
    print(f"killed: {dict(chaos.counts)}, {len(chaos.killed)} processes")
    print(f"tasks {len(rows)}, runs {len(runs)}, attempts {len(attempts)}, {dict(verdict.statuses)}")
    print(f"never run {verdict.never_run}, attempts without a note {verdict.unnoted}")
    print(f"settled after {settled:.0f} s, told after {judged:.0f} s, all in {time.monotonic() - began:.0f} s")
    assert not verdict.wrong, "\n".join([f"seed {SEED}: {len(verdict.wrong)} wrong", *verdict.wrong[:40]])
    assert verdict.never_run + verdict.unnoted <= len(chaos.killed), "more is missing than kills explain"
    assert len(runs) > 20 * SECONDS / pace(), "there was hardly any load"
