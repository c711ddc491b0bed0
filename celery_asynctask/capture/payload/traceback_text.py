"""Shortens the text of a traceback so that its frames stay: what is long in it is nearly always a message. Pure.

Python writes each exception of a chain or a group as a header, the frames, which are indented below it, and the text of
the exception with its notes, in any number of lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from celery_asynctask.capture.payload.readers import MARGIN

MESSAGE_LEAST: Final = 100
"""Characters that each message keeps, however many frames there are."""
LINE: Final = 400
"""Characters kept of a line of code."""
_MARK: Final = 40
"""Characters of the note in a message that was cut, at most."""
_MAX_PARTS: Final = 100
"""Exceptions that are told apart, from the last."""
_MAX_FRAMES: Final = 100_000
"""Characters of one exception's frames that are read, from the last."""
Redacted = Callable[[str, bool], str]
_HEADER: Final = "Traceback (most recent call last):\n"
_BEFORE: Final = re.compile(r"^([ |+]*)(?:Exception Group )?\Z", re.MULTILINE)
"""What is before `_HEADER` in its line: in a group, lines that show the nesting."""
_MAX_BEFORE: Final = 200
_READ_LINE: Final = re.compile(rf"^(.{{{LINE + MARGIN}}}).+", re.MULTILINE)
_LONG_LINE: Final = re.compile(rf"^(.{{{LINE}}}).+", re.MULTILINE)


class _Part(NamedTuple):
    """One exception."""

    frames: str
    """The header and the frames; empty for what is before the first header."""
    message: str
    """What follows, up to the next header."""


def shortened(text: str, limit: int, redacted: Redacted) -> str:
    """A traceback of at most ``limit`` characters, and a line that says how many are missing: all frames, and of each
    message its beginning and its end; if there are too many frames, the last ones. Whatever is kept went through
    ``redacted``, with `MARGIN` characters more, and with whether it is cut at its end."""
    parts = _parts(text)
    frames: list[str] = []
    room = limit
    for part in reversed(parts):
        frames.append(_frames(part.frames, redacted))
        room -= len(frames[-1])
        if room <= 0:
            break
    share = max(MESSAGE_LEAST, room // len(frames) - _MARK)
    last = zip(reversed(frames), parts[-len(frames) :], strict=True)
    kept = "".join(shown + _message(part.message, share, redacted) for shown, part in last)
    if len(frames) == len(parts) and len(kept) <= limit:
        return kept
    kept = kept[-limit:]
    return f"[{len(text) - len(kept)} characters cut]…\n{kept}"


def beginning(text: str, limit: int, redacted: Redacted) -> str:
    """The first ``limit`` characters of a text, redacted. What was read beyond them is not shown even where redaction
    has made room: a secret at its end is not recognized."""
    read = str.__getitem__(text, slice(0, limit + MARGIN))
    is_cut = len(read) < str.__len__(text)
    return redacted(read, is_cut)[: -MARGIN if is_cut else None][:limit]


def _parts(text: str) -> list[_Part]:
    parts: list[_Part] = []
    at = end = len(text)
    for _ in range(_MAX_PARTS):
        at = text.rfind(_HEADER, 0, at)
        if at < 0:
            break
        before = _BEFORE.search(text, max(0, at - _MAX_BEFORE), at)
        if before is None:
            continue
        below = re.escape(before[1].replace("+", "|") + "  ")
        last = re.compile(rf"\n(?!{below})").search(text, at + len(_HEADER) - 1, end)
        message = end if last is None else last.end()
        parts.append(_Part(text[before.start() : message], text[message:end]))
        end = before.start()
    if end:
        parts.append(_Part("", text[:end]))
    return parts[::-1]


def _frames(frames: str, redacted: Redacted) -> str:
    read = _READ_LINE.sub(r"\1", frames)
    shown = redacted(read[-_MAX_FRAMES:], False)
    return _LONG_LINE.sub(r"\1…", shown if len(read) <= _MAX_FRAMES else shown[MARGIN:])


def _message(message: str, room: int, redacted: Redacted) -> str:
    if len(message) <= room:
        return redacted(message, False)
    end = room // 4
    last = message[-end - MARGIN :]
    last = redacted(last, False)[MARGIN if len(last) < len(message) else 0 :][-end:]
    return f"{beginning(message, room - end, redacted)}…[{len(message) - room} characters cut]…{last}"
