"""A borderless table that fits the terminal: chosen columns give way, the others never do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from saga_cli.units import plain

GAP: Final = 2
"""Blank cells between two columns."""
LEAST: Final = 6
"""A column that gives way keeps at least these cells (or its title's)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `gives` says that its cells may be shortened."""

    title: str
    right: bool = False
    gives: bool = False

    @classmethod
    def of(cls, text: str) -> Column:
        """`>TITLE` is aligned right, `*TITLE` gives way."""
        return cls(text.lstrip(">*"), right=text.startswith(">"), gives=text.startswith("*"))


class Grid:
    """Rows under titles. With no rows, the words `empty` stand there instead."""

    def __init__(self, *columns: str, rows: Iterable[Sequence[str | Text]], empty: str) -> None:
        self.columns = [Column.of(text) for text in columns]
        self.rows = [[c if isinstance(c, Text) else Text(plain(c)) for c in row] for row in rows]
        self.empty = empty

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way of asking for what to print."""
        yield self._table(options.max_width) if self.rows else Text(self.empty, style="dim")

    def _table(self, width: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for column, size in zip(self.columns, self.widths(width), strict=True):
            justify = "right" if column.right else "left"
            table.add_column(column.title, width=size, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*row)
        return table

    def widths(self, width: int) -> list[int]:
        """Cells per column: what each needs, less what the widest of those that give way must give."""
        sizes = [
            max(cell_len(c.title), *(cell_len(row[i].plain) for row in self.rows))
            for i, c in enumerate(self.columns)
        ]
        least = [max(LEAST, cell_len(c.title)) for c in self.columns]
        over = sum(sizes) + GAP * (len(sizes) - 1) - width
        for _ in range(max(0, over)):
            giving = [i for i, c in enumerate(self.columns) if c.gives and sizes[i] > least[i]]
            if not giving:
                break
            sizes[max(giving, key=lambda i: sizes[i])] -= 1
        return sizes
