"""The ring of facts behind `saga events`, and what is shown of tenants."""

from __future__ import annotations

import asyncio

import pytest

from saga_core.events import (
    CancelAsked,
    Outcome,
    SessionPaused,
    StepArrived,
    StepFinished,
    StepPlaced,
    WorkflowSubmitted,
)
from saga_core.views import ProgramSpec
from saga_head import feed as feeds
from saga_head.feed import Feed


def step(feed: Feed, number: int, workflow: int | None, at: float, session: str = "main") -> None:
    feed.add(StepArrived(step=number, tenant="t", model="m", workflow=workflow, session=session), at)
    feed.add(StepPlaced(step=number, worker="n/0", why="least loaded"), at + 1)
    feed.add(StepFinished(step=number, outcome=Outcome.DONE, prompt_tokens=9, duration_s=2.0), at + 2)


async def page(feed: Feed, *, after: int | None = None, workflow: int | None = None, wait_s: float = 0.0):
    return await feed.page(7, after=after, workflow=workflow, wait_s=wait_s)


async def test_every_fact_of_a_step_says_whose_it_is():
    feed = Feed()
    step(feed, 1, 3, 10.0)
    step(feed, 2, None, 20.0)
    feed.add(SessionPaused(session="3.main", worker="n/0", why="full"), 30.0)
    found = await page(feed, workflow=3)
    assert [(e.seq, e.kind, e.workflow, e.session) for e in found.events] == [
        (1, "StepArrived", 3, "main"),
        (2, "StepPlaced", 3, "main"),
        (3, "StepFinished", 3, "main"),
        (7, "SessionPaused", 3, "main"),
    ]
    assert found.events[1].facts["worker"] == "n/0"
    assert (found.next, found.missed, found.head) == (7, 0, 7)
    assert not feed._steps, "a step that is over is forgotten"


async def test_no_secret_is_told():
    feed = Feed()
    program = ProgramSpec(argv=["a"], cwd="/", env={"KEY": "secret-env"})
    feed.add(
        WorkflowSubmitted(workflow=1, tenant="t", token="secret-token", kind="program", program=program), 1.0
    )
    text = repr(await page(feed))
    assert "secret" not in text
    assert "WorkflowSubmitted" in text


async def test_who_asks_after_a_number_gets_what_is_newer():
    feed = Feed()
    for number in range(1, 6):
        feed.add(CancelAsked(workflow=number), float(number))
    assert [e.seq for e in (await page(feed, after=3)).events] == [4, 5]
    assert (await page(feed, after=5)).events == []
    assert (await page(feed, after=99)).next == 5, (
        "a number of another head asks for nothing that will never come"
    )


async def test_what_the_ring_has_lost_is_counted(monkeypatch):
    feed = Feed()
    feed._ring = type(feed._ring)(maxlen=3)
    for number in range(1, 6):
        feed.add(CancelAsked(workflow=number), float(number))
    found = await page(feed, after=0)
    assert [e.seq for e in found.events] == [3, 4, 5]
    assert found.missed == 2
    assert (await page(feed)).missed == 0, "who asks for all that is kept misses nothing"


async def test_a_page_is_bounded_and_the_next_one_goes_on(monkeypatch):
    monkeypatch.setattr(feeds, "MOST", 2)
    feed = Feed()
    for number in range(1, 6):
        feed.add(CancelAsked(workflow=number), float(number))
    seen, after = [], 0
    for _ in range(3):
        found = await page(feed, after=after)
        after = found.next
        seen += [e.seq for e in found.events]
    assert seen == [1, 2, 3, 4, 5]


async def test_who_waits_is_woken_by_a_fact_of_the_workflow():
    feed = Feed()
    waiting = asyncio.create_task(page(feed, after=0, workflow=2, wait_s=20.0))
    await asyncio.sleep(0)
    feed.add(CancelAsked(workflow=1), 1.0)
    feed.add(CancelAsked(workflow=2), 2.0)
    found = await asyncio.wait_for(waiting, 5.0)
    assert [e.workflow for e in found.events] == [2]


@pytest.mark.parametrize("workflow", [None, 4])
async def test_a_wait_ends(workflow):
    feed = Feed()
    found = await asyncio.wait_for(page(feed, after=0, workflow=workflow, wait_s=0.05), 5.0)
    assert (found.events, found.next) == ([], 0)
