"""One workflow in full: its timeline, its steps, and why it is where it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from saga_cli.explaining import explanation_view
from saga_cli.top.timeline import lanes_text, steps_table, timeline
from saga_cli.units import plain
from saga_core.errors import SagaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saga_cli.top.sources import Source
    from saga_core.explanation import Explanation
    from saga_core.views import EventView

ASK_EVERY_S = 1.0
MARGIN = 4
"""Cells at both sides and of the scrollbar."""


class Detail(Screen[None]):
    """Asks once a second while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,backspace", "app.pop_screen", "back"),
        Binding("t", "steps", "steps/decisions"),
        Binding("space,p", "pause", "pause"),
        Binding("question_mark", "app.help", "help"),
    ]
    DEFAULT_CSS = """
    Detail #title { height: 1; padding: 0 1; background: $panel; }
    Detail #body { padding: 0 1; scrollbar-size-vertical: 1; }
    """

    def __init__(self, source: Source, workflow: int) -> None:
        super().__init__()
        self._source, self._workflow = source, workflow
        self._told: Explanation | None = None
        self._events: Sequence[EventView] = ()
        self._steps = False
        self._paused = False
        self._now = 0.0

    def compose(self) -> ComposeResult:
        """A title, what is known, the keys."""
        yield Static(Text(f"workflow {self._workflow}", style="bold"), id="title")
        with VerticalScroll(id="body"):
            yield Static("asking the head …", id="told")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#body").focus()
        self.set_interval(ASK_EVERY_S, self._ask)
        self._ask()

    def on_resize(self) -> None:
        self._draw()

    def action_steps(self) -> None:
        """The list of steps instead of the decisions, or back."""
        self._steps = not self._steps
        self._draw()

    def action_pause(self) -> None:
        self._paused = not self._paused

    @work(exclusive=True)
    async def _ask(self) -> None:
        if self._paused:
            return
        try:
            self._told, self._events = await asyncio.to_thread(self._both)
        except SagaError as error:
            self.query_one("#title", Static).update(Text(plain(str(error)), style="bold red"))
            return
        self._draw()

    def _both(self) -> tuple[Explanation, Sequence[EventView]]:
        self._now = self._source.now()
        return self._source.explanation(self._workflow), self._source.events(self._workflow)

    def _draw(self) -> None:
        if self._told is None:
            return
        found = self._told.workflow
        name = f" {found.name}  {found.tenant}  {found.agent_type}" if found is not None else ""
        title = Text(plain(f"workflow {self._workflow}{name}"), style="bold")
        self.query_one("#title", Static).update(title)
        self.query_one("#told", Static).update(self._picture(self._told))

    def _picture(self, told: Explanation) -> RenderableType:
        line = timeline(self._events, self._now)
        lanes = lanes_text(line, self.size.width - MARGIN)
        below = steps_table(line) if self._steps else explanation_view(told, self._now)
        return Group(Text(), lanes, Text("\n"), below)
