"""The live view: screenshots at two sizes, and what each key does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from canned import EMPTY, NOW
from textual.filter import Monochrome
from textual.pilot import Pilot
from textual.widgets import Input
from top_rig import Source, busy, compare, flow

from saga_cli.top.app import LIFE, MACHINES, TENANTRY, Top
from saga_cli.top.choice import Choice
from saga_cli.top.detail import Detail
from saga_cli.top.manual import Manual

NARROW, WIDE = (80, 24), (150, 40)
NEVER_S = 3600.0
"""An interval in which no test asks again by itself."""


def top(*snapshots, interval_s: float = NEVER_S, **more) -> Top:
    source = Source(*snapshots)
    return Top(source, source.cluster(), interval_s=interval_s, **more)


@asynccontextmanager
async def opened(app: Top, size: tuple[int, int] = NARROW) -> AsyncIterator[tuple[Top, Pilot]]:
    """The view once it shows its first snapshot."""
    async with app.run_test(size=size) as pilot:
        await until(lambda: app._table(LIFE)._moment.now > 0.0, pilot, "nothing is shown")
        await pilot.pause()
        yield app, pilot


async def until(fact: Callable[[], bool], pilot, what: str) -> None:
    deadline = time.monotonic() + 20.0
    while not fact():
        assert time.monotonic() < deadline, what
        await pilot.pause(0.02)


def shown(app: Top) -> list[int]:
    return [w.id for w in app._table(LIFE)._rows]


WALK = {
    "busy": (),
    "sorted": ("greater_than_sign",) * 7,
    "filtered": ("equals_sign", "slash", *"state:held"),
    "workers": ("escape", "tab", "tab", "down", "down"),
    "help": ("question_mark",),
    "detail": ("escape", "tab", "down", "enter"),
    "steps": ("t",),
    "paused": ("escape", "space", "e"),
}
"""Screens and the keys from one to the next."""


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_screens(size):
    async with opened(top(busy()), size) as (app, pilot):
        for name, keys in WALK.items():
            await pilot.press(*keys)
            if name == "detail":
                await until(lambda: app.screen._told is not None, pilot, "no answer")
            await pilot.pause()
            compare(f"{name}-{size[0]}x{size[1]}", app.export_screenshot(simplify=True))


async def test_an_empty_cluster_has_words():
    app = top(EMPTY)
    async with opened(app) as (_, pilot):
        await pilot.pause()
        compare("empty-80x24", app.export_screenshot(simplify=True))


async def test_colours_go_where_nobody_wants_them(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(top(busy())) as (app, _):
        assert app.no_color
        assert any(isinstance(f, Monochrome) for f in app._filters), "what goes to the terminal is grey"


async def test_a_new_snapshot_is_shown_and_the_cursor_stays_on_its_workflow():
    first = busy(20)
    gone = msgspec.structs.replace(first, workflows=[w for w in first.workflows if w.id != 1], at=NOW + 1)
    app = top(first, gone)
    async with opened(app) as (_, pilot):
        await pilot.press("down", "down")
        table = app._table(LIFE)
        held = table.cursor
        assert held != "1"
        app.poll()
        await until(lambda: 1 not in shown(app), pilot, "the new snapshot is not shown")
        assert table.cursor == held
        assert table.place == 1


async def test_the_cursor_that_nobody_moved_stays_at_the_top():
    first = busy(20)
    app = top(first, msgspec.structs.replace(first, workflows=first.workflows[3:], at=NOW + 1))
    async with opened(app) as (_, pilot):
        await pilot.pause()
        assert app._table(LIFE).cursor == "1"
        app.poll()
        await until(lambda: 1 not in shown(app), pilot, "not shown")
        assert app._table(LIFE).place == 0


async def test_only_lines_that_changed_are_drawn_again(monkeypatch):
    first = busy(20)
    changed = [msgspec.structs.replace(w, steps=99) if w.id == 3 else w for w in first.workflows]
    app = top(first, msgspec.structs.replace(first, workflows=changed))
    async with opened(app) as (_, pilot):
        await pilot.pause()
        await pilot.pause()
        table = app._table(LIFE)
        drawn: list[int] = []
        draw = table.render_line
        monkeypatch.setattr(table, "render_line", lambda y: drawn.append(y) or draw(y))
        app.poll()
        await until(lambda: bool(drawn), pilot, "nothing was drawn")
        await pilot.pause()
        assert drawn == [shown(app).index(3) + 1]


async def test_sorting_goes_through_the_columns_and_back_to_the_usual_order():
    app = top(busy(20))
    async with opened(app) as (_, pilot):
        usual = shown(app)
        await pilot.press("greater_than_sign", "greater_than_sign", "greater_than_sign", "greater_than_sign")
        assert app.choice.sort == "STEPS"
        steps = [w.steps for w in app._table(LIFE)._rows]
        assert steps == sorted(steps, reverse=True), "the most steps first"
        await pilot.press("r")
        assert [w.steps for w in app._table(LIFE)._rows] == steps[::-1]
        await pilot.press("less_than_sign")
        assert app.choice == Choice(sort="STATE")
        await pilot.press("equals_sign")
        assert shown(app) == usual


async def test_a_click_on_a_title_sorts_by_it_and_a_second_one_turns_the_order():
    app = top(busy(20))
    async with opened(app) as (_, pilot):
        await pilot.pause()
        await pilot.click(f"#{LIFE}", offset=(8, 0))
        assert app.choice == Choice(sort="WORKFLOW")
        await pilot.click(f"#{LIFE}", offset=(8, 0))
        assert app.choice == Choice(sort="WORKFLOW", backwards=True)


async def test_a_filter_is_followed_while_it_is_typed_and_escape_shows_all():
    app = top(busy(20))
    async with opened(app) as (_, pilot):
        everything = shown(app)
        await pilot.press("slash", *"tenant:lab-b")
        assert shown(app) == [n for n in everything if n % 2]
        await pilot.press("enter")
        assert not app.query_one(Input).display
        assert app.focused is app._table(LIFE)
        assert len(shown(app)) == 10
        await pilot.press("escape")
        assert shown(app) == everything


async def test_a_filter_that_cannot_be_says_what_is_valid():
    app = top(busy(20))
    async with opened(app, WIDE) as (_, pilot):
        await pilot.press("slash", *"colour:red")
        assert "unknown field 'colour'" in app._notice
        assert "tenant" in app._notice
        await pilot.press(*["backspace"] * 10)
        assert not app._notice
        assert len(shown(app)) == 20


async def test_the_display_pauses_and_goes_on():
    first = busy(5)
    app = top(first, busy(6))
    async with opened(app) as (_, pilot):
        await pilot.press("space")
        app.poll()
        await pilot.pause(0.1)
        assert app._source.asked == 1, "nobody is asked while it is paused"
        await pilot.press("space")
        app.poll()
        await until(lambda: len(shown(app)) == 6, pilot, "it does not go on")


async def test_a_head_that_does_not_answer_leaves_the_last_view_with_a_notice():
    app = top(busy(5), None, busy(6))
    async with opened(app) as (_, pilot):
        app.poll()
        await until(lambda: "the last view stands" in app._notice, pilot, "no notice")
        assert len(shown(app)) == 5
        app.poll()
        await until(lambda: not app._notice, pilot, "the notice stays")
        assert len(shown(app)) == 6


async def test_enter_on_a_tenant_or_worker_shows_its_workflows():
    app = top(busy(20))
    async with opened(app) as (_, pilot):
        app._table(TENANTRY).focus()
        await pilot.press("down", "enter")
        assert app.choice.words == "tenant:lab-b"
        app._table(MACHINES).focus()
        await pilot.press("down", "enter")
        assert app.choice.words == "home:gpu00/0"
        assert app.focused is app._table(LIFE)


async def test_the_ended_ones_can_be_left_out():
    app = top(busy(20))
    async with opened(app) as (_, pilot):
        await pilot.press("e")
        assert [n for n in shown(app) if n % 5 == 4] == []
        await pilot.press("e")
        assert len(shown(app)) == 20


async def test_screens_open_and_close():
    app = top(busy(5))
    async with opened(app) as (_, pilot):
        await pilot.press("question_mark")
        assert isinstance(app.screen, Manual)
        await pilot.press("escape", "enter")
        assert isinstance(app.screen, Detail)
        await pilot.press("slash", "r")
        assert app.choice == Choice(), "keys of the tables do nothing here"
        await pilot.press("escape")
        assert len(app.screen_stack) == 1
        await pilot.press("q")
    assert app.return_code == 0


async def test_paging_follows_the_cursor_through_many_workflows():
    app = top(msgspec.structs.replace(busy(0), workflows=[flow(n) for n in range(1, 501)]))
    async with opened(app) as (_, pilot):
        await pilot.pause()
        table = app._table(LIFE)
        await pilot.press("end")
        await pilot.pause()
        assert table.place == 499
        assert table.scroll_offset.y == 500 - (table.size.height - 1)
        await pilot.press("pageup", "home")
        await pilot.pause()
        assert (table.place, table.scroll_offset.y) == (0, 0)


async def test_a_smaller_terminal_has_fewer_columns():
    app = top(busy(20))
    async with opened(app, WIDE) as (_, pilot):
        await pilot.pause()
        assert "WHY" in [c.title for c in app._table(LIFE)._columns]
        await pilot.resize_terminal(80, 24)
        await asyncio.sleep(0)
        await until(
            lambda: "WHY" not in [c.title for c in app._table(LIFE)._columns], pilot, "the columns stay"
        )
