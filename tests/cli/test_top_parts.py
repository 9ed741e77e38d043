"""What the live view is made of: choices, rates, timelines, sources, replays."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from canned import NOW
from top_rig import busy, flow, told

from saga_cli.main import run
from saga_cli.top.choice import Choice, Recent, wrong
from saga_cli.top.columns import RESOURCES, TENANTS, WORKFLOWS, Moment, fitting, sizes
from saga_cli.top.frame import shares
from saga_cli.top.replay import Replay
from saga_cli.top.resources import resources
from saga_cli.top.timeline import Doing, lanes_text, steps_table, timeline
from saga_core import events
from saga_core.errors import ClusterError, UserError
from saga_core.events import Outcome
from saga_head.journal import Journal

MOMENT = Moment(NOW)

# -- choices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("", range(1, 21)),
        ("state:held", [2, 7, 12, 17]),
        ("state:held tenant:LAB-B", [7, 17]),
        ("id:7", [7]),
        ("11007", [7]),
        ("home:gpu", []),
        ("lab-a done", [4, 14]),
    ],
)
def test_a_filter_means(words, numbers):
    flows = [flow(n) for n in range(1, 21)]
    assert sorted(w.id for w in Choice(words=words).of(flows, MOMENT)) == list(numbers)


def test_a_filter_that_cannot_be():
    assert "unknown field 'colour'" in wrong("colour:red")
    assert wrong("http://x") != "", "a colon asks for a field"
    assert wrong("state:held") == ""


@pytest.mark.parametrize("column", WORKFLOWS, ids=lambda column: column.title)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_column_sorts(column, backwards):
    flows = [flow(n) for n in range(1, 21)]
    found = Choice(sort=column.title, backwards=backwards).of(flows, MOMENT)
    keys = [column.key(w, MOMENT) for w in found]
    assert keys == sorted(keys, reverse=column.falls != backwards)


def test_what_is_not_known_comes_last():
    flows = [flow(n) for n in range(1, 21)]
    assert Choice(sort="SLACK").of(flows, MOMENT)[-1].slack_s is None


def test_the_shares_of_the_last_minute_are_not_those_of_all_time():
    recent, view = Recent(), busy(3)
    assert recent.shares() == {}
    recent.add(view)
    more = [
        msgspec.structs.replace(t, attained_s=t.attained_s + (9.0 if t.id == "lab-a" else 1.0))
        for t in view.tenants
    ]
    totals = msgspec.structs.replace(view.totals, steps_done=view.totals.steps_done + 50)
    recent.add(msgspec.structs.replace(view, tenants=more, at=NOW + 10, totals=totals))
    assert recent.shares() == pytest.approx({"lab-a": 0.9, "lab-b": 0.1})
    assert recent.rate(lambda c: c.totals.steps_done) == pytest.approx(5.0)
    recent.add(msgspec.structs.replace(view, at=NOW + 20))
    assert recent.shares() == {}, "fewer steps than before: another head, of which nothing is known yet"


# -- columns and rows ------------------------------------------------------------------


@pytest.mark.parametrize("columns", [RESOURCES, TENANTS, WORKFLOWS])
@pytest.mark.parametrize("width", [80, 99, 100, 123, 124, 149, 150, 200])
def test_columns_fill_the_width(columns, width):
    shown = fitting(columns, width)
    assert sum(sizes(shown, width)) + len(shown) - 1 == width
    assert len({column.title for column in shown}) == len(shown)
    assert sizes(shown, width)[next(i for i, c in enumerate(shown) if not c.size)] >= 15


def test_a_node_is_the_sum_of_its_workers():
    rows = resources(busy())
    node, *mine = rows[:4]
    assert (node.id, [r.id for r in mine]) == ("gpu00", ["gpu00/0", "gpu00/1", "gpu00/2"])
    assert node.running == sum(r.running for r in mine)
    assert node.load == pytest.approx(sum(r.load for r in mine) / 3)
    assert mine[0].left_s == node.left_s == 300.0


def test_a_node_that_is_emptied_says_so():
    first, *others = (shown := busy()).nodes
    emptied = msgspec.structs.replace(first, duty="draining")
    rows = resources(msgspec.structs.replace(shown, nodes=[emptied, *others]))
    assert [row.state for row in rows if row.node][:2] == ["draining", "up"]


@pytest.mark.parametrize("height", range(5, 80, 5))
@pytest.mark.parametrize("machines", [0, 3, 99])
def test_every_table_has_room(height, machines):
    rows = shares(height, machines, 3)
    assert sum(rows) == max(6, height)
    assert min(rows) >= 1
    assert rows[2] >= max(2, max(6, height) * 2 // 5 - 1)


# -- timelines -------------------------------------------------------------------------


def test_a_timeline_says_what_each_session_did_when():
    line = timeline(told(), NOW)
    assert set(line.lanes) == {"main", "reviewer"}
    first = line.lanes["main"][:3]
    assert [(s.doing, s.end - s.begin) for s in first] == [
        (Doing.QUEUED, 1.0),
        (Doing.REASONING, 6.0),
        (Doing.TOOL, 4.0),
    ]
    paused = [s for s in line.lanes["main"] if s.doing is Doing.PAUSED]
    assert [s.end - s.begin for s in paused] == [10.0, 1.0], "paused, and then with a step that waits"
    for lane in line.lanes.values():
        assert all(a.end == b.begin for a, b in pairwise(lane)), "no hole, no overlap"
    assert line.end == NOW


def test_an_ended_workflow_ends_its_lanes():
    over = [
        *told(),
        msgspec.structs.replace(told()[-1], kind="WorkflowEnded", session="", step=None, at=NOW - 1),
    ]
    assert timeline(over, NOW).end == NOW - 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lanes_fit(width):
    text = lanes_text(timeline(told(), NOW), width).plain
    assert max(map(len, text.splitlines()[:3])) <= width
    assert text.splitlines()[0].startswith("main ")


def test_nothing_known_has_words():
    assert "no step is known" in lanes_text(timeline([], NOW), 80).plain
    assert steps_table(timeline([], NOW)).rows == []


# -- replays ---------------------------------------------------------------------------


@pytest.fixture
async def journal(tmp_path):
    """One workflow of two steps on one worker, the second one paused before, in 100 s."""
    book = Journal(tmp_path / "journal")
    book.recover("saga")
    facts = [
        (0, events.HeadStarted(incarnation=1, version="x")),
        (1, events.NodeJoined(node="n", incarnation=1, host="h")),
        (2, events.WorkerReady(worker="n/0", incarnation=1, model="m")),
        (10, events.WorkflowSubmitted(workflow=1, tenant="t", token="secret", kind="replay", name="one", deadline_s=200)),
        (20, events.StepArrived(step=1, tenant="t", model="m", workflow=1)),
        (21, events.StepPlaced(step=1, worker="n/0", why="least loaded", incarnation=1)),
        (30, events.StepFinished(step=1, outcome=Outcome.DONE, prompt_tokens=90, cached_tokens=30, output_tokens=9)),
        (40, events.SessionPaused(session="1.main", worker="n/0", why="full")),
        (50, events.StepArrived(step=2, tenant="t", model="m", workflow=1)),
        (70, events.StepPlaced(step=2, worker="n/0", why="home", incarnation=1)),
        (80, events.StepFinished(step=2, outcome=Outcome.DONE, prompt_tokens=99, cached_tokens=90, output_tokens=9)),
        (100, events.WorkflowEnded(workflow=1, state="done")),
    ]  # fmt: skip
    for at, fact in facts:
        book.append(fact, NOW + at)
    book.close()
    return tmp_path


async def test_a_replay_shows_each_moment(journal):
    played = Replay(journal, interval_s=1.0, speed=25.0)
    seen = [played.cluster() for _ in range(6)]
    assert [c.at - NOW for c in seen] == [0, 25, 50, 75, 100, 100]
    assert [len(c.workers) for c in seen] == [0, 1, 1, 1, 1, 1]
    states = [c.workflows[0].state if c.workflows else "" for c in seen]
    assert states == ["", "reasoning", "queued", "reasoning", "done", "done"]
    held = seen[2].workflows[0]
    assert (held.held_s, held.paused, held.why) == (10.0, 1, "full")
    assert seen[1].workers[0].running == 1
    assert (seen[4].workers[0].steps_done, seen[4].workers[0].cached_tokens) == (2, 120)
    assert (seen[4].tenants[0].promised, seen[4].tenants[0].kept) == (1, 1)
    assert seen[4].tenants[0].slowdown > 1.0, "it waited"


async def test_a_replay_goes_back_and_on(journal):
    played = Replay(journal / "journal")
    played.end()
    assert played.cluster().workflows[0].state == "done"
    for _ in range(15):
        played.skip(-1)
    assert played.now() == pytest.approx(NOW + 25)
    assert played.cluster().workflows[0].state == "reasoning"
    played.faster(3)
    assert played.speed == 8.0
    assert "8x" in played.words()


async def test_a_replay_explains_by_what_the_journal_says(journal):
    played = Replay(journal)
    played.end()
    made = played.explanation(1).decisions
    assert [(d.verdict, d.why) for d in made] == [
        ("placed", "least loaded"),
        ("paused", "full"),
        ("placed", "home"),
    ]
    assert "secret" not in repr(played.events(1))
    with pytest.raises(ClusterError, match="workflow 9 is not known"):
        played.explanation(9)


async def test_one_frame_of_a_replay(journal, capfd):
    assert run(["top", "--once", "--replay", str(journal), "--at", "25"]) == 0
    assert "reasoning" in capfd.readouterr().out
    assert run(["top", "--once", "--replay", str(journal)]) == 0
    assert " done " in capfd.readouterr().out


def test_what_is_no_journal_is_refused(tmp_path):
    with pytest.raises(UserError, match="no journal there"):
        Replay(tmp_path)
    (tmp_path / "journal-00000000.log").write_bytes(b"something else")
    with pytest.raises(ClusterError, match="no journal of saga"):
        Replay(tmp_path / "journal-00000000.log")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sort", "colour"], "unknown column 'colour'"),
        (["--filter", "colour:red"], "unknown field 'colour'"),
        (["--interval", "0"], "--interval 0 is too short"),
        (["--speed", "0"], "--speed 0 is not valid"),
    ],
)
def test_options_that_cannot_be(saga, folder, words, says):
    said = saga("top", "--once", *words)
    assert said.code == 2
    assert says in said.err
