"""What the learner makes of small histories, one rule at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.aeg import ANSWER, Declared, Hints, Kind, Learner
from saga_core.aeg.bands import Band
from saga_core.aeg.curves import Curve
from saga_core.aeg.pauses import Pauses
from saga_core.aeg.rings import Ring
from saga_core.aeg.scores import Tally
from saga_core.aeg.sequel import CONTEXTS, Sequel
from saga_core.aeg.snapshot import decode, encode

SWE = Kind("t", "swe")


class Stream:
    """Runs workflows through a learner, one step per second."""

    def __init__(self):
        self.learner = Learner()
        self.last = 0
        self.now = 0.0

    def begin(self, kind=SWE, hints=None, prompt_tokens=0):
        self.last += 1
        self.learner.began(self.last, kind, hints, prompt_tokens=prompt_tokens)
        return self.last

    def step(
        self,
        workflow,
        work_s=1.0,
        tool="bash",
        pause_s=1.0,
        prompt_tokens=1000,
        output_tokens=100,
        session="main",
    ):
        self.learner.returned(workflow, session, at=self.now)
        self.now += 1.0
        self.learner.stepped(
            workflow,
            session,
            at=self.now,
            work_s=work_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tool=tool,
        )
        self.now += pause_s

    def run(self, steps, kind=SWE, complete=True, hints=None, **step):
        workflow = self.begin(kind, hints)
        for _ in range(steps):
            self.step(workflow, **step)
        self.learner.ended(workflow, complete=complete)


def test_without_history_nothing_is_claimed():
    stream = Stream()
    workflow = stream.begin()
    assert stream.learner.total_work(workflow).samples == 0
    assert stream.learner.next_tool(workflow, "main") == ("", 0.0)
    assert stream.learner.return_in(workflow, "main", 7.0).samples == 0


def test_the_total_is_what_finished_workflows_took():
    stream = Stream()
    for _ in range(20):
        stream.run(10)
    expected = stream.learner.total_work(stream.begin())
    assert (expected.median, expected.low, expected.high) == pytest.approx((10.0, 10.0, 10.0))
    assert expected.source == "program of the tenant"
    assert expected.samples == 20


def test_what_is_attained_rules_out_the_shorter():
    stream = Stream()
    for steps in [2] * 20 + [40] * 20:
        stream.run(steps)
    workflow = stream.begin()
    assert stream.learner.total_work(workflow).low == pytest.approx(2.0)
    for _ in range(5):
        stream.step(workflow)
    assert stream.learner.total_work(workflow).median == pytest.approx(40.0)
    assert stream.learner.remaining_work(workflow).median == pytest.approx(35.0)
    assert stream.learner.remaining_steps(workflow).median == pytest.approx(35.0)


def test_beyond_all_samples_as_much_again():
    stream = Stream()
    for _ in range(20):
        stream.run(4)
    workflow = stream.begin()
    for _ in range(8):
        stream.step(workflow)
    assert stream.learner.total_work(workflow).median == pytest.approx(16.0)


def test_the_same_instance_speaks_louder_than_the_class():
    stream = Stream()
    for _ in range(40):
        stream.run(10)
    for _ in range(4):
        stream.run(80, Kind("t", "swe", "django-1"))
    known = stream.learner.total_work(stream.begin(Kind("t", "swe", "django-1")))
    other = stream.learner.total_work(stream.begin(Kind("t", "swe", "django-2")))
    assert known.median > 40.0
    assert other.median == pytest.approx(10.0)
    assert known.source == "instance"


def test_first_prompts_tell_workflows_apart():
    stream = Stream()
    for _ in range(40):
        stream.run(5, prompt_tokens=1000)
        stream.run(50, prompt_tokens=30000)
    small = stream.learner.total_work(stream.begin(prompt_tokens=1000)).median
    large = stream.learner.total_work(stream.begin(prompt_tokens=30000)).median
    assert small < 10.0 < 25.0 < large


def test_other_tenants_answer_only_for_a_new_one():
    stream = Stream()
    for _ in range(40):
        stream.run(10, Kind("big", "swe"))
    assert stream.learner.total_work(stream.begin(Kind("new", "swe"))).median == pytest.approx(10.0)
    for _ in range(40):
        stream.run(100, Kind("new", "swe"))
    assert stream.learner.total_work(stream.begin(Kind("new", "swe"))).median > 70.0


def test_cancelled_workflows_do_not_make_the_others_short():
    stream = Stream()
    for _ in range(20):
        stream.run(50)
        stream.run(2, complete=False)
    assert stream.learner.total_work(stream.begin()).median == pytest.approx(50.0)


def test_long_workflows_under_way_count_before_they_end():
    """Half are short and half long; only the short ones have ended."""
    stream = Stream()
    for _ in range(20):
        workflow = stream.begin()
        for _ in range(30):
            stream.step(workflow)
        stream.run(3)
    assert stream.learner.total_work(stream.begin()).high > 5.0


def test_kaplan_and_meier_by_hand():
    """Deaths at 1, 3, 5; lost from sight at 2 and 4: S = 4/5, 4/5 * 2/3, 0."""
    curve = Curve(Ring(8))
    for value in (1.0, 3.0, 5.0):
        curve.add(value)
    curve.draw([(2.0, 1.0), (4.0, 1.0)])
    assert curve.shares == pytest.approx([1 / 5, 1 - 8 / 15, 1.0])
    assert curve.quantile(0, 0.5) == 5.0
    assert curve.quantile(0, 0.4) == 3.0


def test_the_next_tool_follows_the_last_two():
    stream = Stream()
    workflow = stream.begin()
    for tool in ["read", "run", "edit", "look", "run", "test"] * 8:
        stream.step(workflow, tool=tool)
    # "run" alone is followed by "edit" or "test"; what came before it tells which.
    for tool in ["read", "run"]:
        stream.step(workflow, tool=tool)
    assert stream.learner.next_tool(workflow, "main")[0] == "edit"
    for tool in ["edit", "look", "run"]:
        stream.step(workflow, tool=tool)
    assert stream.learner.next_tool(workflow, "main")[0] == "test"
    assert stream.learner.next_tool(workflow, "main")[1] > 0.8


def test_where_one_sample_is_left_its_double_stands_beside_it():
    pauses = Pauses()
    for pause_s in [1.0] * 9 + [100.0]:
        pauses.ring.add(pause_s)
    low, _, high, _ = pauses.left(20.0)
    assert (low, high) == (20.0, 80.0)


def test_a_new_program_of_a_known_tool_asks_the_pool():
    stream = Stream()
    for _ in range(10):
        stream.run(5, Kind("t", "swe"), tool="bash", pause_s=30.0)
    workflow = stream.begin(Kind("u", "other"))
    stream.step(workflow, tool="bash")
    expected = stream.learner.return_in(workflow, "main", 0.0)
    assert (expected.median, expected.source) == (30.0, "tool of all programs")


def test_the_return_is_conditional_on_the_time_elapsed():
    stream = Stream()
    for pause_s in [1.0] * 60 + [100.0] * 40:
        stream.run(2, pause_s=pause_s)
    workflow = stream.begin()
    stream.step(workflow)
    assert stream.learner.return_in(workflow, "main", 0.0).median == 1.0
    assert stream.learner.return_in(workflow, "main", 20.0).median == pytest.approx(80.0)
    assert stream.learner.return_in(workflow, "main", 200.0).median == pytest.approx(200.0)


def test_a_tool_that_keeps_surprising_falls_back_to_lindy():
    pauses = Pauses()
    for _ in range(200):
        pauses.judge(1.0)
        pauses.ring.add(1.0)
    assert not pauses.beaten
    for turn in range(60):
        pause_s = 4.0 ** (turn % 8)
        pauses.judge(pause_s)
        pauses.ring.add(500.0)
    assert pauses.beaten
    assert pauses.left(50.0)[1] == 50.0


def test_growth_ignores_a_compaction():
    stream = Stream()
    workflow = stream.begin()
    for turn in range(40):
        stream.step(workflow, prompt_tokens=10_000 + 600 * turn, output_tokens=100)
    before = stream.learner.growth(workflow, "main")
    assert before.median == pytest.approx(500.0, rel=0.05)
    stream.step(workflow, prompt_tokens=2000)
    assert stream.learner.growth(workflow, "main") == before


def test_output_is_that_after_the_tool():
    stream = Stream()
    workflow = stream.begin()
    for _ in range(40):
        stream.step(workflow, tool="read", output_tokens=1000)
        stream.step(workflow, tool="edit", output_tokens=50)
    assert stream.learner.output(workflow, "main").median == pytest.approx(1000, rel=0.1)
    stream.step(workflow, tool="read", output_tokens=1000)
    assert stream.learner.output(workflow, "main").median == pytest.approx(50, rel=0.1)


def test_the_end_is_known_by_its_tool_and_by_silence():
    stream = Stream()
    for _ in range(30):
        workflow = stream.begin()
        for _ in range(9):
            stream.step(workflow, tool="bash")
        stream.step(workflow, tool="submit")
        stream.learner.ended(workflow, complete=True)
    workflow = stream.begin()
    stream.step(workflow, tool="bash")
    assert stream.learner.end_probability(workflow, "main") < 0.05
    assert stream.learner.end_probability(workflow, "main", 60.0) > stream.learner.end_probability(
        workflow, "main"
    )
    stream.step(workflow, tool="submit")
    assert stream.learner.end_probability(workflow, "main") > 0.85


def test_a_hint_is_believed_until_the_history_is_better():
    stream = Stream()
    honest = Hints(work_s=77.0)
    assert stream.learner.total_work(stream.begin(hints=honest)).median == pytest.approx(77.0)
    for turn in range(40):
        steps = 3 + 20 * (turn % 2)
        stream.run(steps, hints=Hints(work_s=float(steps)))
    assert stream.learner.total_work(stream.begin(hints=Hints(work_s=23.0))).median == pytest.approx(23.0)


def test_a_constant_bias_is_taken_out():
    stream = Stream()
    for turn in range(40):
        steps = 3 + 20 * (turn % 2)
        stream.run(steps, hints=Hints(work_s=float(steps) / 10))
    assert stream.learner.total_work(stream.begin(hints=Hints(work_s=2.3))).median == pytest.approx(23.0)


def test_hints_that_were_wrong_by_any_factor_break_no_estimate():
    stream = Stream()
    for _ in range(400):  # until what it says, corrected, is right again
        stream.run(10, hints=Hints(work_s=5e-324))
    assert stream.learner.total_work(stream.begin(hints=Hints(work_s=5e-324))).median == pytest.approx(10.0)
    liar = stream.learner.total_work(stream.begin(hints=Hints(work_s=9e8)))
    assert liar.source == "declared"
    assert 1e9 < liar.low <= liar.median <= liar.high <= 1e12 * (1 + 1e-9)


def test_a_hint_that_is_used_up_says_no_more():
    stream = Stream()
    for _ in range(20):
        stream.run(40)
    workflow = stream.begin(hints=Hints(work_s=5.0))
    for _ in range(6):
        stream.step(workflow)
    assert stream.learner.total_work(workflow).median == pytest.approx(40.0)


def test_a_new_program_knows_the_usual_tools():
    stream = Stream()
    for _ in range(10):
        stream.run(5, Kind("t", "swe"), tool="bash")
    assert stream.learner.next_tool(stream.begin(Kind("u", "new")), "main")[0] == "bash"


def test_a_liar_is_corrected_or_ignored():
    stream = Stream()
    for _ in range(20):
        stream.run(20, hints=Hints(work_s=2.0))
    assert stream.learner.total_work(stream.begin(hints=Hints(work_s=2.0))).median == pytest.approx(20.0)
    for turn in range(40):
        stream.run(20, hints=Hints(work_s=10.0 ** (turn % 5 - 2)))
    assert stream.learner.total_work(stream.begin(hints=Hints(work_s=0.01))).median == pytest.approx(20.0)


def test_declared_steps_are_priced_by_the_workflow_itself():
    stream = Stream()
    workflow = stream.begin(hints=Hints(steps=30))
    for _ in range(3):
        stream.step(workflow, work_s=2.0)
    expected = stream.learner.total_work(workflow)
    assert (expected.median, expected.source) == (pytest.approx(60.0), "declared")


def test_a_declared_graph_names_the_next_tool_until_it_is_left():
    graph = (Declared(tool="read", next=((1, 1.0),)), Declared(tool="edit", next=((0, 0.9),)))
    stream = Stream()
    workflow = stream.begin(hints=Hints(graph=graph))
    assert stream.learner.next_tool(workflow, "main") == ("read", 1.0)
    stream.step(workflow, tool="read")
    assert stream.learner.next_tool(workflow, "main") == ("edit", 1.0)
    stream.step(workflow, tool="edit")
    assert stream.learner.next_tool(workflow, "main") == ("read", 0.9)
    stream.step(workflow, tool="fly")
    assert stream.learner.next_tool(workflow, "main") != ("edit", 1.0)


def test_predictions_are_scored_against_what_happened():
    stream = Stream()
    for _ in range(30):
        stream.run(9, tool="bash")
    scores = {score.what: score for score in stream.learner.scores().overall}
    assert scores["next tool"].within > 0.99
    assert scores["work at 50%"].error == pytest.approx(0.0, abs=1e-6)
    assert scores["return"].error == pytest.approx(0.0, abs=1e-6)
    assert {"growth", "output", "last step"} <= scores.keys()
    assert stream.learner.scores().programs[0].agent_type == "swe"


def test_contexts_of_tools_are_bounded():
    sequel = Sequel()
    for turn in range(5000):
        sequel.add((f"a{turn}", f"b{turn}"), f"c{turn}")
    assert len(sequel.forks) <= CONTEXTS
    assert max(len(fork.counts) for fork in sequel.forks.values()) <= 64


def test_sub_agents_have_their_own_pauses():
    stream = Stream()
    workflow = stream.begin()
    stream.learner.stepped(workflow, "main", at=0.0, work_s=1, prompt_tokens=9, output_tokens=1, tool="Task")
    stream.learner.stepped(workflow, "sub", at=5.0, work_s=1, prompt_tokens=9, output_tokens=1, tool=ANSWER)
    stream.learner.returned(workflow, "main", at=60.0)
    tools = stream.learner.memory.programs.by_name["t", "swe"].tools
    assert tools["Task"].pauses.ring.ordered == [60.0]
    assert tools[ANSWER].pauses.ring.ordered == []


def test_one_run_of_an_instance_does_not_silence_its_class():
    stream = Stream()
    for _ in range(40):
        stream.run(10)
    stream.run(90, Kind("t", "swe", "django-1"))
    # Half and half, in logarithms: about sqrt(10 * 90).
    assert stream.learner.total_work(stream.begin(Kind("t", "swe", "django-1"))).median == pytest.approx(
        30.0, rel=0.1
    )


def test_no_part_of_the_band_is_below_what_is_attained():
    stream = Stream()
    workflow = stream.begin(hints=Hints(work_s=30.0))
    stream.step(workflow, work_s=20.0)
    expected = stream.learner.total_work(workflow)
    assert (expected.median, expected.low) == (pytest.approx(30.0), 20.0)


def test_the_first_guess_of_all_is_of_the_order_of_seconds():
    stream = Stream()
    assert stream.learner.total_work(stream.begin()).median == pytest.approx(2.0)


def test_a_step_that_arrives_twice_closes_one_pause():
    stream = Stream()
    workflow = stream.begin()
    stream.step(workflow)
    stream.learner.returned(workflow, "main", at=stream.now)
    stream.learner.returned(workflow, "main", at=stream.now + 5.0)
    assert stream.learner.memory.programs.by_name["t", "swe"].tools["bash"].pauses.ring.ordered == [1.0]


@pytest.mark.parametrize("at", [-5.0, float("nan"), float("inf"), 1e12])
def test_a_clock_that_was_set_teaches_no_pause(at):
    stream = Stream()
    workflow = stream.begin()
    stream.step(workflow)
    stream.learner.returned(workflow, "main", at=at)
    assert stream.learner.memory.programs.by_name["t", "swe"].tools["bash"].pauses.ring.ordered == []


@pytest.mark.parametrize("work_s", [float("nan"), float("inf"), -3.0, 1e300])
def test_senseless_work_is_not_counted(work_s):
    stream = Stream()
    workflow = stream.begin()
    stream.step(workflow, work_s=3.0)
    stream.step(workflow, work_s=work_s)
    assert stream.learner.memory.live[workflow].work_s == 3.0


def test_quantiles_of_what_is_left():
    curve = Curve(Ring(8))
    for value in range(8):
        curve.add(float(value))
    curve.draw()
    assert curve.quantile(0, 0.5) == 3.0
    assert curve.quantile(4, 0.5) == 5.0
    assert curve.quantile(4, 0.9) == 7.0


def test_counts_of_tools_forget():
    sequel = Sequel()
    for _ in range(300):
        sequel.add((), "old")
    for _ in range(200):
        sequel.add((), "new")
    assert sequel.next(())[0] == "new"


def test_scores_are_of_late():
    tally = Tally()
    for _ in range(10_000):
        tally.add(1.0, 1.0, False)
    for _ in range(20_000):
        tally.add(0.0, 0.0, True)
    assert tally.count < 5000
    assert tally.within > 0.95 * tally.count


@given(st.lists(st.floats(0, 9), max_size=40), st.integers(1, 7))
def test_a_ring_holds_the_latest_in_order(values, limit):
    ring = Ring(limit)
    for value in values:
        ring.add(value)
    assert ring.values() == values[-limit:]
    assert ring.ordered == sorted(values[-limit:])


@given(st.lists(st.floats(0, 1e6), min_size=400, max_size=400))
@settings(max_examples=20)
def test_a_band_stays_in_order(values):
    band = Band()
    for value in values:
        band.add(value)
        assert 0.0 <= band.low <= band.middle <= band.high


def test_a_band_finds_its_percentiles():
    band = Band()
    for turn in range(4000):
        band.add(float((turn * 37) % 100))
    assert band.estimate("x").median == pytest.approx(50, rel=0.2)
    assert band.estimate("x").low == pytest.approx(10, rel=0.4)
    assert band.estimate("x").high == pytest.approx(90, rel=0.2)


def test_every_nth_of_those_under_way_is_found_without_a_walk():
    learner = Learner()
    for workflow in range(50):
        learner.began(workflow, Kind("t", "a"))
    for workflow in (0, 7, 49, 7, 20):
        learner.ended(workflow, complete=False)
    learner.began(7, Kind("t", "a"))
    memory = learner.memory
    for stride in (1, 3, 46):
        assert memory.row.every(stride) == list(memory.live.values())[::stride]
    again = decode(encode(learner), "test").memory
    assert [live.mark for live in again.row.every(1)] == [live.mark for live in memory.row.every(1)]
    assert len(encode(learner)) < 50 * 400, "and it is not saved twice"
