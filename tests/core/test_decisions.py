"""Decisions as values: what is kept of them, for how long, and what they say."""

from __future__ import annotations

import msgspec
import pytest
from core_rig import Rig, config, worker

from saga_core.config import Config
from saga_core.costs import CostTable
from saga_core.decisions import EACH, RING, Decision, Decisions, Verdict
from saga_core.fleet import Worker
from saga_core.policy.admission import Admission
from saga_core.reasons import otherwise, why

COSTS = CostTable()


def gated(**admission) -> Rig:
    """A head with one worker of 1000 tokens, of which contexts count as they are."""
    plain = {"low": 0.95, "high": 1.0, "reserve_tokens": 0, "half_life_s": 0.0, "adaptive": False} | admission
    rig = Rig(Config(profile="saga-blind", name="test", admission=Admission(**plain)))
    rig.up("n1/0", capacity_tokens=1000)
    return rig


def ask(rig: Rig, workflow: int, tokens: int, session: str = "main") -> int:
    rig.step(workflow, body_bytes=4 * tokens, session=session)
    return rig.steps


def done(rig: Rig, step: int, tokens: int, cached: int = 0) -> None:
    rig.finish(step, prompt_tokens=tokens, cached_tokens=cached, output_tokens=0)


def verdicts(rig: Rig, workflow: int) -> list[str]:
    return [made.verdict.value for made in rig.head.decisions.of(workflow)]


def told(rig: Rig, workflow: int) -> list[str]:
    return [why(made) for made in rig.head.decisions.of(workflow)]


# -- what the gate decides ------------------------------------------------------------------


def test_a_session_that_waits_says_what_it_needs_what_is_left_and_who_is_before_it():
    rig = gated()
    first, second, third = rig.submit(), rig.submit(), rig.submit()
    ask(rig, first, 900)
    ask(rig, second, 300)
    ask(rig, third, 200)
    assert verdicts(rig, second) == verdicts(rig, third) == ["held"]
    (made,) = rig.head.decisions.of(third)
    assert (made.cost_tokens, made.need_tokens, made.limit_tokens, made.ahead) == (200, 900, 1000, 1)
    assert why(made) == "needs 200 tokens, n1/0 has 50 of 1,000 left below 0.95; 1 smaller key before it"
    assert (
        otherwise(made, COSTS, 0.0)
        == "at once under sticky: live contexts would need at least 1,100 of 1,000"
    )


def test_who_would_fit_but_is_not_first_says_so():
    rig = gated()
    first, large, small = rig.submit(), rig.submit(), rig.submit()
    ask(rig, first, 500)
    ask(rig, large, 600)
    ask(rig, small, 10)
    assert told(rig, small) == [
        "needs 10 tokens, n1/0 has 450 of 1,000 left below 0.95, but 1 smaller key before it"
    ]


def test_the_whole_way_held_let_in_paused_resumed():
    rig = gated()
    first, second = rig.submit(), rig.submit()
    mine = ask(rig, first, 500)
    theirs = ask(rig, second, 400)
    done(rig, theirs, 400)
    done(rig, mine, 800)  # 1,200 of 1,000: the later one is idle, and goes
    assert verdicts(rig, second) == ["let in", "paused"]
    rig.now += 5.0
    ask(rig, second, 450)
    assert verdicts(rig, second)[-1] == "held"
    rig.now += 2.5
    rig.end(first)
    assert verdicts(rig, second) == ["let in", "paused", "held", "resumed"]
    paused, _, resumed = rig.head.decisions.of(second)[1:]
    assert why(paused).startswith(
        "n1/0 needs 1,200 of 1,000 tokens, above 1; without it 800; largest key of 2"
    )
    assert "after 2.5 s" in why(resumed)
    assert otherwise(resumed, COSTS, 0.0) == "re-prefill elsewhere 0.016 s < its wait of 2.5 s"


def test_candidates_are_the_rooms_and_how_full_they_were():
    rig = gated()
    rig.up("n2/0", node="n2", capacity_tokens=1000)
    first, second = rig.submit(), rig.submit()
    ask(rig, first, 500)
    ask(rig, second, 400)
    (made,) = rig.head.decisions.of(second)
    assert made.worker == "n2/0"
    assert dict(made.scores) == {"n1/0": 0.5, "n2/0": 0.0}


def test_the_longest_waiting_is_let_in_by_force_and_told_so():
    rig = gated(force_s=60.0)
    first, second = rig.submit(), rig.submit()
    ask(rig, first, 900)
    ask(rig, second, 400)
    rig.now += 61.0
    rig.report(worker("n1/0", capacity_tokens=1000))
    rig.tick()
    assert verdicts(rig, second) == ["held", "forced"]
    assert (
        "as long as anybody has to; needs 400 tokens, n1/0 was full (900 of 1,000)" in told(rig, second)[-1]
    )


def test_a_session_whose_worker_went_says_that_it_moved():
    rig = gated()
    rig.up("n2/0", node="n2", capacity_tokens=1000)
    number = rig.submit()
    done(rig, ask(rig, number, 100), 100)
    rig.report(node="n1")  # its worker is gone
    ask(rig, number, 120)
    assert verdicts(rig, number)[-1] == "moved"
    assert told(rig, number)[-1].startswith(
        "resumed elsewhere: its worker is gone; needs 120 tokens, n2/0 has 950"
    )


def test_without_a_worker_it_says_which_model_waits():
    rig = Rig(config("sticky"))
    number = rig.submit()
    ask(rig, number, 10)
    assert told(rig, number) == ["no worker of model m is ready"]


# -- placement ---------------------------------------------------------------------------


def test_steps_that_go_the_same_way_are_one_decision_with_a_count():
    rig = gated()
    number = rig.submit()
    for tokens in (100, 120, 140, 160):
        done(rig, ask(rig, number, tokens), tokens)
        rig.now += 10.0
    assert verdicts(rig, number) == ["let in", "placed"]
    home = rig.head.decisions.of(number)[-1]
    assert (home.times, home.at - home.since, home.tokens) == (3, 20.0, 160)
    assert why(home) == "home: 100 of its 160 tokens are there"
    assert otherwise(home, COSTS, 0.0).endswith("; nothing waits here")


@pytest.mark.parametrize(
    ("waiting", "step_s", "end"),
    [(0, 1.0, "; nothing waits here"), (3, 0.0, "; 3 wait here"), (3, 0.1, " > queue 0.3 s (3 wait here)"),
     (3, 9.0, " < queue 27.0 s (3 wait here)")],
)  # fmt: skip
def test_staying_home_is_weighed_by_the_cost_table(waiting, step_s, end):
    made = Decision(0.0, Verdict.PLACED, 1, "1.main", 1, "n1/0", "home", 0.0, 1, 30_000, 30_000, waiting)
    saved = COSTS.chunk_s(0, 30_000)
    assert otherwise(made, COSTS, step_s) == f"re-prefill elsewhere {saved:.1f} s{end}"


def test_a_placement_rule_keeps_its_own_words_and_scores():
    rig = Rig(config("least-loaded"))
    rig.up("n1/0", "n1/1")
    number = rig.submit()
    ask(rig, number, 10)
    (made,) = rig.head.decisions.of(number)
    assert (made.verdict, why(made), made.scores) == (Verdict.PLACED, "least loaded (0.00)", (("n1/0", 0.0),))


# -- what is kept ------------------------------------------------------------------------


def placed(decisions: Decisions, workflow: int, session: str, step: int, name: str = "n1/0") -> None:
    decisions.place(workflow, session, step, Worker(name, "n1", "m"), "home", (), 10, float(step))


def test_memory_is_bounded_in_all_and_per_workflow():
    decisions = Decisions()
    for step in range(1, 2 * RING):
        placed(decisions, 1, f"1.{step}", step)
        decisions.wait(1, f"1.{step}", step, "no worker", float(step))
    decisions.check()
    assert len(decisions.of(1)) == EACH
    assert decisions.of_step(RING - 1) == []
    assert [made.verdict.value for made in decisions.of_step(RING)] == ["held", "placed"]
    decisions.leave(1)
    assert len(decisions.of(1)) == 2 * RING, "what the rings have of one that is over"
    assert decisions.totals["placed"] == decisions.totals["held"] == 2 * RING - 1


def test_a_session_that_changes_workers_is_no_row():
    decisions = Decisions()
    for step, name in enumerate(["n1/0", "n1/1", "n1/1", "n1/0"], 1):
        placed(decisions, 1, "1.main", step, name)
    assert [(made.worker, made.times) for made in decisions.of(1)] == [("n1/0", 1), ("n1/1", 2), ("n1/0", 1)]


def test_a_row_ends_with_whatever_else_is_decided_about_the_session():
    decisions = Decisions()
    placed(decisions, 1, "1.a", 1)
    decisions.wait(1, "1.a", 2, "no worker", 2.0)
    placed(decisions, 1, "1.b", 3)
    placed(decisions, 1, "1.a", 4)
    assert [made.times for made in decisions.of(1)] == [1, 1, 1, 1]


def test_the_paused_of_a_room_count_those_before_them():
    rig = gated()
    first, second, third = rig.submit(), rig.submit(), rig.submit()
    large = ask(rig, first, 400)
    for number, tokens in ((second, 300), (third, 200)):
        done(rig, ask(rig, number, tokens), tokens)
    done(rig, large, 950)  # both others are paused
    ask(rig, second, 300)
    ask(rig, third, 200)
    assert [rig.head.decisions.of(number)[-1].ahead for number in (second, third)] == [0, 1]


def test_sessions_that_take_turns_do_not_push_each_other_out():
    decisions = Decisions()
    for step in range(1, 101):
        placed(decisions, 1, f"1.{step % 2}", step)
    assert [(made.session, made.times) for made in decisions.of(1)] == [("1.1", 50), ("1.0", 50)]


def test_a_step_of_no_workflow_keeps_nothing_but_its_place_in_the_ring():
    rig = gated()
    rig.step(None, body_bytes=400)
    (made,) = rig.head.decisions.of_step(rig.steps)
    assert (made.verdict, made.workflow, made.session) == (Verdict.LET_IN, 0, f"step-{rig.steps}")
    assert not rig.head.decisions._of


def test_an_ended_workflow_keeps_no_list():
    rig = gated()
    number = rig.submit()
    done(rig, ask(rig, number, 100), 100)
    for _ in range(3):
        done(rig, ask(rig, number, 100), 100)
        rig.now += 1.0
    before = rig.head.decisions.of(number)
    rig.end(number)
    assert number not in rig.head.decisions._of
    assert rig.head.decisions.of(number) == before, "while the rings have it, it reads the same"
    assert [(made.verdict.value, made.times) for made in before] == [("let in", 1), ("placed", 3)]


def test_a_decision_cannot_be_changed():
    made = Decision(0.0, Verdict.HELD, 1, "1.main", 1, None, "", 0.0, 1)
    with pytest.raises(AttributeError):
        made.at = 1.0
    assert msgspec.structs.asdict(made)["verdict"] == "held"


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_words_whatever_is_known(verdict):
    """Also where no room was looked at, and where memory is not known."""
    for limit in (0.0, 1000.0, float("inf")):
        for room in (None, "n1/0"):
            made = Decision(
                0.0, verdict, 1, "1.main", 1, room, "rule", 0.0, 1, 50, 0, 1, (), 1.0, room, 50.0, 10.0, limit
            )
            assert isinstance(why(made), str)
            assert "inf" not in why(made) + otherwise(made, COSTS, 0.1)


def test_who_is_paused_for_one_that_is_overdue_is_told_for_whom():
    rig = gated(patience_s=30.0)
    first, second = rig.submit(), rig.submit()
    done(rig, ask(rig, second, 900), 900)
    ask(rig, first, 400)
    rig.now += 31.0
    rig.report(worker("n1/0", capacity_tokens=1000))
    rig.tick()
    assert verdicts(rig, first) == ["held", "let in"]
    paused = rig.head.decisions.of(second)[-1]
    assert why(paused) == "n1/0 is wanted for 1.main, which is overdue; largest key of 1 that compute nothing"
    assert otherwise(paused, COSTS, 0.0).startswith("coming back costs it at most 0.037 s")
