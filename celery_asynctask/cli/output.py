"""What commands print: tables, fields and trees; with Rich on a terminal, plain text anywhere else, or JSON.

Rich is an extra (``celery-asynctask[cli]``); a terminal without it gets the plain text, too.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from textwrap import wrap as wrap_text
from typing import Any, Final, NamedTuple

from celery_asynctask.core.status import AsyncTaskStatus
from celery_asynctask.core.text import clean, json_line, one_line, placed, span, width
from celery_asynctask.present.symbols import SIGNS
from celery_asynctask.present.zone import LOCAL
from celery_asynctask.queries.search.filter import Filter
from celery_asynctask.queries.search.hint import hint

__all__ = ["INDENT", "Id", "Node", "Output", "clean", "span"]

_STYLES: Final = {
    AsyncTaskStatus.STARTED: "cyan",
    AsyncTaskStatus.RETRY: "yellow",
    AsyncTaskStatus.SUCCESS: "green",
    AsyncTaskStatus.FAILURE: "red",
    AsyncTaskStatus.REVOKED: "yellow",
    AsyncTaskStatus.REJECTED: "yellow",
    AsyncTaskStatus.LOST: "magenta",
}
INDENT: Final = "  "
MAX_INDENT: Final = 10
"""Levels of a tree that are indented."""


class Node(NamedTuple):
    """A node of a tree: the cells of its line, and the nodes below it."""

    cells: Sequence[Any]
    children: Sequence[Node] = ()


class Id(str):
    """A task id in a table. Where the terminal is too narrow, a UUID is cut to its beginning, which all commands take;
    other ids stay whole."""

    __slots__ = ()

    @property
    def brief(self) -> str:
        return self[:_BRIEF] if _UUID.fullmatch(self) else str(self)


_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BRIEF: Final = 8
FIXED: Final = "\N{NO-BREAK SPACE}"
"""A space at which no line is broken; it is printed as any other."""
_LEAST: Final = 20
"""Columns that a text in a table keeps before whole columns are left out."""


class Output:
    """How a command prints, and where.

    A cell of a table or field is a text, an `Id`, a number, None (nothing), a time, a timedelta or a status. Each has
    its own form, without control characters.
    """

    def __init__(self, *, as_json: bool = False, utc: bool = False, color: bool = True) -> None:
        self.as_json = as_json
        self.utc = utc
        self.color = color and not os.environ.get("NO_COLOR")

    @cached_property
    def rich(self) -> Any:
        """A Rich console where there is a terminal and Rich, else None."""
        if self.as_json or not sys.stdout.isatty() or find_spec("rich") is None:
            return None
        from rich.console import Console

        return Console(color_system="auto" if self.color else None, highlight=False, emoji=False, markup=False)

    @property
    def width(self) -> int:
        """Columns of the terminal; 100 where there is no terminal or no Rich."""
        return int(self.rich.width) if self.rich is not None else 100

    # -- values

    def show(self, value: Any) -> str:
        """A cell as plain text."""
        if value is None:
            return ""
        if isinstance(value, AsyncTaskStatus):
            return value.value
        if isinstance(value, dt.datetime):
            return self.moment(value)
        if isinstance(value, dt.timedelta):
            return span(value.total_seconds())
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        return one_line(str(value))

    def moment(self, at: dt.datetime) -> str:
        """A time to the millisecond, in the local zone or in UTC."""
        local = self._local(at)
        return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}"

    def _local(self, at: dt.datetime) -> dt.datetime:
        """The time in the zone; in UTC where the zone does not know it, as in the year 1, which a row may have."""
        try:
            return at.astimezone(self.zone)
        except (OverflowError, ValueError):
            return at.astimezone(dt.timezone.utc)

    @property
    def zone(self) -> dt.tzinfo:
        """The zone of printed times."""
        return dt.timezone.utc if self.utc else LOCAL

    @property
    def now(self) -> dt.datetime:
        """The present in UTC: the local zone is that of the app, which may not be loaded yet."""
        return dt.datetime.now(dt.timezone.utc)

    # -- printing

    def line(self, text: str = "", style: str = "") -> None:
        """Lines of text. The terminal breaks long ones, so that they can be copied whole."""
        if self.rich is None:
            print(clean(text))  # noqa: T201 - commands print
            return
        from rich.text import Text

        self.rich.print(Text(clean(text), style=style), soft_wrap=True)

    def hint(self, text: str) -> None:
        """A line for a person, on standard error: it is no part of the result."""
        sys.stdout.flush()
        print(clean(text), file=sys.stderr)  # noqa: T201

    def json(self, value: Any) -> None:
        """A value as a line of JSON (NDJSON)."""
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        print(json_line(value, ascii_only=encoding != "utf8"))  # noqa: T201

    def tell(self, value: Mapping[str, Any], text: str) -> None:
        """The value with ``--json``, else the text."""
        if self.as_json:
            self.json(value)
        else:
            self.line(text)

    def nothing(self, text: str, search: Filter) -> None:
        """Say that a search finds nothing, and what it was probably meant to be."""
        self.hint(text)
        if meant := hint(search):
            self.hint(meant)

    def bounded(self, limit: int, what: str, back_to: dt.datetime | None) -> None:
        """Say that only the newest ``limit`` were read, back to a time; None: all were."""
        if back_to is not None:
            self.hint(
                f"Only the newest {limit:,} {what} are counted, back to {self.moment(back_to)}. Narrow the search with "
                "a key such as name, customer, since or until."
            )

    @contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A bar on standard error if it is a terminal; yields what advances it by a count."""
        if self.as_json or not sys.stderr.isatty() or find_spec("rich") is None:
            yield lambda _count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True, no_color=not self.color)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)

    def title(self, text: str) -> None:
        """A heading above a part of the output."""
        self.line(f"\n{text}", "bold")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, spare: Sequence[str] = ()) -> None:
        """A table; a column whose name ends in ``>`` is right-aligned.

        On a terminal, each row is one line, and columns without a value are left out. A narrow one gets brief ids and
        times; then the columns in ``spare`` are left out, the first of them first; then texts are shortened. In a pipe,
        everything is there, whatever the width.
        """
        cells = [list(row) for row in rows]
        if self.rich is not None:
            self._fitted_table(columns, cells, spare)
            return
        right = [column.endswith(">") for column in columns]
        lines = [[column.rstrip(">") for column in columns], *([self.show(cell) for cell in row] for row in cells)]
        widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            shown = map(lambda cell, size, to_right: placed(cell, size, right=to_right), line, widths, right)
            self.line(INDENT.join(shown).rstrip())

    def _fitted_table(self, names: Sequence[str], rows: Sequence[Sequence[Any]], spare: Sequence[str]) -> None:
        """Print a table that is no wider than the terminal, each row in one line."""
        from rich.text import Text

        columns = self._columns(names, rows)
        if _needed(columns) > self.width:
            columns = self._columns(names, rows, brief=True)
        for name in spare:
            if _needed(columns, _LEAST) <= self.width:
                break
            columns = [column for column in columns if column.title != name]
        columns = _narrowed(columns, self.width)
        gap = Text(INDENT)
        lines = [gap.join(Text(column.placed(column.title), "bold") for column in columns)]
        lines.append(Text("─" * sum(column.width for column in columns) + "─" * len(INDENT) * (len(columns) - 1)))
        for number in range(len(rows)):
            cells = (Text(column.placed(column.cells[number]), column.styles[number]) for column in columns)
            lines.append(gap.join(cells))
        for line in lines:
            line.rstrip()
            self.rich.print(line, overflow="ellipsis", no_wrap=True)

    def _columns(self, names: Sequence[str], rows: Sequence[Sequence[Any]], *, brief: bool = False) -> list[_Column]:
        """The columns that have a value."""
        columns = []
        for number, name in enumerate(names):
            values = [row[number] for row in rows]
            if any(value not in (None, "") for value in values):
                cells = [self._brief(value) if brief else self._signed(value) for value in values]
                styles = [_style(value) for value in values]
                title = name.rstrip(">")
                widest = max(width(title), *map(width, cells))
                elastic = any(map(is_text, values))
                columns.append(_Column(title, name.endswith(">"), cells, styles, elastic, widest))
        return columns

    def fields(self, pairs: Iterable[tuple[str, Any]], *, wrap: bool = False) -> None:
        """Names and values, one pair a line, other lines of a text below its first; pairs whose value is None are left
        out. With ``wrap``, a terminal gets no line that is wider; texts break at spaces, but not at `FIXED`."""
        shown = [(name, value) for name, value in pairs if value is not None]
        size = max((len(name) for name, _ in shown), default=0)
        room = max(self.width - size - len(INDENT), _LEAST) if wrap and self.rich is not None else None
        for name, value in shown:
            lines = clean(value).split("\n") if is_text(value) else [value]
            first, *others = _wrapped(lines, room) if wrap and is_text(value) else lines
            self._field(placed(name, size), first)
            for line in others:
                self._field(" " * size, line)

    def _field(self, name: str, value: Any) -> None:
        if self.rich is not None:
            from rich.text import Text

            self.rich.print(Text.assemble((name, "dim"), INDENT, self._rich_cell(value)), soft_wrap=True)
        else:
            self.line(f"{name}{INDENT}{self.show(value)}".rstrip())

    def tree(self, node: Node) -> None:
        """A tree, a node per line. However deep it is, it stays narrow: below `MAX_INDENT` levels, a line has its depth
        as a number instead of more indentation."""
        waiting = [(node, "", "", 0)]
        while waiting:
            node, prefix, branch, depth = waiting.pop()
            self._branch(branch, node.cells)
            indented = depth < MAX_INDENT
            label = "── " if indented else f"─({depth + 1})─ "
            for number, child in enumerate(reversed(node.children)):
                last = not number
                below = prefix + ("    " if last else "│   ") if indented else prefix
                waiting.append((child, below, prefix + ("└" if last else "├") + label, depth + 1))

    def _branch(self, branch: str, cells: Iterable[Any]) -> None:
        shown = [cell for cell in cells if cell is not None]
        if self.rich is not None:
            from rich.text import Text

            line = Text.assemble((branch, "dim"), Text(INDENT).join(map(self._rich_cell, shown)))
            self.rich.print(line, overflow="ellipsis", no_wrap=True)
        else:
            self.line(branch + INDENT.join(map(self._signed, shown)))

    def _signed(self, value: Any) -> str:
        sign = f"{SIGNS[value]} " if isinstance(value, AsyncTaskStatus) else ""
        return sign + self.show(value)

    def _brief(self, value: Any) -> str:
        if isinstance(value, Id):
            return one_line(value.brief)
        if isinstance(value, dt.datetime):
            return f"{self._local(value):%m-%d %H:%M:%S}"
        return self._signed(value)

    def _rich_cell(self, value: Any) -> Any:
        from rich.text import Text

        return Text(self._signed(value), _style(value))


def _wrapped(lines: Sequence[str], room: int | None) -> list[str]:
    """Lines broken at spaces so that they fit; None: as they are."""
    if room is not None:
        lines = [part for line in lines for part in wrap_text(line, room, break_on_hyphens=False) or [""]]
    return [line.replace(FIXED, " ") for line in lines]


class _Column(NamedTuple):
    """A column of a table as texts."""

    title: str
    to_right: bool
    cells: Sequence[str]
    styles: Sequence[str]
    elastic: bool
    """Whether its cells may be shortened."""
    width: int

    def placed(self, cell: str) -> str:
        """A cell as wide as the column."""
        return placed(cell, self.width, right=self.to_right)

    def shortened(self, columns: int) -> _Column:
        """With no cell wider than this; the title stays."""
        room = max(columns, width(self.title))
        return self._replace(cells=[shortened(cell, room) for cell in self.cells], width=min(self.width, room))


def _needed(columns: Sequence[_Column], least: int | None = None) -> int:
    """Columns of the terminal that a table takes; with ``least``, after texts are shortened to this."""
    widths = (
        min(column.width, max(least, width(column.title))) if least is not None and column.elastic else column.width
        for column in columns
    )
    return sum(widths) + len(INDENT) * (len(columns) - 1)


def _narrowed(columns: Sequence[_Column], room: int) -> list[_Column]:
    """With the widest texts shortened until the table fits; as far as it takes, to the width of their titles."""
    elastic = max((column.width for column in columns if column.elastic), default=0)
    most = next((most for most in range(elastic, 0, -1) if _needed(columns, most) <= room), 1)
    return [column.shortened(most) if column.elastic else column for column in columns]


def shortened(text: str, columns: int) -> str:
    """A clean text in at most so many columns. A name loses its middle, because its end distinguishes it; a sentence
    loses its end."""
    if width(text) <= columns:
        return text
    tail = 0 if " " in text else (columns - 1) // 2
    end = text[len(text) - tail :]
    while width(end) > tail:
        end = end[1:]
    begin = text[:columns]
    while width(begin) > columns - 1 - width(end):
        begin = begin[:-1]
    return f"{begin.rstrip()}…{end}"


def _style(value: Any) -> str:
    return _STYLES.get(value, "") if isinstance(value, AsyncTaskStatus) else ""


def is_text(value: Any) -> bool:
    """Whether a cell may be shortened."""
    return isinstance(value, str) and not isinstance(value, (Id, AsyncTaskStatus))
