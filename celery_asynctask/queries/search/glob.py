"""The globs of a search: ``*`` stands for any characters, ``?`` for one, ``[x]`` for x only. Pure."""

from __future__ import annotations

MAX_LENGTH = 256
"""Characters of a glob: comparing it takes as many steps for each character of the text, and nothing can interrupt
that. A text without wildcards, which `contained` finds, is compared a thousand times as fast."""
ESCAPE = "!"
"""Quotes a character in a LIKE pattern. A backslash means something else to each database."""


def is_glob(text: str) -> bool:
    """Whether a text has wildcards."""
    return any(wild for _, wild in _pieces(text))


def beginning(text: str) -> str | None:
    """The prefix that a glob finds, if it is a text followed by a single ``*``; otherwise None."""
    pieces = _pieces(text)
    if [wild for _, wild in pieces[-1:]] != [True] or text[-1:] != "*" or any(wild for _, wild in pieces[:-1]):
        return None
    return "".join(char for char, _ in pieces[:-1])


def contained(text: str) -> str | None:
    """The text that a glob finds anywhere, if it is a text between two ``*``; otherwise None."""
    pieces = _pieces(text)
    if len(pieces) < 2 or pieces[0] != ("*", True) or pieces[-1] != ("*", True):
        return None
    return None if any(wild for _, wild in pieces[1:-1]) else "".join(char for char, _ in pieces[1:-1])


def literal(text: str) -> str:
    """The text that a glob without wildcards stands for."""
    return "".join(char for char, _ in _pieces(text))


def quoted(text: str) -> str:
    """The glob without wildcards that stands for a text."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)


def like(text: str) -> str:
    """The glob as a LIKE pattern, with `ESCAPE`."""
    wildcards = {"*": "%", "?": "_"}
    return "".join(wildcards[char] if wild else _quoted(char) for char, wild in _pieces(text))


def like_literal(text: str) -> str:
    """The LIKE pattern that only ``text`` itself matches, with `ESCAPE`."""
    return "".join(map(_quoted, text))


def _quoted(char: str) -> str:
    return f"{ESCAPE}{char}" if char in (ESCAPE, "%", "_") else char


def _pieces(glob: str) -> list[tuple[str, bool]]:
    """The characters of a glob, each with whether it is a wildcard."""
    pieces = []
    at = 0
    while at < len(glob):
        if glob[at] == "[" and glob[at + 2 : at + 3] == "]":
            pieces.append((glob[at + 1], False))
            at += 3
        else:
            pieces.append((glob[at], glob[at] in ("*", "?")))
            at += 1
    return pieces
