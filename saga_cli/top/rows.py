"""A table of the live view: draws what is visible, and again only the lines that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from saga_cli.top.columns import Cell, Column, Moment, fitting, sizes
from saga_cli.units import plain

R = TypeVar("R")
Line = tuple[Cell, ...]
UP, DOWN = " ▲", " ▼"
PAGE_KEPT: Final = 1
"""Lines of a page that the next one shows again."""


class Rows(ScrollView, Generic[R], can_focus=True):
    """Rows under a line of titles, with a cursor that stays on its row when the order changes."""

    DEFAULT_CSS = """
    Rows { background: $background; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; overflow-x: hidden; scrollbar-gutter: stable; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--title", "rows--cursor", "rows--sorted"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "edge(0)", show=False),
        Binding("end,G", "edge(1)", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """A row was chosen."""

        def __init__(self, rows: Rows[R], key: str) -> None:
            super().__init__()
            self.rows, self.key = rows, key

    class Titled(Message):
        """The title of a column was clicked."""

        def __init__(self, rows: Rows[R], title: str) -> None:
            super().__init__()
            self.rows, self.title = rows, title

    def __init__(
        self,
        columns: Sequence[Column[R]],
        key: Callable[[R], str],
        empty: str,
        *,
        id: str,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self._all, self._key, self._empty = columns, key, empty
        self._rows: Sequence[R] = ()
        self._moment = Moment(0.0)
        self._columns: list[Column[R]] = []
        self._sizes: list[int] = []
        self._width = 0
        self._drawn: dict[int, Line] = {}
        """What each visible line showed last."""
        self.cursor = ""
        self._held = False
        """Whether a person put the cursor there: until then it stays at the top."""
        self.sort: tuple[str, bool] = ("", False)
        """Title of the sorted column, and whether the largest comes first."""

    # -- what is shown -------------------------------------------------------------------

    def put(self, rows: Sequence[R], moment: Moment, sort: tuple[str, bool] = ("", False)) -> None:
        """Show these rows; lines that stay the same are not drawn again."""
        grown, resorted = len(rows) != len(self._rows), sort != self.sort
        self._rows, self._moment, self.sort = rows, moment, sort
        if grown:
            self.virtual_size = Size(self.size.width, len(rows) + 1)
        if not self._held or self.cursor not in {self._key(row) for row in rows}:
            self.cursor, self._held = self._key(rows[0]) if rows else "", False
        self._fit(again=resorted)
        self._redraw()

    def _fit(self, *, again: bool = False) -> None:
        """Columns for the width of now."""
        width = self.scrollable_content_region.width
        columns = fitting(self._all, self.app.size.width)
        if again or columns != self._columns or width != self._width:
            self._columns, self._sizes, self._width = columns, sizes(columns, width), width
            self._drawn.clear()
            self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        """Other columns may fit now."""
        self.virtual_size = Size(event.size.width, len(self._rows) + 1)
        self._fit(again=True)

    def _redraw(self) -> None:
        for y in range(1, self.size.height):
            if self._drawn.get(y) != self._line(y):
                self.refresh(Region(0, y, self.size.width, 1))

    def _row(self, y: int) -> R | None:
        number = y - 1 + self.scroll_offset.y
        return self._rows[number] if y and 0 <= number < len(self._rows) else None

    def _line(self, y: int) -> Line:
        row = self._row(y)
        if row is None:
            return (self._empty,) if y == 1 and not self._rows else ()
        marked = "cursor" if self._key(row) == self.cursor and self.has_focus else ""
        return (marked, *(column.cell(row, self._moment) for column in self._columns))

    def render_line(self, y: int) -> Strip:
        """Textual's way of asking for line `y` of what is visible."""
        base = self.rich_style
        if y == 0:
            return self._titles()
        line = self._drawn[y] = self._line(y)
        if len(line) < 2:
            text = Text(f" {line[0]}" if line else "", style="dim")
            return self._strip(text, base)
        marked, *cells = line
        style = self.get_component_rich_style("rows--cursor") if marked else base
        return self._strip(self._joined(cells), style)

    def _titles(self) -> Strip:
        title, down = self.sort
        cells = [
            Text(column.title[: size - 2] + (DOWN if down else UP)) if column.title == title else column.title
            for column, size in zip(self._columns, self._sizes, strict=True)
        ]
        return self._strip(self._joined(cells), self.get_component_rich_style("rows--title"))

    def _joined(self, cells: Sequence[Cell]) -> Text:
        whole = Text()
        for number, (cell, column, size) in enumerate(zip(cells, self._columns, self._sizes, strict=True)):
            text = cell.copy() if isinstance(cell, Text) else Text(plain(cell))
            text.truncate(size, overflow="ellipsis", pad=not column.right)
            if column.right:
                text.pad_left(size - text.cell_len)
            whole.append_text(text)
            if number + 1 < len(self._columns):
                whole.append(" ")
        return whole

    def _strip(self, text: Text, style: Style) -> Strip:
        segments = Segment.apply_style(text.render(self.app.console), style)
        return Strip(list(segments)).adjust_cell_length(self._width, style)

    # -- the cursor ----------------------------------------------------------------------

    @property
    def place(self) -> int:
        """Number of the row under the cursor."""
        return next((n for n, row in enumerate(self._rows) if self._key(row) == self.cursor), 0)

    def action_move(self, by: int) -> None:
        self._go(self.place + by)

    def action_page(self, by: int) -> None:
        self._go(self.place + by * max(1, self.size.height - 1 - PAGE_KEPT))

    def action_edge(self, last: int) -> None:
        self._go(len(self._rows) - 1 if last else 0)

    def _go(self, number: int) -> None:
        if not self._rows:
            return
        number = min(max(number, 0), len(self._rows) - 1)
        self.cursor, self._held = self._key(self._rows[number]), number > 0
        page = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if number < top or number >= top + page:
            top = number if number < top else number - page + 1
            self._drawn.clear()
            self.scroll_to(y=top, animate=False)
        self._redraw()

    def action_open(self) -> None:
        if self.cursor:
            self.post_message(self.Opened(self, self.cursor))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._drawn.clear()

    def on_focus(self) -> None:
        self._redraw()

    def on_blur(self) -> None:
        self._redraw()

    def on_click(self, event: events.Click) -> None:
        """The first click on a row puts the cursor there, a second one opens it; a title sorts."""
        if event.y == 0:
            self._click_title(event.x)
            return
        row = self._row(event.y)
        if row is None:
            return
        again = self.cursor == self._key(row) and self.has_focus and event.chain > 1
        self.cursor, self._held = self._key(row), True
        self._redraw()
        if again:
            self.action_open()

    def _click_title(self, x: int) -> None:
        end = 0
        for column, size in zip(self._columns, self._sizes, strict=True):
            end += size + 1
            if x < end:
                self.post_message(self.Titled(self, column.title))
                return
