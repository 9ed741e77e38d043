"""What is known of work outlives the head: attained work, shares of time, and everything that was learned."""

from dataclasses import replace

import msgspec
import pytest
from core_rig import Rig, config, dispatched, dump

from saga_core import snapshot
from saga_core.aeg import snapshot as learned
from saga_core.errors import ClusterError
from saga_core.events import StepArrived
from saga_core.ids import StepId
from saga_core.policy.ordering import virtual_finish
from saga_core.told import Told

HINTED = Told(work_s=3.0, steps=9, instance="django-11099", deadline_s=60.0)


def step(rig: Rig, workflow: int, *, prompt: int, output: int = 50, tool: str = "", **more) -> None:
    rig.step(workflow, body_bytes=4 * prompt, **more)
    rig.now += 0.5
    rig.finish(rig.steps, prompt_tokens=prompt, cached_tokens=0, output_tokens=output, tool=tool)
    rig.now += 0.2


def busy() -> Rig:
    """A head that has learned from eight workflows and has three under way, one of them told of."""
    rig = Rig(config("saga"))
    rig.hello()
    rig.up("n1/0", capacity_tokens=100_000)
    for size in range(1, 9):
        number = rig.submit(agent_type="swe")
        for turn in range(1, size + 1):
            step(rig, number, prompt=400 * turn, tool="bash" if turn < size else "-")
        rig.end(number)
    for size in (1, 4):
        number = rig.submit(agent_type="swe")
        for turn in range(1, size + 1):
            step(rig, number, prompt=300 * turn, tool="bash")
    number = rig.submit(agent_type="swe")
    step(rig, number, prompt=500, told=HINTED)
    return rig


def answers(rig: Rig) -> list[object]:
    """All that is asked of a learner, and the keys by which the gate orders."""
    book = rig.head.book
    learner = book.accounts.learner
    live = [w.id for w in book.workflows.values() if w.live]
    told: list[object] = [learner.scores()]
    for number in live:
        account = book.accounts.of(number)
        assert account is not None
        told += [
            virtual_finish(account, 0), account.attained_s,
            learner.total_work(number), learner.remaining_steps(number), learner.next_tool(number, "main"),
            learner.return_in(number, "main", 1.0), learner.end_probability(number, "main", 1.0),
        ]  # fmt: skip
    return told


def saved(rig: Rig) -> Rig:
    """A new head on a snapshot of this one."""
    again = Rig(rig.config, book=snapshot.decode(snapshot.encode(rig.head.book), "test"))
    again.now = rig.now
    return again


@pytest.mark.parametrize("again", [Rig.restarted, saved], ids=["journal", "snapshot"])
def test_a_new_head_answers_and_orders_as_the_old_one(again) -> None:
    rig = busy()
    before = answers(rig)
    assert len(before) == 1 + 3 * 7
    assert all(estimate.samples for estimate in before[3::7]), "nothing was learned"
    other = again(rig)
    assert answers(other) == before
    for both in (rig, other):  # and learns on as the old one would have
        step(both, 10, prompt=2000, tool="edit")
        both.end(10)
    assert answers(other) == answers(rig)


def test_who_had_more_is_still_behind_after_a_restart() -> None:
    rig = busy()
    young, old = (rig.head.book.accounts.of(number) for number in (9, 10))
    assert virtual_finish(young, 0) < virtual_finish(old, 0)
    again = rig.restarted()
    assert again.head.book.accounts.of(10).attained_s == old.attained_s > 0
    again.hello()
    again.up("n1/0", capacity_tokens=100_000)
    assert dispatched(again.step(10)) == "n1/0"
    again.head.check()


def test_work_is_weighed_by_the_settings_of_the_cluster() -> None:
    """The head and the recovery use the same table: else attained work would jump at a restart."""
    rig = busy()
    costs = replace(rig.config.costs, prefill_token_s=1.0)
    dear = Rig(replace(rig.config, costs=costs))
    assert dear.head.book.accounts.costs is costs
    book = snapshot.decode(snapshot.encode(rig.head.book), "test", costs)
    assert book.accounts.costs is costs
    assert book.accounts.of(10).attained_s == rig.head.book.accounts.of(10).attained_s


def test_a_snapshot_from_before_accounts_were_kept_is_read() -> None:
    rig = busy()
    old = msgspec.msgpack.decode(snapshot.encode(rig.head.book))
    for name in ("services", "learned", "learned_version"):
        del old[name]
    book = snapshot.decode(msgspec.msgpack.encode(old), "test")
    again = Rig(rig.config, book=book)
    again.now = rig.now
    again.hello()
    again.up("n1/0")
    step(again, 10, prompt=2000)
    assert again.head.book.accounts.of(10).attained_s > 0
    assert again.end(10)


def test_what_another_version_learned_is_learned_anew() -> None:
    rig = busy()
    other = msgspec.msgpack.decode(snapshot.encode(rig.head.book)) | {"learned_version": 99, "learned": b"?"}
    book = snapshot.decode(msgspec.msgpack.encode(other), "test")
    assert book.accounts.learner.total_work(10).samples == 0
    assert book.accounts.of(10).attained_s > 0


def test_damage_in_what_was_learned_names_the_file() -> None:
    rig = busy()
    other = msgspec.msgpack.decode(snapshot.encode(rig.head.book)) | {"learned": b"?"}
    with pytest.raises(ClusterError, match=r"snapshot-7.*not what saga has learned"):
        snapshot.decode(msgspec.msgpack.encode(other), "snapshot-7")


# -- what is told ----------------------------------------------------------------------------


def test_the_first_word_counts_and_a_submission_comes_before_it() -> None:
    rig = Rig(config("saga"))
    rig.hello()
    rig.up("n1/0")
    said = rig.submit(work_s=7.0)
    step(rig, said, prompt=100, told=HINTED)
    workflow = rig.head.book.workflows[said]
    assert (workflow.work_s, workflow.steps_told, workflow.instance, workflow.deadline_s) == (
        7.0, 9, "django-11099", 60.0,
    )  # fmt: skip
    step(rig, said, prompt=100, told=Told(work_s=0.001, steps=1, instance="other"))
    assert (workflow.work_s, workflow.steps_told, workflow.instance) == (7.0, 9, "django-11099")


def test_a_workflow_from_outside_is_told_of_by_its_first_step() -> None:
    rig = Rig(config("saga"))
    rig.steps += 1
    rig(StepArrived(step=StepId(rig.steps), tenant="t", model="m", key="k", told=HINTED, prefix="4f1c"))
    (workflow,) = rig.head.book.workflows.values()
    assert workflow.work_s == 3.0
    live = rig.head.book.accounts.learner.memory.live[workflow.id]
    assert (live.kind.instance, live.kind.prefix) == ("django-11099", "4f1c")
    assert live.hints.steps == 9
    assert dump(rig.replayed()) == dump(rig.head.book)


def test_a_tool_that_is_named_late_has_its_pause() -> None:
    """A client that says whose result it brings teaches what a reply that was not read could not."""
    rig = Rig(config("saga"))
    rig.hello()
    rig.up("n1/0")
    for _ in range(10):
        number = rig.submit(agent_type="swe")
        step(rig, number, prompt=100)
        rig.step(number, tool="pytest")
        rig.finish(rig.steps, prompt_tokens=300, output_tokens=5, tool="-")
        rig.end(number)
    number = rig.submit(agent_type="swe")
    step(rig, number, prompt=100)
    learner = rig.head.book.accounts.learner
    assert learner.next_tool(number, "main")[0] == "pytest"
    program = learner.memory.programs.by_name["t", "swe"]
    assert len(program.tools["pytest"].pauses.ring.ordered) == 10
    assert learned.encode(rig.replayed().accounts.learner) == learned.encode(learner)
