"""`saga top`: the live view. It asks a source once per interval and draws what changed.

Rules of this file
  1. What is shown is a function of the latest snapshot and of what the person chose; nothing is kept beside them.
  2. Asking happens off the event loop; a head that does not answer leaves the last view with a notice.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Footer, Input, Static

from saga_cli.top.choice import Choice, Recent, wrong
from saga_cli.top.columns import RESOURCES, TENANTS, WIDE, WORKFLOWS, Moment, fitting
from saga_cli.top.detail import Detail
from saga_cli.top.frame import cut, headline, shares
from saga_cli.top.manual import Manual
from saga_cli.top.resources import Resource, resources
from saga_cli.top.rows import Rows
from saga_cli.top.sources import Moved, Source
from saga_cli.units import plural
from saga_core.errors import SagaError
from saga_core.views import ClusterView, TenantView, WorkflowView

FIXED_LINES = 7
"""Three of the cluster, three titles, the keys."""
OURS = frozenset({"open", "sort", "turn", "usual", "filter", "ended", "pause", "all"})
MACHINES, TENANTRY, LIFE = "machines", "tenants", "workflows"


class Top(App[None]):
    """The whole cluster on one screen."""

    TITLE = "saga top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: $background; }
    #head { height: 3; padding: 0; }
    #tables { height: 1fr; }
    #workflows { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    .rows--title { background: $panel; color: $text; text-style: bold; }
    .rows--cursor { background: $primary 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("less_than_sign,comma", "sort(-1)", "sort", key_display="< >"),
        Binding("greater_than_sign,full_stop", "sort(1)", show=False),
        Binding("r", "turn", "reverse"),
        Binding("equals_sign", "usual", show=False),
        Binding("slash", "filter", "filter"),
        Binding("e", "ended", "ended"),
        Binding("space,p", "pause", "pause"),
        Binding("question_mark", "help", "help"),
        Binding("escape", "all", show=False),
        Binding("plus", "faster(1)", show=False),
        Binding("minus", "faster(-1)", show=False),
        Binding("right", "skip(1)", show=False),
        Binding("left", "skip(-1)", show=False),
        Binding("q,ctrl+c", "quit", "quit"),
    ]

    def __init__(
        self, source: Source, first: ClusterView, *, interval_s: float = 1.0, choice: Choice | None = None
    ) -> None:
        super().__init__()
        self._source, self._cluster, self._interval_s = source, first, interval_s
        self._recent = Recent()
        self._recent.add(first)
        self.choice = choice or Choice()
        self.paused = False
        self._started_by = os.getppid()
        self._notice = ""

    def compose(self) -> ComposeResult:
        """The cluster's lines, three tables, the filter, the keys."""
        yield Static(id="head")
        with Vertical(id="tables"):
            yield Rows[Resource](RESOURCES, lambda r: r.id, "no node has joined yet", id=MACHINES)
            yield Rows[TenantView](TENANTS, lambda t: t.id, "nobody has submitted anything yet", id=TENANTRY)
            yield Rows[WorkflowView](WORKFLOWS, lambda w: str(w.id), "no workflow", id=LIFE)
        words = Input(placeholder="words, or state:held tenant:a home:gpu01 agent:x", id="filter")
        words.cursor_blink = False  # a screen without news draws nothing
        yield words
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(f"#{LIFE}").focus()
        self.call_after_refresh(self.draw)
        self.set_interval(self._interval_s, self.poll)

    def on_resize(self, event: events.Resize) -> None:
        del event
        self.call_after_refresh(self.draw)

    # -- asking --------------------------------------------------------------------------

    @work(exclusive=True)
    async def poll(self) -> None:
        """A fresh snapshot, or the last one with what is wrong."""
        if self.is_web and os.getppid() != self._started_by:
            self.exit()  # its server is gone: there is no terminal that would say so
        if self.paused:
            return
        try:
            self._show(await asyncio.to_thread(self._source.cluster))
        except SagaError as error:
            self._notice = f"no answer, the last view stands: {error}"
            self.draw()

    def _show(self, cluster: ClusterView) -> None:
        self._cluster, self._notice = cluster, ""
        self._recent.add(cluster)
        if len(self.screen_stack) == 1:
            self.draw()

    # -- drawing -------------------------------------------------------------------------

    def draw(self) -> None:
        """Show the latest snapshot as it was chosen."""
        width, height = self.size
        moment = Moment(self._cluster.at or self._source.now(), width >= WIDE, self._recent.shares())
        machines = resources(self._cluster)
        rows = shares(height - FIXED_LINES, len(machines), len(self._cluster.tenants))
        self._table(MACHINES).styles.height = rows[0] + 1
        self._table(TENANTRY).styles.height = rows[1] + 1
        self._table(MACHINES).put(machines, moment)
        self._table(TENANTRY).put(self._cluster.tenants, moment)
        found = self.choice.of(self._cluster.workflows, moment)
        self._table(LIFE).put(found, moment, (self.choice.sort, self._falls()))
        self.query_one("#head", Static).update(self._head(width, len(found)))

    def _table(self, name: str) -> Rows:  # type: ignore[type-arg]
        return self.query_one(f"#{name}", Rows)

    def _falls(self) -> bool:
        column = next((c for c in WORKFLOWS if c.title == self.choice.sort), None)
        return column is not None and column.falls != self.choice.backwards

    def _head(self, width: int, found: int) -> Text:
        lines = [cut(line, width) for line in headline(self._cluster, self._recent, self._notice)]
        said = self._said(found)
        if said and not self._notice:
            lines[0] = cut(lines[0], max(0, width - len(said) - 1))
            lines[0].append(" " * (width - lines[0].cell_len - len(said)))
            lines[0].append(said, "bold yellow")
        return Text("\n").join(lines)

    def _said(self, found: int) -> str:
        """What differs from the usual view, and the source's own words."""
        words = [self._source.words()] if self._source.words() else []
        words += ["PAUSED"] if self.paused else []
        words += ["live only"] if not self.choice.ended else []
        total = len(self._cluster.workflows)
        words += [f"{self.choice.words}: {found} of {plural(total, 'workflow')}"] if self.choice.words else []
        return " · ".join(words)

    # -- keys ----------------------------------------------------------------------------

    def _choose(self, choice: Choice) -> None:
        self.choice = choice
        self.draw()

    def action_sort(self, by: int) -> None:
        """By the next column that is there; before the first and after the last is the usual order."""
        titles = ["", *(column.title for column in fitting(WORKFLOWS, self.size.width))]
        place = titles.index(self.choice.sort) if self.choice.sort in titles else 0
        self._choose(replace(self.choice, sort=titles[(place + by) % len(titles)], backwards=False))

    def action_turn(self) -> None:
        self._choose(replace(self.choice, backwards=not self.choice.backwards))

    def action_usual(self) -> None:
        self._choose(replace(self.choice, sort="", backwards=False))

    def action_ended(self) -> None:
        self._choose(replace(self.choice, ended=not self.choice.ended))

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.draw()

    def action_help(self) -> None:
        self.push_screen(Manual(replay=isinstance(self._source, Moved)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What concerns the tables is no key of another screen; time moves in a replay only."""
        del parameters
        if action in {"faster", "skip"}:
            return isinstance(self._source, Moved)
        return not (action in OURS and len(self.screen_stack) > 1)

    def action_faster(self, by: int) -> None:
        assert isinstance(self._source, Moved)
        self._source.faster(by)
        self.draw()

    def action_skip(self, by: int) -> None:
        assert isinstance(self._source, Moved)
        self._source.skip(by)
        self._show(self._source.cluster())

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = True
        box.value = self.choice.words
        box.focus()

    def action_all(self) -> None:
        """Close the filter, and show all."""
        self._close_filter()
        self._choose(replace(self.choice, words=""))

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self.query_one(f"#{LIFE}").focus()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        problem = wrong(event.value)
        self._notice = problem
        if not problem:
            self._choose(replace(self.choice, words=event.value.strip()))
        else:
            self.draw()

    @on(Input.Submitted, "#filter")
    def _entered(self) -> None:
        self._notice = ""
        self._close_filter()
        self.draw()

    def action_open(self) -> None:
        """Enter where no table has the focus."""
        self._table(LIFE).action_open()

    @on(Rows.Titled)
    def _titled(self, event: Rows.Titled) -> None:
        if event.rows.id != LIFE:
            return
        same = self.choice.sort == event.title
        self._choose(replace(self.choice, sort=event.title, backwards=same and not self.choice.backwards))

    @on(Rows.Opened)
    def _opened(self, event: Rows.Opened) -> None:
        if event.rows.id == LIFE:
            self.push_screen(Detail(self._source, int(event.key)), callback=lambda _: self.draw())
            return
        field = "home" if event.rows.id == MACHINES else "tenant"
        self._choose(replace(self.choice, words=f"{field}:{event.key}"))
        self._table(LIFE).focus()


def run(source: Source, *, interval_s: float, choice: Choice) -> None:
    """Show it until the person leaves. Raises ClusterError where there is nothing to begin with."""
    Top(source, source.cluster(), interval_s=interval_s, choice=choice).run()
