"""The page behind `?`."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from saga_cli.top.choice import FIELDS

KEYS: Final = (
    ("↑ ↓ PgUp PgDn Home End", "move the cursor; Tab goes to the next table"),
    ("Enter", "a workflow: its timeline and decisions; a tenant or worker: only its workflows"),
    ("< >", "sort by the column before or after; r turns the order round, = the usual order"),
    (
        "/",
        f"filter: words, or {' '.join(f'{name}:' for name in FIELDS)} (state:held tenant:a); Esc shows all",
    ),
    ("e", "the ended workflows too, or not"),
    ("Space", "pause the display, go on"),
    ("q", "leave"),
)
REPLAY: Final = (("+ -", "faster, slower"), ("← →", "back or on by a twentieth of the whole"))
WORDS: Final = (
    ("LOAD", "the larger of pinned KV and used sequence slots"),
    ("KV", "█ pinned by running steps, ▓ retained while tools run, ▒ evictable (paused), · free"),
    ("HIT", "share of prompt tokens that were in KV already"),
    ("RUN/WAIT/HELD", "steps in the engine, waiting in it, sessions paused at the gate with a step"),
    ("LEFT", "until the node's wall time ends"),
    ("STATE", "queued, reasoning, tool; held at the gate (since when), paused between two steps"),
    ("WORKFLOW", "↑5 ↓2 before a name: its priority, where that is not 0"),
    ("SLACK, ETA", "until the deadline; until its expected work is done at the pace so far"),
    ("SHARE", "of the engines' useful work in the last minute"),
    ("SLOWDOWN", "mean over ended workflows of life / life without waiting"),
    ("SLO", "ended workflows with a deadline that kept it"),
)


class Manual(ModalScreen[None]):
    """Keys and words; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,space", "dismiss", "back"),
    ]
    DEFAULT_CSS = """
    Manual { align: center middle; }
    Manual #page {
        width: 92%; max-width: 100; height: auto; max-height: 92%;
        padding: 0 1; border: round $primary; background: $surface; scrollbar-size-vertical: 1;
    }
    """

    def __init__(self, *, replay: bool = False) -> None:
        super().__init__()
        self._replay = replay

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            yield Static(_page([*KEYS, *(REPLAY if self._replay else ())]))
            yield Static(Text())
            yield Static(_page(WORDS))

    def on_mount(self) -> None:
        page = self.query_one("#page")
        page.border_title = "saga top: keys and words"
        page.focus()


def _page(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows:
        table.add_row(name, words)
    return table
