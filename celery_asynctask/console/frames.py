"""Tracebacks folded to the frames of the user's own code. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from celery_asynctask.queries.failures.fingerprint import FRAME, is_own


class _Part(NamedTuple):
    lines: Sequence[str]
    path: str = ""
    """Of a frame: its file; else empty."""


def folded(traceback: str, package: str = "") -> str:
    """A traceback in which one line, with their number, stands for consecutive frames that are not the user's own. If
    none is, the last frame is kept. ``package`` as in `fingerprint.place`."""
    parts = list(_parts(traceback.splitlines()))
    frames = [number for number, part in enumerate(parts) if part.path]
    own = {path: is_own(path, package) for path in {part.path for part in parts if part.path}}
    kept = {number for number in frames if own[parts[number].path]}
    if not kept:
        last = frames[-1] if frames else -1
        kept = {next((number for number in reversed(frames) if own[parts[number].path] is not None), last)}
    lines: list[str] = []
    hidden = 0
    for number, part in enumerate(parts):
        if part.path and number not in kept:
            hidden += 1
            continue
        lines += [*_hidden(hidden), *part.lines]
        hidden = 0
    return "\n".join([*lines, *_hidden(hidden)])


def _hidden(count: int) -> list[str]:
    return [f"  … {count:,} other frame{'s' if count > 1 else ''}"] if count else []


def _parts(lines: Sequence[str]) -> Iterator[_Part]:
    """The frames, each with its lines of code, and the lines between them."""
    frame: list[str] = []
    path = below = ""
    for line in lines:
        if frame and (line.startswith(below) or "[Previous line repeated " in line):
            frame.append(line)
            continue
        if frame:
            yield _Part(frame, path)
            frame = []
        if match := FRAME.match(line):
            frame, path = [line], match[1]
            below = line[: line.index("File ")] + "  "
        else:
            yield _Part([line])
    if frame:
        yield _Part(frame, path)
