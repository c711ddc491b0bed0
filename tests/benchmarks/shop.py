"""The work of an invented shop in ten days: any number of tasks, as the fold's own rows.

Names, durations, waits, shares of failures and retries, customers, arguments, error texts and tracebacks vary as in
real life. Tasks are alone, from the schedule, or in chains, groups and chords, and one workflow has 1,000 members.
Tasks that had not ended at the last moment wait or run then. The same seed, count and last moment give the same rows.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, cast

from celery_asynctask.core.event import Event, Kind
from celery_asynctask.core.fold import Partial, merge, project
from tests.benchmarks.kinds import ALONE, BY_NAME, CHAIN, ENTRY, ERRORS, Spec

DAYS: Final = 10
SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
DAY: Final = 86_400 * SECOND
LATE: Final = 200
"""Tasks of the last minute, some of which run or wait at its end."""
WORKFLOW: Final = "c0ffee00-0000-4000-8000-000000000001"
"""Id of the root of the workflow with 1,000 members, which exists from 4,000 tasks on."""
CUSTOMERS: Final = 500
PEOPLE: Final = ("Ada Lovelace", "Grace Hopper", "Jürgen Groß", "Zoë Ångström", "Mary Jackson", "Edsger Dijkstra")


class Made(NamedTuple):
    """A task, and the time at which its workflow goes on."""

    id: str
    name: str
    ended: int | None
    """None: it did not succeed by the last moment."""
    error: str | None


class Shop:
    """Makes the rows. Times are microseconds since the epoch."""

    def __init__(self, count: int, last: int, seed: int = 0) -> None:
        self.count = count
        self.last = last
        self.first = last - DAYS * DAY
        self.chance = random.Random(seed)
        self.events: Counter[str] = Counter()
        """Number of events that each process wrote."""
        self._made: list[Partial] = []
        self._whose: dict[str, Any] = {}
        self._sources: dict[tuple[int, int], tuple[str, str, int]] = {}

    def partials(self) -> Iterator[Partial]:
        """The requested number of tasks, in the order of their creation."""
        made, big = 0, self.count // 2 if self.count >= 4000 else -1
        while made < self.count:
            at = self._moment(made)
            if made >= big >= 0:
                big = -1
                self._unit(at, self._import)
            else:
                kind = self.chance.random()
                self._unit(at, self._alone if kind < 0.8 else self._chain if kind < 0.92 else self._group)
            left = self.count - made
            yield from self._made[:left]
            made += len(self._made)
            self._made = []

    def sources(self) -> Iterator[dict[str, Any]]:
        """Rows of the processes: some are gone, some alive, and some lost events."""
        for number, ((day, slot), (source, host, pid)) in enumerate(sorted(self._sources.items())):
            stored = self.events[source]
            quarantined, missing = int(number % 40 == 7), int(number % 60 == 11)
            ended = min(self.first + (day + 1) * DAY, self.last)
            yield {
                "source": source,
                "host": host,
                "pid": pid,
                "role": "child" if slot % 5 else "worker",
                "started_at": self.first + day * DAY,
                "journal": f"{slot // 5:032x}",
                "last_seen_at": ended,
                "ended_at": ended if day < DAYS - 1 else None,
                "segment": 1 + stored // 10_000,
                "position": stored % 10_000 * 700,
                "last_number": stored + quarantined + missing,
                "stored": stored,
                "quarantined": quarantined,
                "dropped": {"journal_full": 12} if number % 50 == 20 else None,
                "numbered": stored + quarantined + missing,
                "settled_at": ended if day < DAYS - 1 else None,
                "given_up_at": None,
            }

    def _moment(self, made: int) -> int:
        """Times of creation: evenly spread, with the last tasks within the last minute."""
        early = self.count - min(LATE, self.count // 10)
        if made < early:
            return self.first + (self.last - MINUTE - self.first) * made // early
        return self.last - MINUTE * (self.count - made) // (self.count - early + 1)

    # -- who starts what

    def _unit(self, at: int, make: Callable[[int], object]) -> None:
        chance = self.chance
        self._whose = {}
        if chance.random() < 0.6:
            self._whose["customer"] = int(CUSTOMERS * chance.random() ** 3) + 1
        if chance.random() < 0.5:
            who = chance.randrange(2000)
            self._whose.update(created_by=who, created_by_name=PEOPLE[who % len(PEOPLE)])
        if chance.random() < 0.7:
            self._whose["trace"] = f"{chance.getrandbits(128):032x}"
        make(at)

    def _alone(self, at: int) -> None:
        spec = self.chance.choice(ALONE)
        if self.chance.random() < 0.1:
            self._whose = {"content": {"periodic_task_name": f"every-hour-{spec.name}"}}
        self._task(spec, at)

    def _chain(self, at: int) -> None:
        before: Made | None = None
        root = None
        for spec in CHAIN[: self.chance.randrange(2, 5)]:
            before = self._task(spec, at, root=root, parent=before and before.id, after=before)
            root = root or before.id

    def _group(self, at: int) -> None:
        """A task that starts a group; half of them have a body and so are chords."""
        starter = self._task(BY_NAME["catalog.import"], at)
        if starter.ended is None:
            return
        spec = BY_NAME[self.chance.choice(("catalog.read", "catalog.store"))]
        header = [
            self._task(spec, starter.ended, root=starter.id, parent=starter.id)
            for _ in range(self.chance.randrange(2, 16))
        ]
        if self.chance.random() < 0.5:
            self._body(header, starter)

    def _import(self, at: int) -> None:
        """The workflow of 1,000: an import in nine parts, the tasks that store each part, and a body."""
        self._whose = {"customer": 42, "content": {"periodic_task_name": "nightly-import"}}
        starter = self._task(BY_NAME["catalog.import"], at, task_id=WORKFLOW, succeeds=True)
        assert starter.ended is not None
        parts = [
            self._task(BY_NAME["catalog.read"], starter.ended, root=WORKFLOW, parent=WORKFLOW, succeeds=True)
            for _ in range(9)
        ]
        for number in range(989):
            part = parts[number % 9]
            self._task(BY_NAME["catalog.store"], part.ended or at, root=WORKFLOW, parent=part.id)
        self._body(parts, starter)

    def _body(self, header: list[Made], starter: Made) -> None:
        failed = next((one for one in header if one.ended is None), None)
        after = failed or max(header, key=lambda one: one.ended or 0)
        planned = starter.ended or self.last
        self._task(BY_NAME["catalog.publish"], planned, root=starter.id, parent=after.id, after=after)

    # -- one task

    def _task(
        self,
        spec: Spec,
        at: int,
        *,
        task_id: str | None = None,
        root: str | None = None,
        parent: str | None = None,
        after: Made | None = None,
        succeeds: bool = False,
    ) -> Made:
        """A task created at ``at``, and sent when the task before it has ended."""
        chance = self.chance
        made = task_id or _uuid(chance)
        about: dict[str, Any] = {"id": made, "name": spec.name, "created": at, "asked": True, "root": root or made}
        about.update(parent=parent, args=[], kwargs=spec.kwargs(chance), **self._whose)
        if after is not None and after.ended is None:
            if after.error is None:  # the step before it waits or runs
                return self._make(about, [{"kind": Kind.PLANNED, "at": at}])
            error, _, reason = after.error.partition(": ")
            message = f"Not sent: upstream task {after.name} [{after.id}] ended with {reason}"
            unsent = {"kind": Kind.UNSENT, "at": at + SECOND, "error_type": error, "error_message": message}
            return self._make(about, [unsent])
        sent = at if after is None or after.ended is None else after.ended
        return self._make(about, self._events(spec, sent, succeeds))

    def _events(self, spec: Spec, sent: int, succeeds: bool) -> list[dict[str, Any]]:
        """A task's attempts as far as they went by the last moment, as the worker records them."""
        chance, last = self.chance, self.last
        final, tries = (Kind.SUCCEEDED, 0) if succeeds else self._fate(spec)
        events: list[dict[str, Any]] = []
        if final is Kind.PUBLISHED or sent > last:
            return [{"kind": Kind.PUBLISHED, "at": min(sent, last)}]
        for number in range(tries + 1):
            received = sent + 1000 + int(chance.random() * 5000)
            started = received + int(spec.wait * SECOND * chance.lognormvariate(0, 1.2))
            ended = started + 500 + int(spec.run * SECOND * chance.lognormvariate(0, 0.6))
            kind = Kind.RETRIED if number < tries else final
            run: dict[str, Any] = {"run": f"{received:014x}{chance.getrandbits(24):06x}", "delivered": True}
            run.update(retries=number, sent=sent, queue=spec.queue)
            if received > last:
                events.append({"kind": Kind.PUBLISHED, "at": min(sent, last), "retries": number})
                break
            if kind is Kind.REVOKED:
                error = {"error_type": "TaskRevokedError", "error_message": "revoked"}
                events.append({**run, **error, "kind": kind, "at": received, "inferred": True})
                break
            if started > last:
                events.append({**run, "kind": Kind.RECEIVED, "at": received})
                break
            run.update(self._where(started), span=f"{chance.getrandbits(64):016x}")
            if ended > last:
                events.append({**run, "kind": Kind.STARTED, "at": started})
                break
            events.append({**run, "kind": kind, "at": ended, "started": started, **self._end(spec, kind, run)})
            sent = ended + int(SECOND * 2**number)
        return events

    def _fate(self, spec: Spec) -> tuple[Kind, int]:
        chance = self.chance.random()
        tries = 1 + int(self.chance.random() * 3) if self.chance.random() < spec.retries else 0
        for kind, share in (
            (Kind.FAILED, spec.fails * (4 if tries else 1)),
            (Kind.REVOKED, 0.004),
            (Kind.IGNORED, 0.003),
            (Kind.LOST, 0.0008),
            (Kind.REJECTED, 0.0008),
            (Kind.PUBLISHED, 0.0003),  # a message that its broker dropped
        ):
            if chance < share:
                return kind, tries
            chance -= share
        return Kind.SUCCEEDED, tries

    def _end(self, spec: Spec, kind: Kind, run: dict[str, Any]) -> dict[str, Any]:
        if kind is Kind.SUCCEEDED:
            return {"result": {"ok": True, "rows": self.chance.randrange(100)}}
        if kind is Kind.LOST:
            message = f"This attempt never reported its end, and its process is gone: child {run['pid']}"
            return {"error_type": "WorkerLostError", "error_message": message, "inferred": True}
        if kind is Kind.REJECTED:
            return {"error_type": "Reject", "error_message": "not ours"}
        return self._failure(spec) if kind in (Kind.FAILED, Kind.RETRIED) else {}

    def _failure(self, spec: Spec) -> dict[str, Any]:
        chance = self.chance
        error = ERRORS[chance.choice(spec.errors)]
        number = f"{chance.getrandbits(32):08x}"
        message = error.message.format(
            n=chance.randrange(100_000),
            byte=chance.randrange(256),
            id=_uuid(chance),
            hex=number,
            word=f"{chance.choice('abcxyz')}{number}",
        )
        lines = [
            '  File "{}", line {}, in {}\n    {}\n'.format(*frame.split(":", 3)) for frame in (*ENTRY, *error.frames)
        ]
        traceback = f"Traceback (most recent call last):\n{''.join(lines)}{error.type}: {message}\n"
        return {"error_type": error.type, "error_message": message, "traceback": traceback}

    def _where(self, started: int) -> dict[str, Any]:
        """The child that ran it: each of four hosts has four, and they are new every day."""
        day, slot = min((started - self.first) // DAY, DAYS - 1), self.chance.randrange(20)
        if (found := self._sources.get((day, slot))) is None:
            born = dt.datetime.fromtimestamp((self.first + day * DAY) / SECOND, dt.timezone.utc)
            pid = 1000 + day * 100 + slot
            source = f"{born:%Y%m%dT%H%M%S}-{pid}-{self.chance.getrandbits(32):08x}"
            found = self._sources[day, slot] = (source, f"web{slot // 5 + 1}.shop.example", pid)
        source, host, pid = found
        self.events[source] += 1
        return {"source": source, "pid": pid, "worker": f"celery@{host}"}

    def _make(self, about: dict[str, Any], events: list[dict[str, Any]]) -> Made:
        made: Partial | None = None
        for event in events:
            partial = project(cast("Event", {**about, **event, "kind": event["kind"].value}))
            made = partial if made is None else merge(made, partial)
        assert made is not None
        self._made.append(made)
        end = events[-1]
        done = end["kind"] is Kind.SUCCEEDED
        failed = not done and "error_type" in end and end["kind"] is not Kind.RETRIED
        error = f"{end['error_type']}: {end['error_message']}" if failed else None
        return Made(about["id"], about["name"], end["at"] if done else None, error)


def _uuid(chance: random.Random) -> str:
    digits = f"{chance.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
