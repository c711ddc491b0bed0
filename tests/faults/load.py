"""A steady load of short tasks, one after the other until SIGTERM. It notes each id before and after it is sent."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from uuid import uuid4

from tests.faults import app as tasks
from tests.faults.notes import Notebook
from tests.faults.signaled import signaled


def main(pause: float, body: float) -> None:
    asks = Notebook(Path(os.environ["FAULTS_ASKS"]))
    ended = signaled()
    while not ended():
        task_id = str(uuid4())
        asks.write("asking", task_id, "load")
        tasks.silent.apply_async((body,), task_id=task_id)
        asks.write("asked", task_id, "load")
        time.sleep(pause)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
