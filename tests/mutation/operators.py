"""The mutations: those of Cosmic Ray without repetitions, and others for tables and texts.

Much of the fold is tables: the status that a kind gives, the columns that change together, the contents of a row. So
texts are changed and members of lists are left out, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

Position = tuple[tuple[int, int], tuple[int, int]]

ARITHMETIC = {"Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Mod_Mul", "BitAnd_BitOr", "BitOr_BitAnd"}
"""One replacement each: eleven others of the same operator fail the same test and only raise the rate."""
UNUSED = re.compile("Variable(Replacer|Inserter)$|ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is(Not)?$")
"""Random, or dependent on the objects that Python keeps one copy of."""


class Replacement(Operator):  # type: ignore[misc]
    """A mutation that replaces the code of a node."""

    def replacements(self, node: Any) -> list[str]:
        """The codes that replace it."""
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        for _ in self.replacements(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        code = self.replacements(node)[index]
        prefix = node.get_first_leaf().prefix
        return parso.python.tree.Name(code, node.start_pos, prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class Text(Replacement):
    """Another text, or another width in a format."""

    def replacements(self, node: Any) -> list[str]:
        if node.type == "fstring_string" and node.parent.type == "fstring_format_spec":
            return [re.sub("[1-9][0-9]*", lambda width: str(int(width[0]) + 1), node.value)]
        if node.type == "fstring_string":
            return [f"XX{node.value}"]
        if node.type != "string" or (node.parent.type == "simple_stmt"):
            return []
        start = re.match("[a-zA-Z]*(\"\"\"|'''|\"|')", node.value)
        assert start is not None
        return [f"{start[0]}XX{node.value[start.end() :]}"]


class Left(Replacement):
    """A list, set or tuple without one of its members."""

    def replacements(self, node: Any) -> list[str]:
        if node.type not in ("testlist_comp", "dictorsetmaker") or any(
            child.type in ("comp_for", "sync_comp_for") for child in node.children
        ):
            return []
        items, item = [], ""
        for child in node.children:
            if child == ",":
                items.append(item)
                item = ""
            else:
                item += child.get_code()
        items += [item] if item else []
        if len(items) == 1:
            return [""]
        return [",".join(items[:at] + items[at + 1 :]) + "," for at in range(len(items))]


class Forced(Replacement):
    """A condition that always holds, or never holds."""

    def replacements(self, node: Any) -> list[str]:
        parent = node.parent
        if parent is None or node.type in ("keyword", "operator"):
            return []
        at = {"test": 2, "if_stmt": 1, "while_stmt": 1}.get(parent.type)
        is_test = at is not None and parent.children[at] is node
        is_filter = parent.type == "comp_if" and parent.children[1] is node
        return ["True", "False"] if is_test or is_filter else []


class Gone(Replacement):
    """No call, or no assignment to something that existed before."""

    def replacements(self, node: Any) -> list[str]:
        if node.parent is None or node.parent.type != "simple_stmt":
            return []
        is_call = node.type == "atom_expr" and node.children[-1].type == "trailer"
        is_change = node.type == "expr_stmt" and (
            node.children[0].type != "name" or node.children[1].type != "annassign"
        )
        if is_change and node.children[0].type == "name" and node.children[1] == "=":
            is_change = False  # anything that reads it would fail
        return ["pass"] if is_call or is_change else []


class Swapped(Replacement):
    """The negation."""

    CONTRARY = {"min": "max", "max": "min", "all": "any", "any": "all", "in": "not in"}  # noqa: RUF012

    def replacements(self, node: Any) -> list[str]:
        if node.type == "comp_op":
            return ["in"] if node.get_code().split() == ["not", "in"] else []
        if node.type == "keyword" and node.value == "in":
            return ["not in"] if node.parent.type == "comparison" else []
        if node.type == "name" and node.value in self.CONTRARY and node.parent.type == "atom_expr":
            return [self.CONTRARY[node.value]]
        return []


def operators() -> Iterator[Operator]:
    """One member of each."""
    theirs = OperatorProvider()
    for name in theirs:
        binary = name.partition("ReplaceBinaryOperator_")[2]
        if not UNUSED.search(name) and (not binary or binary in ARITHMETIC):
            yield theirs[name]()
    for ours in (Text, Left, Forced, Gone, Swapped):
        yield ours()


def is_annotation(node: Any) -> bool:
    """Whether the node belongs to a type, which nothing evaluates."""
    while (parent := node.parent) is not None:
        if parent.type == "tfpdef" or (parent.type == "annassign" and parent.children[1] is node):
            return True
        if parent.type == "funcdef" and parent.annotation is node:
            return True
        node = parent
    return False


def definition(node: Any) -> str:
    """The place of a node, by the names of its classes and functions."""
    names: list[str] = []
    while node is not None:
        if node.type in ("funcdef", "classdef"):
            names.insert(0, node.name.value)
        node = node.parent
    return ".".join(names)
