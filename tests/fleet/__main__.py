"""The proofs in their full length: `python -m tests.fleet`, or those that are named."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.fleet.backlog import backlog
from tests.fleet.changes import changes
from tests.fleet.connections import connections, pooler
from tests.fleet.failover import crashes, failover
from tests.fleet.freezes import freezes, held

PROOFS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    proof.__name__: proof for proof in (failover, crashes, freezes, held, connections, pooler, changes, backlog)
}


def main(names: list[str]) -> int:
    failed = 0
    for name in names or PROOFS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="asynctask-fleet-") as directory:
            try:
                print(name, PROOFS[name](Path(directory)), flush=True)
            except Exception:  # noqa: BLE001 - the others are still to be proved
                traceback.print_exc()
                failed += 1
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
