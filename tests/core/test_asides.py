"""What calls say beside whose they are: our own words are right or refused, other systems' are cut to what can be."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from core_rig import Rig, config, dispatched, only, worker
from hypothesis import given
from hypothesis import strategies as st

from saga_core.actions import Dispatch
from saga_core.asides import NOTHING, Aside, aside
from saga_core.errors import UserError
from saga_core.identity import PlainBody
from saga_core.tenants import Tenant, TenantRequest, changed
from saga_core.told import MOST_PRIORITY, MOST_TOKENS, Told


def body(**fields: Any) -> PlainBody:
    return PlainBody(**{name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()})


def hints(**said: Any) -> PlainBody:
    return body(nvext={"agent_hints": said})


def headers(**more: str) -> dict[bytes, bytes]:
    return {f"x-saga-{name.replace('_', '-')}".encode(): value.encode() for name, value in more.items()}


SILENT = body()

# -- our own words -----------------------------------------------------------------------


def test_headers_tell_of_the_workflow_and_of_the_answer() -> None:
    said = headers(work_s="12.5", steps="40", instance="django-11099", deadline_s="1e3", priority="-3")
    expected = Told(work_s=12.5, steps=40, instance="django-11099", deadline_s=1000.0, priority=-3)
    assert aside(said, SILENT) == Aside(expected)
    assert aside(headers(output_tokens="900"), SILENT) == Aside(None, 900)
    assert aside(headers(workflow_id="x", session_id="y"), SILENT) is NOTHING
    cut = aside(headers(instance="i" * 200), SILENT).told
    assert cut is not None
    assert cut.instance == "i" * 128


@pytest.mark.parametrize(
    ("name", "value"),
    [("work_s", v) for v in ("0", "-1", "nan", "inf", "1e10", "soon", "1s", "9" * 400)]
    + [("deadline_s", v) for v in ("0", "-1", "nan", "tomorrow")]
    + [("steps", v) for v in ("0", "-1", "1.5", "²", "many", "99999999999", "9" * 5000)]
    + [("output_tokens", v) for v in ("0", "-1", "1e3", str(MOST_TOKENS + 1))]
    + [("priority", v) for v in ("11", "-11", "1.5", "high", "٣", "9" * 5000, "--1")],
)
def test_nonsense_in_a_header_is_said_to_be(name: str, value: str) -> None:
    with pytest.raises(
        UserError, match=rf"x-saga-{name.replace('_', '-')}: '.*' is not valid \(valid: "
    ) as error:
        aside(headers(**{name: value}), SILENT, granted=MOST_PRIORITY)
    assert len(str(error.value)) < 200


def test_who_asks_for_more_turns_than_its_tenant_was_granted_is_told_so() -> None:
    told = aside(headers(priority="2"), SILENT, granted=2).told
    assert told is not None
    assert told.priority == 2
    with pytest.raises(UserError, match=r"-10 to 2; `saga tenant limit --priority` grants more"):
        aside(headers(priority="3"), SILENT, granted=2)
    with pytest.raises(UserError, match="-10 to 0; "):
        aside(headers(priority="1"), SILENT)


# -- Dynamo's --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"priority": 5, "osl": 512}, Aside(Told(priority=5), 512)),
        ({"priority": -5}, Aside(Told(priority=-5))),
        ({"priority": 1000}, Aside(Told(priority=6))),
        ({"priority": -1_800_000_000}, Aside(Told(priority=-10))),
        ({"priority": 2, "strict_priority": 4}, Aside(Told(priority=4))),
        ({"priority": 2, "strict_priority": 0}, Aside(Told(priority=2))),
        ({"latency_sensitivity": 1.2}, Aside(Told(priority=1))),
        ({"latency_sensitivity": 5.0, "priority": 0}, NOTHING),
        ({"total_requests": 10, "iat": 250, "prefix_id": "r-d0"}, Aside(Told(steps=10))),
        ({"osl": "LOW", "priority": 3}, Aside(Told(priority=3))),
        ({"osl": 0, "total_requests": -1}, NOTHING),
        ({"osl": MOST_TOKENS + 1, "total_requests": 1 << 40}, NOTHING),
        ({"speculative_prefill": True, "priority": True, "osl": [1], "total_requests": {}}, NOTHING),
    ],
)
def test_agent_hints_are_read_as_far_as_they_can_be(said: dict[str, object], expected: Aside) -> None:
    assert aside({}, hints(**said), granted=6) == expected


def test_strangers_take_no_turns_from_others_unless_they_may() -> None:
    assert aside({}, hints(priority=10)) == NOTHING
    assert aside({}, hints(priority=-4)) == Aside(Told(priority=-4)), "whoever wants may stand back"


def test_dynamos_headers_take_the_place_of_its_fields_and_ours_of_both() -> None:
    said = {b"x-dynamo-request-priority": b"-2"}
    assert aside(said, hints(priority=5), granted=10) == Aside(Told(priority=-2))
    said |= {b"x-dynamo-request-strict-priority": b"3"}
    assert aside(said, hints(priority=5), granted=10) == Aside(Told(priority=3))
    assert aside(said | headers(priority="0"), hints(priority=5), granted=10) == NOTHING
    for odd in (b"high", b"", b"9" * 400, "٣".encode()):
        assert aside({b"x-dynamo-request-priority": odd}, hints(priority=5), granted=10) == Aside(
            Told(priority=5)
        ), "Dynamo passes over what is no number"
    ours = headers(steps="4", output_tokens="9")
    assert aside(ours, hints(total_requests=10, osl=512)) == Aside(Told(steps=4), 9)


def test_an_agentic_context_says_by_when_and_how_long() -> None:
    context = {"deadline_seconds": 60, "expected_output_length": 300, "priority": 9}
    expected = Aside(Told(deadline_s=60.0), 300)
    for form in (context, msgspec.json.encode(context).decode()):
        assert aside({}, body(vllm_xargs={"agentic_context": form}), granted=10) == expected
    both = body(nvext={"agent_hints": {"osl": 7}}, vllm_xargs={"agentic_context": context})
    assert aside(headers(deadline_s="5"), both) == Aside(Told(deadline_s=5.0), 7)
    for odd in (-1, 0, "soon", 1e12, None):
        assert aside({}, body(vllm_xargs={"agentic_context": {"deadline_seconds": odd}})) == NOTHING


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["agent_hints", "priority", "strict_priority", "latency_sensitivity", "osl", "total_requests",
                         "agentic_context", "deadline_seconds", "expected_output_length"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(nvext=JSON, xargs=JSON, said=st.binary(max_size=12), granted=st.integers(0, MOST_PRIORITY))
def test_whatever_strangers_say_is_within_bounds(
    nvext: object, xargs: object, said: bytes, granted: int
) -> None:
    told = {b"x-dynamo-request-priority": said, b"x-dynamo-request-strict-priority": said[::-1]}
    found = aside(told, body(nvext=nvext, vllm_xargs=xargs), granted=granted)
    assert 0 <= found.expected_tokens <= MOST_TOKENS
    if found.told is not None:
        assert -MOST_PRIORITY <= found.told.priority <= granted
        assert 0 <= found.told.steps <= 1 << 24
        assert 0.0 <= found.told.deadline_s < 1e9
        assert (found.told.work_s, found.told.instance) == (0.0, "")


# -- what becomes of it ------------------------------------------------------------------


def test_the_first_step_of_a_workflow_gives_it_its_priority() -> None:
    rig = Rig(config("saga"))
    rig.up()
    rig.step(key="k", told=Told(priority=-2))
    rig.step(key="k", told=Told(priority=5))
    (item,) = rig.head.book.workflows.values()
    account = rig.head.book.accounts.of(item.id)
    assert account is not None
    assert (item.priority, account.priority) == (-2, -2)
    assert rig.restarted().head.book.workflows[item.id].priority == -2
    submitted = rig.submit(priority=3)
    rig.step(submitted, told=Told(priority=-2))
    assert rig.head.book.workflows[submitted].priority == 3, "what the submission says stands"


def test_a_long_answer_that_was_announced_is_counted_before_it_is_there() -> None:
    """As far as a session may reserve: a 64th of the memory, however much is said."""
    for announced, goes in ((0, True), (900, True), (20_000, False), (MOST_TOKENS, False)):
        rig = Rig(config("saga"))
        rig.hello()
        rig.report(worker("n1/0", capacity_tokens=640_000))
        assert dispatched(rig.step(rig.submit(), body_bytes=570_000 * 4)) == "n1/0"
        actions = rig.step(rig.submit(), body_bytes=400, expected_tokens=announced)
        assert bool(only(actions, Dispatch)) is goes, announced
        room = rig.head.gates["m"].rooms["n1/0"]
        claim = rig.head.gates["m"].claims["2.main"]
        assert room.cost(claim) == 100 + (1000 if goes else 10_000)


def test_what_was_announced_of_one_step_says_nothing_of_the_next() -> None:
    rig = Rig(config("saga"))
    rig.hello()
    rig.report(worker("n1/0", capacity_tokens=640_000))
    mine = rig.submit()
    rig.step(mine, body_bytes=400, expected_tokens=20_000)
    gate = rig.head.gates["m"]
    room = gate.rooms["n1/0"]
    assert room.need(rig.now) == 10_100
    rig.finish(1, prompt_tokens=100, output_tokens=50)
    assert gate.claims["1.main"].expected_tokens == 0
    assert room.need(rig.now) == 1150
    rig.step(mine, body_bytes=400, expected_tokens=5_000)
    assert room.need(rig.now) == gate.claims["1.main"].tokens + 5_000


@pytest.mark.parametrize("seed", range(4))
def test_with_whatever_is_announced_the_sums_of_the_rooms_stay_right(seed: int) -> None:
    """`Rig` checks the head after each event."""
    luck = Random(seed)
    rig = Rig(config("saga", node_timeout_s=1e6))
    rig.hello()
    rig.report(*(worker(f"n1/{number}", capacity_tokens=256_000) for number in range(2)))
    workflows = [rig.submit(priority=luck.choice((0, 0, 3))) for _ in range(6)]
    held = 0
    for _ in range(250):
        on_workers = [step.id for step in rig.head.book.steps.values() if step.worker is not None]
        if on_workers and luck.random() < 0.5:
            size = luck.randrange(1, 250_000)
            rig.finish(luck.choice(on_workers), prompt_tokens=size, output_tokens=luck.randrange(9000))
        elif len(rig.head.book.steps) < 12:
            size, said = luck.randrange(4, 1_000_000), luck.choice((0, 900, 6000, MOST_TOKENS))
            session = luck.choice(("main", "other"))
            rig.step(luck.choice(workflows), session=session, body_bytes=size, expected_tokens=said)
        rig.tick(luck.choice((0.1, 2.0)))
        held += bool(rig.head.gates["m"].waiting)
    assert held > 20, "the gate had something to decide"


@pytest.mark.parametrize("most", [-1, MOST_PRIORITY + 1])
def test_a_tenant_is_granted_what_a_submission_could_say(most: int) -> None:
    tenant = changed(Tenant(name="a"), TenantRequest(priority=4))
    assert changed(tenant, TenantRequest(weight=2.0)).priority == 4, "what is not said stays"
    with pytest.raises(UserError, match=rf"priority = {most} is out of range \(valid: 0 to 10\)"):
        changed(tenant, TenantRequest(priority=most))
