"""Any stream of events, sensible or not: no crash, no nonsense, bounded memory, and bytes that remember everything."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.aeg import Declared, Hints, Kind, Learner, levels, live, memory, program
from saga_core.aeg.snapshot import decode, encode
from saga_core.errors import ClusterError

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(min_value=0, max_value=100),
)
TOKENS = st.one_of(st.integers(-10, 200_000), st.just(10**400))
IDS = st.integers(0, 2)
SESSIONS = st.sampled_from(["main", "sub", "x"])
TOOLS = st.sampled_from(["", "-", "^", "bash", "edit", "é" * 500])
KINDS = st.builds(
    Kind,
    st.sampled_from(["t", "u"]),
    st.sampled_from(["", "swe", "web"]),
    st.sampled_from(["", "i1"]),
    st.sampled_from(["", "p1"]),
)
GRAPHS = st.lists(
    st.builds(
        Declared,
        tool=TOOLS,
        next=st.lists(st.tuples(st.integers(-2, 4), NUMBERS), max_size=3).map(tuple),
    ),
    max_size=4,
).map(tuple)
HINTS = st.none() | st.builds(
    Hints, work_s=st.none() | NUMBERS, steps=st.none() | st.integers(-5, 10**6), graph=GRAPHS
)
EVENTS = st.one_of(
    st.tuples(st.just("began"), IDS, KINDS, HINTS, TOKENS),
    st.tuples(st.just("stepped"), IDS, SESSIONS, NUMBERS, NUMBERS, TOKENS, TOKENS, TOOLS),
    st.tuples(st.just("returned"), IDS, SESSIONS, NUMBERS),
    st.tuples(st.just("ended"), IDS, st.booleans()),
)


def opened():
    """A learner with all workflows under way, so that most events mean something."""
    learner = Learner()
    for workflow in range(3):
        learner.began(workflow, Kind("t", "swe"))
    return learner


def tell(learner, event):
    match event:
        case "began", workflow, kind, hints, prompt:
            learner.began(workflow, kind, hints, prompt_tokens=prompt)
        case "stepped", workflow, session, at, work_s, prompt, output, tool:
            learner.stepped(
                workflow, session, at=at, work_s=work_s, prompt_tokens=prompt, output_tokens=output, tool=tool
            )
        case "returned", workflow, session, at:
            learner.returned(workflow, session, at=at)
        case "ended", workflow, complete:
            learner.ended(workflow, complete=complete)


def answers(learner, elapsed_s=3.0):
    out = []
    for workflow in range(4):
        out += [
            learner.total_work(workflow),
            learner.remaining_work(workflow),
            learner.remaining_steps(workflow),
        ]
        for session in ("main", "sub", "never"):
            out += [
                learner.return_in(workflow, session, elapsed_s),
                learner.growth(workflow, session),
                learner.output(workflow, session),
                learner.next_tool(workflow, session),
                learner.end_probability(workflow, session, elapsed_s),
            ]
    return out


def sane(answer):
    match answer:
        case float():
            return 0.0 <= answer <= 1.0
        case (str(), share):
            return 0.0 <= share <= 1.0
        case estimate:
            figures = (estimate.low, estimate.median, estimate.high, estimate.mean)
            return (
                all(math.isfinite(x) and x >= 0.0 for x in figures)
                and estimate.low <= estimate.median <= estimate.high
                and estimate.samples >= 0
                and estimate.source != ""
            )


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=60), NUMBERS)
def test_every_answer_is_sane_after_any_stream(events, elapsed_s):
    learner = opened()
    for event in events:
        tell(learner, event)
        wrong = [answer for answer in answers(learner, elapsed_s) if not sane(answer)]
        assert not wrong, event
    for score in learner.scores().overall:
        assert math.isfinite(score.error)
        assert 0.0 <= score.within <= 1.0


@pytest.mark.parametrize(
    "hints",
    [
        Hints(work_s=1e308),
        Hints(work_s=5e-324),
        Hints(work_s=math.nan),
        Hints(steps=10**400),
        Hints(steps=0),
        Hints(graph=(Declared(tool="a", next=((7, 0.5),)),)),
        Hints(graph=(Declared(tool="a", next=((0, math.nan),)),)),
        Hints(graph=(Declared(tool="a", next=((0, 3.0),)),)),
        Hints(graph=(Declared(tool="a", next=((0, 1.0),)),)),
    ],
)
def test_senseless_hints_do_no_harm(hints):
    learner = Learner()
    for turn in range(20):
        learner.began(turn % 6, Kind("t", "swe"), hints)
        tell(learner, ("stepped", turn % 6, "main", 1.0, 1.0, 100, 10, "a"))
        assert all(map(sane, answers(learner)))
        learner.ended(turn % 6, complete=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=60), st.lists(EVENTS, max_size=20))
def test_what_is_saved_goes_on_alike(before, after):
    learner = opened()
    for event in before:
        tell(learner, event)
    again = decode(encode(learner), "test")
    for event in after:
        tell(learner, event)
        tell(again, event)
        assert answers(again) == answers(learner)
    assert encode(again) == encode(learner)
    assert again.scores() == learner.scores()


@settings(max_examples=50, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_the_same_events_teach_the_same(events):
    one, other = Learner(), Learner()
    for event in events:
        tell(one, event)
        tell(other, event)
    assert encode(one) == encode(other)


def flood(learner, turns):
    for turn in range(turns):
        learner.began(turn, Kind(f"t{turn % 40}", f"a{turn}", f"i{turn}", f"p{turn}"), Hints(steps=9))
        for step in range(3):
            learner.returned(turn, f"s{step}", at=turn + step + 0.5)
            learner.stepped(
                turn,
                f"s{step}",
                at=turn + step,
                work_s=1.0,
                prompt_tokens=turn + 1,
                output_tokens=1,
                tool=f"tool{turn * 3 + step}",
            )
        if turn % 2:
            learner.ended(turn, complete=True)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "LIVE", 50)
    monkeypatch.setattr(memory, "TENANTS", 10)
    monkeypatch.setattr(levels, "LEVELS", 100)
    learner = Learner()
    flood(learner, 1000)
    held = learner.memory
    assert len(held.live) <= 50
    assert 0 < len(held.trusts) <= 10
    assert len(held.shelf.levels) <= 100
    assert len(held.programs.by_name) <= program.PROGRAMS
    assert len(held.programs.pool.tools) <= program.TOOLS + 1
    assert learner.total_work(999).samples == 0  # ended
    assert learner.total_work(998).samples > 0


def test_one_tenant_cannot_push_out_the_programs_of_others():
    learner = Learner()
    learner.began(0, Kind("quiet", "swe"))
    learner.stepped(0, "main", at=1, work_s=1, prompt_tokens=1, output_tokens=1, tool="bash")
    for turn in range(1, 1000):
        learner.began(turn, Kind("loud", f"a{turn}"))
    assert learner.memory.programs.by_name["quiet", "swe"].steps == 1
    assert len(learner.memory.programs.by_name) == 1 + program.TENANT_PROGRAMS


def test_sessions_of_one_workflow_are_bounded():
    learner = Learner()
    learner.began(1, Kind("t", "swe"))
    for turn in range(1000):
        learner.stepped(1, f"s{turn}", at=turn, work_s=1, prompt_tokens=1, output_tokens=1, tool=f"t{turn}")
    assert len(learner.memory.live[1].sessions) == live.SESSIONS
    assert len(learner.memory.programs.by_name["t", "swe"].tools) <= program.TOOLS + 1


def test_rings_that_went_round_are_saved_in_their_order():
    learner = Learner()
    for turn in range(600):
        learner.began(turn, Kind("t", "swe"))
        learner.stepped(
            turn, "main", at=0.0, work_s=float(turn * 37 % 601), prompt_tokens=9, output_tokens=9, tool="a"
        )
        learner.returned(turn, "main", at=float(turn * 31 % 599))
        learner.ended(turn, complete=True)
    again = decode(encode(learner), "test")
    for turn in range(600, 900):
        for one in (learner, again):
            one.began(turn, Kind("t", "swe"))
            one.stepped(turn, "main", at=0.0, work_s=1.0, prompt_tokens=9, output_tokens=9, tool="a")
            one.returned(turn, "main", at=3.0)
            one.ended(turn, complete=True)
    assert encode(again) == encode(learner)


def test_a_long_stream_takes_no_more_room():
    learner = Learner()
    sizes = []
    for turn in range(1200):
        learner.began(turn, Kind("t", "swe"))
        for step in range(4):
            learner.returned(turn, "main", at=step + 0.5)
            learner.stepped(
                turn, "main", at=step, work_s=1, prompt_tokens=9, output_tokens=9, tool=f"t{step}"
            )
        learner.ended(turn, complete=True)
        if turn in (599, 1199):
            sizes.append(len(encode(learner)))
    assert sizes[1] <= sizes[0] * 1.02


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", encode(Learner())[:-3]])
def test_damaged_bytes_are_refused_by_name(data):
    with pytest.raises(ClusterError, match=r"learned\.bin"):
        decode(data, "learned.bin")


def test_another_version_is_refused():
    foreign = encode(Learner()).replace(b"\xa7version\x02", b"\xa7version\x03")
    with pytest.raises(ClusterError, match="version 3"):
        decode(foreign, "learned.bin")
