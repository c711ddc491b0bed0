"""Counts files, lines, functions and classes in Python sources. Knows nothing of Celery."""

from __future__ import annotations

import ast
import io
import os
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

FILES_PER_PORTION = 30
"""Files that one task counts."""
MAX_PACKAGES = 200
"""Packages that a census distinguishes."""
TOP_LEVEL = "(top level)"
"""Name of the package of files that are in no directory."""
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)
"""Exceptions of `source` and `measure` for files that cannot be read or parsed."""
_SKIPPED = frozenset({"__pycache__", "site-packages", "node_modules"})


class Portion(NamedTuple):
    """Some files of one package, small enough for one task."""

    package: str
    paths: list[str]
    """Relative to the scanned directory."""


class Function(TypedDict):
    """A function and its length."""

    name: str
    """File and name, such as ``shapes/good.py:area``."""
    lines: int


class Tally(TypedDict):
    """The counts of one file, or the sums of many."""

    files: int
    lines: int
    functions: int
    classes: int
    documented: int
    """Number of functions and classes with a docstring."""
    longest: Function


def scan(directory: Path) -> list[Portion]:
    """The Python files below ``directory``, in portions. The package of a file is its directory or, in a tree with too
    many directories, one of the directories above."""
    paths = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        at = Path(folder).relative_to(directory)
        paths += [at / name for name in sorted(names) if name.endswith(".py")]
    depth = max((len(path.parts) for path in paths), default=0)
    packages = _by_package(paths, depth)
    while len(packages) > MAX_PACKAGES and depth > 1:
        depth -= 1
        packages = _by_package(paths, depth)
    return [
        Portion(package, files[start : start + FILES_PER_PORTION])
        for package, files in packages.items()
        for start in range(0, len(files), FILES_PER_PORTION)
    ]


def _by_package(paths: Iterable[Path], depth: int) -> dict[str, list[str]]:
    packages = defaultdict(list)
    for path in paths:
        packages["/".join(path.parts[:-1][:depth]) or TOP_LEVEL].append(path.as_posix())
    return packages


def source(path: Path, encoding: str | None = None) -> str | bytes:
    """The text of a file in the given encoding; without one its bytes, which the parser decodes like Python itself.

    Raises `UnicodeDecodeError` if the bytes are not in the encoding, or without one not in UTF-8, and `OSError`.
    """
    data = path.read_bytes()
    if encoding is not None:
        return data.decode(encoding)
    data.decode("utf-8")
    return data


def encoding_of(path: Path) -> str:
    """The encoding of a file that is not UTF-8: the one that it declares if it can be decoded with it, or else Latin-1,
    which decodes anything."""
    data = path.read_bytes()
    try:
        declared, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        data.decode(declared)
    except (SyntaxError, UnicodeDecodeError):
        return "latin-1"
    return declared


def measure(code: str | bytes, name: str) -> Tally:
    """Count one file. Raises `SyntaxError` and the other exceptions of `UNPARSABLE`, as `ast.parse` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code, name)
    tally = empty()
    tally["files"], tally["lines"] = 1, len(code.splitlines())
    for node in _definitions(tree):
        tally["documented"] += ast.get_docstring(node, clean=False) is not None
        if isinstance(node, ast.ClassDef):
            tally["classes"] += 1
            continue
        tally["functions"] += 1
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > tally["longest"]["lines"]:
            tally["longest"] = {"name": f"{name}:{node.name}", "lines": lines}
    return tally


def _definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function and class, at any depth. Unlike `ast.walk`, it skips expressions, which contain none."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting.extend(getattr(node, block, ()))


def empty() -> Tally:
    """A tally of zeros."""
    return {"files": 0, "lines": 0, "functions": 0, "classes": 0, "documented": 0, "longest": {"name": "", "lines": 0}}


def add(tallies: Iterable[Tally]) -> Tally:
    """The sum of the tallies."""
    total = empty()
    for tally in tallies:
        total["files"] += tally["files"]
        total["lines"] += tally["lines"]
        total["functions"] += tally["functions"]
        total["classes"] += tally["classes"]
        total["documented"] += tally["documented"]
        total["longest"] = max(total["longest"], tally["longest"], key=lambda function: function["lines"])
    return total


def broken_line(code: str | bytes, name: str) -> str:
    """The line of a file at which the parser stops; empty if there is none."""
    try:
        measure(code, name)
    except SyntaxError as exc:
        lines = code.splitlines()
        if exc.lineno and exc.lineno <= len(lines):
            line = lines[exc.lineno - 1]
            return (line.decode("utf-8", "replace") if isinstance(line, bytes) else line).strip()
    except UNPARSABLE:
        pass
    return ""
