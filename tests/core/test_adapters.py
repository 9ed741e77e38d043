"""Adapters are names of a model's workers: their steps share its pool and its gate, and go where every worker has them."""

from __future__ import annotations

import pytest
from core_rig import Rig, config, dispatched, facts, one, refused, worker

from saga_core.actions import Dispatch
from saga_core.events import StepArrived, StepPlaced
from saga_core.states import WorkerState

BOTH = ("lora-a", "lora-b")


@pytest.mark.parametrize("profile", ["least-loaded", "saga"])
def test_a_step_that_asks_for_an_adapter_is_its_models(profile: str):
    rig = Rig(config(profile))
    rig.up("n1/0", adapters=BOTH, capacity_tokens=30_000)
    rig.hello("n2")
    rig.report(worker("n2/0", model="other", adapters=("lora-c",)), node="n2")
    flow = rig.submit()
    assert dispatched(rig.step(flow, model="lora-c")) == "n2/0"
    actions = rig.step(flow, model="lora-a")
    assert dispatched(actions) == "n1/0"
    arrived = facts(actions, StepArrived)[0]
    assert (arrived.model, arrived.adapter) == ("m", "lora-a")
    assert rig.head.fleet.names() == ["lora-a", "lora-b", "lora-c", "m", "other"]
    assert rig.head.fleet.models() == ["m", "other"]
    assert set(rig.head.gates) <= {"m", "other"}, "one gate per memory"


def test_one_that_not_every_worker_has_is_refused_with_who_has_it():
    rig = Rig()
    rig.up("n1/0", adapters=BOTH)
    rig.hello("n2")
    rig.report(worker("n2/0", state=WorkerState.STARTING), node="n2")
    assert dispatched(rig.step(model="lora-b")) == "n1/0", "who starts has said nothing yet"
    rig.report(worker("n2/0", adapters=("lora-a",)), node="n2")
    no = refused(rig.step(model="lora-b"))
    assert (no.status, no.code) == (404, "model_not_found")
    assert "on n1/0 and not on the other workers" in no.message
    assert "(have: lora-a, m)" in no.message
    assert one(rig.step(model="lora-a"), Dispatch)


def test_a_worker_that_starts_again_keeps_its_names_meanwhile():
    rig = Rig()
    rig.up("n1/0", adapters=BOTH)
    rig.report(worker("n1/0", state=WorkerState.LOST))
    assert not facts(rig.step(model="lora-a"), StepPlaced), "it waits, as for its model"
    actions = rig.report(worker("n1/0", incarnation=2, adapters=BOTH))
    assert dispatched(actions) == "n1/0"
    rig.report(worker("n1/0", incarnation=2, adapters=("lora-b",)))
    assert refused(rig.step(model="lora-a")).status == 404


def test_who_came_before_anybody_knew_the_name_is_asked_to_come_again():
    rig = Rig()
    rig.step(model="lora-a")
    no = refused(rig.up("n1/0", adapters=BOTH))
    assert (no.status, no.retry_after_s, no.step) == (503, 1, 1)
    assert "an adapter of 'm'" in no.message
    assert dispatched(rig.step(model="lora-a")) == "n1/0"


def test_a_models_own_name_is_nobodys_adapter():
    rig = Rig()
    rig.up("n1/0", adapters=("other", "lora-a"))
    rig.up("n2/0", node="n2", model="other")
    assert dispatched(rig.step(model="other")) == "n2/0"
    assert rig.head.fleet.names() == ["lora-a", "m", "other"]
