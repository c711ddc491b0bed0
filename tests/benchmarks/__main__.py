"""Runs the benchmarks and prints one Markdown table."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

from tests.benchmarks.figure import Options

NAMES = ("hooks", "publish", "worker", "peers", "drain", "memory", "payload", "queries", "purge", "http", "attack")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures what recording costs and prints a Markdown table. All of it takes about 30 minutes, of "
        "which worker takes half; --quick takes five, and its intervals are wide. Servers are looked for where the "
        "tests look for them (tests/services.py). Run it on a machine that does nothing else. The "
        "exit code is 1 if there is something that could not be measured.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"what to measure, of {', '.join(NAMES)}; all")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="rows in the full tables of drain, queries, purge and http (default: 1,000,000)",
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options = Options(quick=given.quick, rows=given.rows)

    from tests.benchmarks.machine import describe

    print(f"{describe()}{' Quick run.' if given.quick else ''}\n")
    print("| what | figure [95 % CI] | target |")
    print("| --- | --- | --- |", flush=True)
    is_whole = True
    for name in given.names or NAMES:
        began = time.monotonic()
        for figure in import_module(f"tests.benchmarks.{name}").measure(options):
            print(figure.row(), flush=True)
            is_whole &= figure.interval is not None
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
