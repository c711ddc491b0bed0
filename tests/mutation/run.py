"""Changes the code in one place at a time and checks whether the tests notice.

It writes into the tree that it is imported from, so `__main__` runs it in a copy. It takes minutes and is run before a
release, not for each change.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path
from typing import NamedTuple

import celery
import hypothesis
import pytest
import sqlalchemy
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.mutation.operators import definition, is_annotation, operators
from tests.pace import pace
from tests.services import TIERS

UNIT = "tests/unit/"


class Target(NamedTuple):
    """The module that is changed, and the tests that must notice."""

    path: str
    tests: tuple[str, ...]
    within: str = ""
    """Only definitions whose name begins like this are changed."""


TARGETS = (
    Target(
        "celery_asynctask/core/fold.py",
        (f"{UNIT}core/test_fold.py", f"{UNIT}store/test_rounds.py", f"{UNIT}core/test_histories.py"),
    ),
    Target("celery_asynctask/core/keys.py", (f"{UNIT}core/test_keys.py",)),
    Target("celery_asynctask/core/accounting.py", (f"{UNIT}core/test_accounting.py",)),
    Target("celery_asynctask/recorder/liveness.py", (f"{UNIT}recorder/test_liveness.py",), within="_event"),
)
MIN_RATE = 0.9
SECONDS = 30
"""Processor time for the tests of one mutant. All of them take a few seconds; a mutant that takes longer does not
end."""
SURVIVORS = Path(__file__).with_name("survivors.md")
"""A line for each mutant that may survive: the change, and the reason why no test can notice it."""

PRELOADED = (celery, hypothesis, pytest, sqlalchemy)
"""Modules that every test needs and no mutant changes, imported before the forks."""


class Mutant(NamedTuple):
    code: str
    name: str


def changed(before: str, after: str) -> str:
    """The lines that differ, on one line each."""
    told = list(ndiff(before.splitlines(), after.splitlines()))
    old, new = (" ".join(line[2:].strip() for line in told if line[0] == sign) for sign in "-+")
    return f"`{old}` -> `{new}`"


def mutants(target: Target) -> Iterator[Mutant]:
    """Every mutant once, without those that are not valid Python."""
    source = Path(target.path).read_text(encoding="utf-8")
    tree = get_ast(source)
    seen = {source}
    names: dict[str, int] = {}
    for operator in operators():
        occurrence = -1
        for node in ast_nodes(tree):
            for _ in operator.mutation_positions(node):
                occurrence += 1
                where = definition(node)
                if is_annotation(node) or not where.startswith(target.within):
                    continue
                code = mutate_code(source, operator, occurrence)
                if code is None or code in seen:
                    continue
                seen.add(code)
                try:
                    compile(code, target.path, "exec")
                except SyntaxError:
                    continue
                name = f"`{target.path}`, `{where or 'module'}`: {changed(source, code)}"
                names[name] = names.get(name, 0) + 1
                yield Mutant(code, name if names[name] == 1 else f"{name} ({names[name]})")


def passes(tests: tuple[str, ...], output: int) -> bool:
    """Whether the tests pass in a child of this process, which has loaded nothing of the package yet."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.dup2(output, 1)
            os.dup2(output, 2)
            options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=line"]
            options += ["-o", "addopts=", "-m", f"not ({' or '.join(TIERS)})"]  # no options of xdist
            # One file after the other: the first one kills most mutants, and the others import much.
            code = next((failed for test in tests if (failed := pytest.main([*options, test]))), 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def processor_seconds() -> float:
    """Processor time of this process and its children so far."""
    return sum(os.times()[:4])


def listed() -> dict[str, str]:
    """The mutants that may survive, each with its reason."""
    text = SURVIVORS.read_text(encoding="utf-8")
    return dict(re.findall(r"^- (`.*?`, `.*?`: `.*?` -> `.*?`(?: \(\d+\))?)\. (\S.*)$", text, re.M))


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    arguments.add_argument("paths", nargs="*", help="only files whose path has one of these in it")
    arguments.add_argument("--part", default="1/1", help="the first half of the mutants is 1/2, the second 2/2")
    arguments.add_argument("--count", action="store_true", help="only say how many mutants there are")
    asked = arguments.parse_args()
    pace()  # before there is a mutant to import
    if Path(".git").exists():
        raise SystemExit("this changes what it runs in: python -m tests.mutation runs it in a copy")
    targets = [one for one in TARGETS if not asked.paths or any(path in one.path for path in asked.paths)]
    part, parts = map(int, asked.part.split("/"))
    reasons, survivors, fails, total = listed(), [], False, 0
    nothing = os.open(os.devnull, os.O_WRONLY)
    for target in targets:
        path, began = Path(target.path), processor_seconds()
        source = path.read_text(encoding="utf-8")
        made = list(mutants(target))
        made = made[len(made) * (part - 1) // parts : len(made) * part // parts]
        if asked.count:
            print(f"{target.path}: {len(made)} mutants")
            continue
        if not passes(target.tests, 2):
            print(f"{target.path}: its tests fail without any mutant")
            return 2
        found = []
        for number, mutant in enumerate(made):
            path.write_text(mutant.code, encoding="utf-8")
            os.utime(
                path, (number, number)
            )  # otherwise Python takes the bytecode of a mutant of the same second and size for it
            if passes(target.tests, nothing):
                found.append(mutant.name)
                print(f"- {mutant.name}. {reasons.get(mutant.name, '')}", flush=True)
        path.write_text(source, encoding="utf-8")
        if not passes(target.tests, 2):
            print(f"{target.path}: its tests fail without any mutant by now, so what killed the mutants is not known")
            return 2
        killed = len(made) - len(found)
        rate = killed / len(made)
        fails = fails or rate < MIN_RATE
        survivors += found
        total += len(made)
        took = processor_seconds() - began
        told = f"{killed} killed, {len(found)} survived, {rate:.1%}, {took:.0f} s of processor time"
        print(f"{target.path}: {told}", flush=True)
    if asked.count:
        return 0
    print(f"in all: {total - len(survivors)} killed, {len(survivors)} survived, {1 - len(survivors) / total:.1%}")
    new = [name for name in survivors if name not in reasons]
    for name in new:
        print(f"not listed in {SURVIVORS.name}: {name}")
    if len(targets) == len(TARGETS) and parts == 1:
        for name in reasons.keys() - set(survivors):
            print(f"listed in {SURVIVORS.name}, and killed now: {name}")
    return 1 if fails or new else 0


if __name__ == "__main__":
    sys.exit(main())
