"""Texts as the globs of a search: ``*`` any characters, ``?`` one, ``[x]`` nothing but x. Pure."""

from __future__ import annotations

ESCAPE = "!"
"""Quotes in a pattern for LIKE; a backslash would mean something else to each database."""


def is_glob(text: str) -> bool:
    """Whether there are wildcards in it."""
    return any(wild for _, wild in _pieces(text))


def beginning(text: str) -> str | None:
    """What everything begins with that a glob finds, where that is all it asks for."""
    pieces = _pieces(text)
    if [wild for _, wild in pieces[-1:]] != [True] or text[-1:] != "*" or any(wild for _, wild in pieces[:-1]):
        return None
    return "".join(char for char, _ in pieces[:-1])


def literal(text: str) -> str:
    """What a glob without wildcards stands for."""
    return "".join(char for char, _ in _pieces(text))


def like(text: str) -> str:
    """The pattern for LIKE, with `ESCAPE`."""
    wildcards = {"*": "%", "?": "_"}
    return "".join(wildcards[char] if wild else _quoted(char) for char, wild in _pieces(text))


def like_literal(text: str) -> str:
    """The pattern for LIKE that only ``text`` itself fits."""
    return "".join(map(_quoted, text))


def _quoted(char: str) -> str:
    return f"{ESCAPE}{char}" if char in (ESCAPE, "%", "_") else char


def _pieces(glob: str) -> list[tuple[str, bool]]:
    """The characters, each with whether it is a wildcard."""
    found = []
    at = 0
    while at < len(glob):
        if glob[at] == "[" and glob[at + 2 : at + 3] == "]":
            found.append((glob[at + 1], False))
            at += 3
        else:
            found.append((glob[at], glob[at] in ("*", "?")))
            at += 1
    return found
