"""What makes failures the same: a message but for what varies in it, and the place in the user's own code. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MESSAGE_SHOWN: Final = 160
"""Characters of a message whose varying parts are replaced; a longer one ends in ``…``."""
PATH_PARTS: Final = 3
"""Of a place's path, from its end: what is before differs from one host and one release to the next."""

_QUOTED: Final = (
    # An apostrophe inside of a word quotes nothing; a quote that is not closed was cut off.
    ("'", re.compile(r"(?<!\w)'(?:[^'\\\n]|\\.)*(?:'(?!\w)|\Z)"), "'…'"),
    ('"', re.compile(r'"(?:[^"\\\n]|\\.)*(?:"|\Z)'), '"…"'),
    ("`", re.compile(r"`[^`\n]+`"), "`…`"),
    ("://", re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s<>()…]+", re.I), r"\1…"),
    ("@", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), "<address>"),
)
"""What varies as a whole, and what shows that there may be any."""
_CLOCK: Final = r"\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
_VARYING: Final = (
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.I), "<id>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (
        re.compile(r"(?<![\w:])\[?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?:\]:\d+|\])?(?![\w:])", re.I),
        "<address>",
    ),
    (re.compile(r"\b0x[0-9a-f]+\b", re.I), "<address>"),
    (re.compile(rf"\b(?:\d{{4}}-\d\d-\d\d(?:T{_CLOCK})?|{_CLOCK})\b"), "<time>"),
    # Letters and digits mixed: a hash, a token, a random name.
    (re.compile(r"(?<![0-9A-Za-z])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])(?=(?:[A-Za-z]*\d){2})[0-9A-Za-z]{8,}"), "<id>"),
    (re.compile(r"(?<![\w.])[+-]?\d[\d.,_]*(?<![.,])(?:[eE][+-]?\d+)?|\d+"), "#"),
)
"""What varies within a word that has a digit."""
_DIGIT: Final = re.compile(r"\d")


def normal(message: str) -> str:
    """A message without what differs from one failure to the next: quoted texts are ``'…'``, numbers ``#``, ids
    ``<id>``, addresses (of hosts, mail, memory) ``<address>``, times ``<time>``; paths keep what is none of these."""
    for mark, varying, shown in _QUOTED:
        if mark in message:
            message = varying.sub(shown, message)
    words = [_word(word) if _DIGIT.search(word) else word for word in message.split()]
    message = " ".join(words).replace("<time> <time>", "<time>")
    return message if len(message) <= MESSAGE_SHOWN else f"{message[: MESSAGE_SHOWN - 1]}…"


_REPLACED: Final = re.compile(r"'…'|\"…\"|`…`|<(?:id|address|time)>|#|…|\s")


def pieces(message: str) -> list[str]:
    """What every message has, in this order, of which `normal` made ``message``."""
    return [piece for piece in _REPLACED.split(message) if piece]


def _word(word: str) -> str:
    for varying, shown in _VARYING:
        word = varying.sub(shown, word)
    return word


FRAME: Final = re.compile(r'^[ |+]*File "([^"\n]+)", line (\d+), in (.+)$', re.MULTILINE)
_INSTALLED: Final = re.compile(r"[/\\](?:site|dist)-packages[/\\](.*)")
_STANDARD: Final = re.compile(r"[/\\]lib(?:64)?[/\\]python\d[\d.]*[/\\]|^<", re.I)
_RUNNING: Final = re.compile(r"(?:celery|kombu|billiard|vine|amqp|celery_asynctask)[/\\]")
"""What runs tasks, installed ..."""
_RUNNING_HERE: Final = re.compile(r"[/\\](?:celery[/\\]app|kombu|billiard|vine|amqp|celery_asynctask)[/\\]")
"""... and as a checkout. A project may have a directory ``celery`` of its own."""


def place(traceback: str | None, package: str = "") -> str | None:
    """The last frame of a traceback that is the user's own code, as ``shop/billing/tasks.py:88 charge``.

    What is installed is not the user's own, unless it is of ``package``, the first part of the task's name; nor is what
    comes with Python, or runs tasks. Where there is no such frame, the last of those that are installed; None: there is
    none at all.
    """
    text = traceback or ""
    begin, last = text.find('File "'), text.rfind('File "')
    return _place(text[begin : text.find("\n", last) + 1 or None], package) if begin >= 0 else None


@lru_cache(maxsize=1000)
def _place(frames: str, package: str) -> str | None:
    installed = None
    for path, line, function in reversed(FRAME.findall(frames)):
        own = is_own(path, package)
        if own:
            return _shown(path, line, function)
        if own is not None:
            installed = installed or _shown(path, line, function)
    return installed


def is_own(path: str, package: str = "") -> bool | None:
    """Whether the code in a file is the user's own, as in `place`; None: it comes with Python, or runs tasks."""
    below = _INSTALLED.search(path)
    if _RUNNING.match(below[1]) if below else _RUNNING_HERE.search(path) or _STANDARD.search(path):
        return None
    return below is None or re.split(r"[/\\]|\.py$", below[1])[0] == package


def _shown(path: str, line: str, function: str) -> str:
    parts = re.split(r"[/\\]", path)[-PATH_PARTS:]
    return f"{'/'.join(parts)}:{line} {function}"
