"""The fingerprint of a failure: its message without the parts that vary, and its place in the user's own code. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

MESSAGE_SHOWN: Final = 160
"""Characters of a normalized message; a longer one ends in ``…``."""
PATH_PARTS: Final = 3
"""Parts of a path that are kept, from its end: the beginning differs between hosts and releases."""

_NO_TEXT: Final = r"""(?!\))(?!(?<=\([1-4]\d\d\d, ['"])\w+ )"""
"""Behind a quote that begins a text that varies."""
_QUOTED: Final = (
    # An apostrophe inside a word quotes nothing; a quote that is not closed was cut off. Drivers of MySQL quote the
    # text of an error behind its number, which is no value.
    ("'", re.compile(r"(?<!\w)'" + _NO_TEXT + r"(?:[^'\\]|\\.|'(?=\w))*(?:'|\Z)"), "'…'"),
    ('"', re.compile('"' + _NO_TEXT + r'(?:[^"\\]|\\.)*(?:"|\Z)'), '"…"'),
    ("`", re.compile(r"`[^`]+`"), "`…`"),
    ("„", re.compile(r"„[^“”]*(?:[“”]|\Z)"), "„…“"),
    ("“", re.compile(r"(?<!…)“[^”]*(?:”|\Z)"), "“…”"),
    ("‚", re.compile(r"‚[^‘’]*(?:[‘’]|\Z)"), "‚…‘"),
    ("‘", re.compile(r"(?<!…)‘(?:[^’]|’(?=\w))*(?:’|\Z)"), "‘…’"),
    ("«", re.compile(r"(«)[^«»]*(?:(»)|\Z)|(»)(?=[^\s«»])[^«»]*(«)"), r"\1\3…\2\4"),
    ("‹", re.compile(r"‹[^›]*(?:›|\Z)"), "‹…›"),
    ("「", re.compile(r"「[^」]*(?:」|\Z)"), "「…」"),
    # The values of PostgreSQL's keys.
    (")=(", re.compile(r"\)=\((?:(?:[^()]|\([^()]*\))*(?:\)|\Z)|[^)]*\))"), ")=(…)"),
    ("://", re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s<>()…'\"`„“”‚‘’«»‹›「」]+", re.I), r"\1…"),
    ("@", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), "<address>"),
    ("/", re.compile(r"(?<![\w.~/\\<…])(?:[A-Za-z]:|~\w*|\.{1,2})?(?:/[\w.@%+=,~-]+){2,}/?"), "<path>"),
    ("\\", re.compile(r"(?<!\w)(?:[A-Za-z]:|\\)(?:\\[\w.@%+=,~$-]+)+"), "<path>"),
)
"""Parts that vary as a whole: a text that shows that there may be one, its pattern, and its replacement."""
_PHRASES: Final = "|".join(f"{status.value} {re.escape(status.phrase)}" for status in HTTPStatus)
_CODE: Final = re.compile(
    r"(\b(?:(?=[aceghrs])(?:"
    r"(?:status|error|exit|return|response|result)[ _-]?code(?: is| was)?[ :=(#]{1,3}-?\d{1,5}"
    r"|exit(?:ed)?(?: with)?(?: status| code)?[ :=]{1,2}-?\d{1,3}"
    r"|(?:status|errno|signal)[ :=(#]{1,3}-?\d{1,5}"
    r"|error[ :=#]{1,2}\d{3,5}"
    r"|code[ :=]{1,2}[1-5]\d\d"
    r"|http(?:/\d(?:\.\d)?)?[ :=]{1,2}[1-5]\d\d"
    r"|sqlstate[ :=(\[]{1,3}[0-9a-z]{5}"
    r"|(?:answered|got|received|replied|responded|returned)(?: with)?(?: an?)? [1-5]\d\d(?= ?[:;,.()\[\]<>-]| ?\Z)"
    rf")|(?=[1-5]\d\d )(?:[45]\d\d (?:Client|Server) Error|{_PHRASES})"
    r")(?!\w|[.,]\d)|\([1-4]\d\d\d(?=, ['\"]))",
    re.IGNORECASE,
)
"""Numbers that say what went wrong: HTTP statuses, exit codes, signals, error numbers of systems and databases."""
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
"""Parts that vary within a word that has a digit, each with its replacement."""
_DIGIT: Final = re.compile(r"\d")


def normal(message: str) -> str:
    """A message with the parts replaced that differ between failures: quoted texts by ``'…'``, numbers by ``#``, ids by
    ``<id>``, addresses (of hosts, mail, memory) by ``<address>``, times by ``<time>``, paths of files by ``<path>``.
    Numbers that say what went wrong (`_CODE`) stay. A normal message is its own."""
    for _ in range(_MAX_PASSES):
        shown = _replaced(" ".join(message.split()))
        if len(shown) > MESSAGE_SHOWN:
            shown = f"{shown[: MESSAGE_SHOWN - 1]}…"
        if shown == message:
            break
        message = shown
    return message


def _replaced(message: str) -> str:
    for mark, varying, shown in _QUOTED:
        if mark in message:
            message = varying.sub(shown, message)
    if _DIGIT.search(message):
        parts = _CODE.split(message)
        parts[::2] = map(_without_numbers, parts[::2])
        message = "".join(parts)
    return _TIMES.sub("<time>", message)


_MAX_PASSES: Final = 6
"""What a replacement leaves may be replaced in turn: a quote behind a path. Twice is enough for nearly all."""
_TIMES: Final = re.compile(r"<time>(?: <time>)+")
_REPLACED: Final = re.compile(r"['\"`„“‚‘«»‹「(]…['\"`“”‘’»«›」)]|<(?:id|address|time|path)>|#|…|\s")


def pieces(message: str) -> list[str]:
    """The texts that every message contains, in this order, if `normal` gives ``message`` for it."""
    return [piece for piece in _REPLACED.split(message) if piece]


def _without_numbers(text: str) -> str:
    return " ".join(_word(word) if _DIGIT.search(word) else word for word in text.split(" "))


def _word(word: str) -> str:
    for varying, shown in _VARYING:
        word = varying.sub(shown, word)
    return word


FRAME: Final = re.compile(r'^[ |+]*File "([^"\n]+)", line (\d+), in (.+)$', re.MULTILINE)
_INSTALLED: Final = re.compile(r"[/\\](?:site|dist)-packages[/\\](.*)")
_STANDARD: Final = re.compile(r"[/\\]lib(?:64)?[/\\]python\d[\d.]*[/\\]|^<", re.I)
_RUNNING: Final = re.compile(r"(?:celery|kombu|billiard|vine|amqp|celery_asynctask)[/\\]")
"""Packages that run tasks, where they are installed ..."""
_RUNNING_HERE: Final = re.compile(r"[/\\](?:celery[/\\]app|kombu|billiard|vine|amqp|celery_asynctask)[/\\]")
"""... and in a checkout. A project may have a directory ``celery`` of its own."""


class Found(NamedTuple):
    """The place of an error."""

    place: str | None
    """Such as ``shop/billing/tasks.py:88 charge``; None: there is none."""
    is_own: bool
    """Whether it is in the user's own code."""


def place(traceback: str | None, package: str = "") -> str | None:
    """`Found.place` of `find`."""
    return find(traceback, package).place


def find(traceback: str | None, package: str = "") -> Found:
    """The last frame of a traceback in the user's own code.

    Installed code is the user's own only if it belongs to ``package``, the first part of the task's name. Code of
    Python itself and of the packages that run tasks never is. Without a frame of the user's own, it is the last frame
    of other installed code.
    """
    text = traceback or ""
    begin, last = text.find('File "'), text.rfind('File "')
    return _find(text[begin : text.find("\n", last) + 1 or None], package) if begin >= 0 else Found(None, False)


@lru_cache(maxsize=1000)
def _find(frames: str, package: str) -> Found:
    installed = None
    for path, line, function in reversed(FRAME.findall(frames)):
        own = is_own(path, package)
        if own:
            return Found(_format(path, line, function), True)
        if own is not None:
            installed = installed or _format(path, line, function)
    return Found(installed, False)


def is_own(path: str, package: str = "") -> bool | None:
    """Whether the code in a file is the user's own, as `find` defines it; None: it belongs to Python or to a package
    that runs tasks."""
    installed = _INSTALLED.search(path)
    if _RUNNING.match(installed[1]) if installed else _RUNNING_HERE.search(path) or _STANDARD.search(path):
        return None
    return installed is None or re.split(r"[/\\]|\.py$", installed[1])[0] == package


def _format(path: str, line: str, function: str) -> str:
    parts = re.split(r"[/\\]", path)[-PATH_PARTS:]
    return f"{'/'.join(parts)}:{line} {function}"
