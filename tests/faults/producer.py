"""A producer that sends a steady load of all shapes until SIGTERM. It notes each task's id before and after sending."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import chain, chord, group

from tests.faults import app as tasks
from tests.faults.notes import Notebook
from tests.faults.signaled import signaled

SECONDS = 0.02
"""A body's usual length."""


def chain_of(dice: random.Random) -> tuple[Any, list[str], str]:
    kinds = [dice.choice((tasks.early, tasks.late)) for _ in range(3)]
    ids = [str(uuid4()) for _ in kinds]
    return chain(kind.si(SECONDS).set(task_id=task_id) for kind, task_id in zip(kinds, ids, strict=True)), ids, "chain"


def group_of(dice: random.Random) -> tuple[Any, list[str], str]:
    ids = [str(uuid4()) for _ in range(3)]
    return (
        group(dice.choice((tasks.early, tasks.late)).si(SECONDS).set(task_id=task_id) for task_id in ids),
        ids,
        "group",
    )


def chord_of(dice: random.Random) -> tuple[Any, list[str], str]:
    header, ids, _ = group_of(dice)
    body = str(uuid4())
    return chord(header.tasks, tasks.late.si(SECONDS).set(task_id=body)), [*ids, body], "chord"


def single(dice: random.Random) -> tuple[Any, list[str], str]:
    task_id = str(uuid4())
    kind = dice.choice((tasks.early, tasks.late, tasks.fail, tasks.silent))
    length = SECONDS if dice.random() < 0.97 else 1.5  # now and then a long one, which is likely to be hit
    return kind.si(length).set(task_id=task_id), [task_id], "single"


def retried(dice: random.Random) -> tuple[Any, list[str], str]:
    task_id = str(uuid4())
    kind = dice.choice((tasks.again, tasks.again_late))
    return kind.si(SECONDS, dice.randint(1, 3)).set(task_id=task_id), [task_id], "retried"


SHAPES = (single, single, single, retried, chain_of, group_of, chord_of)


def main(seed: int, pause: float) -> None:
    asks = Notebook(Path(os.environ["FAULTS_ASKS"]))
    dice = random.Random(seed)
    ended = signaled()
    while not ended():
        signature, ids, shape = dice.choice(SHAPES)(dice)
        for task_id in ids:
            asks.write("asking", task_id, shape)
        signature.apply_async()
        for task_id in ids:
            asks.write("asked", task_id, shape)
        time.sleep(pause)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
