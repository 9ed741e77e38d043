"""Who is calling: the whole precedence table, what each harness sends, and what is no name at all."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.identity import RULES, Identity, identify
from saga_core.ids import MAX_NAME
from saga_head.gateway.port import Fields


def body(**more: object) -> Fields:
    return msgspec.json.decode(json.dumps({"model": "m"} | more).encode(), type=Fields)


HEADERS = {
    "saga": {b"x-saga-workflow-id": b"R"},
    "dynamo": {b"x-dynamo-session-id": b"R"},
    "claude-code": {b"x-claude-code-session-id": b"R"},
    "codex": {b"session-id": b"R"},
    "session-affinity": {b"x-session-affinity": b"R"},
    "x-session-id": {b"x-session-id": b"R"},
    "opencode": {b"x-opencode-session": b"R"},
    "litellm": {b"x-litellm-session-id": b"R"},
    "smg": {b"x-smg-routing-key": b"R"},
    "llm-d": {b"x-llm-d-inference-fairness-id": b"R"},
    "baggage": {b"baggage": b"a=1,gen_ai.conversation.id=R;p=1"},
}
BODIES: dict[str, dict[str, object]] = {
    "agentic-context": {"vllm_xargs": {"agentic_context": {"program_id": "R"}}},
    "nvext": {"nvext": {"agent_context": {"workflow_id": "R"}}},
    "body.program_id": {"program_id": "R"},
    "body.session_id": {"session_id": "R"},
    "body.session_params": {"session_params": {"session_id": "R"}},
    "body.conversation": {"conversation": "R"},
    "body.previous_response_id": {"previous_response_id": "R"},
    "body.prompt_cache_key": {"prompt_cache_key": "R"},
    "body.metadata": {"metadata": {"session_id": "R"}},
}
NAMED = [rule for rule in RULES if rule not in ("content", "none")]


@pytest.mark.parametrize("rule", NAMED)
def test_each_rule_fires_alone(rule: str) -> None:
    who = identify(HEADERS.get(rule, {}), body(**BODIES.get(rule, {})), by_token=False)
    assert (who.workflow, who.session, who.rule) == ("R", "main", rule)


@pytest.mark.parametrize(("first", "second"), list(pairwise(NAMED)))
def test_of_two_rules_the_earlier_one_fires(first: str, second: str) -> None:
    headers = HEADERS.get(first, {}) | {k: v.replace(b"R", b"X") for k, v in HEADERS.get(second, {}).items()}
    later = json.loads(json.dumps(BODIES.get(second, {})).replace('"R"', '"X"'))
    who = identify(headers, body(**(later | BODIES.get(first, {}))), by_token=False)
    assert (who.workflow, who.rule) == ("R", first)


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({b"x-dynamo-session-id": b"s", b"x-dynamo-parent-session-id": b"p"}, {},
         Identity("p", "s", "dynamo", "", "p", linked=True)),
        ({b"x-saga-session-id": b"s", b"x-saga-parent-session-id": b"p"}, {},
         Identity("p", "s", "saga", "", "p", linked=True)),
        ({b"x-saga-session-id": b"s"}, {}, Identity("s", "s", "saga")),
        ({b"x-session-id": b"s", b"x-parent-session-id": b"s"}, {}, Identity("s", "main", "x-session-id", "", "s")),
        ({b"x-claude-code-session-id": b"c", b"x-claude-code-agent-id": b"a", b"x-claude-code-parent-agent-id": b"b"},
         {}, Identity("c", "a", "claude-code", "", "b")),
        ({b"session_id": b"c", b"thread-id": b"t"}, {}, Identity("c", "t", "codex")),
        ({b"session-id": b"c", b"thread-id": b"c"}, {}, Identity("c", "main", "codex")),
        ({b"thread-id": b"t"}, {}, Identity("t", "main", "codex")),
        ({}, {"vllm_xargs": {"agentic_context": json.dumps({"session_id": "s", "deadline_seconds": 60})}},
         Identity("s", "main", "agentic-context")),
        ({}, {"vllm_xargs": {"agentic_context": {
            "program_id": "p", "parent_program_id": "q", "root_program_id": "r", "agent_id": "a"}}},
         Identity("r", "a", "agentic-context", "", "q")),
        ({}, {"vllm_xargs": {"agentic_context": {"program_id": "p", "parent_program_id": "q"}}},
         Identity("q", "p", "agentic-context", "", "q", linked=True)),
        ({}, {"vllm_xargs": {"session_id": "s"}}, Identity("s", "main", "agentic-context")),
        ({}, {"nvext": {"agent_context": {"workflow_type_id": "ms", "workflow_id": "w", "program_id": "w:1",
                                          "parent_program_id": "w:0"}}},
         Identity("w", "w:1", "nvext", "ms", "w:0")),
        ({}, {"nvext": {"session_control": {"action": "close", "session_id": "s", "timeout": 5}}},
         Identity("s", "main", "nvext", final=True)),
        ({}, {"nvext": {"agent_hints": {"priority": 5}}}, Identity("", "main", "none")),
        ({}, {"nvext": {"agent_hints": {"prefix_id": "run-7-d2", "total_requests": 10}}},
         Identity("run-7", "run-7-d2", "nvext")),
        ({}, {"nvext": {"agent_hints": {"prefix_id": "eval-q001"}}}, Identity("eval-q001", "main", "nvext")),
        ({}, {"nvext": {"agent_hints": {"prefix_id": ["x"]}, "session_control": {"session_id": "s"}}},
         Identity("s", "main", "nvext")),
        ({}, {"nvext": {"agent_hints": {"prefix_id": "-d2"}}}, Identity("-d2", "main", "nvext")),
        ({}, {"conversation": {"id": "conv"}}, Identity("conv", "main", "body.conversation")),
        ({}, {"metadata": {"user_id": "user_abc_account_1_session_2f6e0b7c-aaaa"}},
         Identity("2f6e0b7c-aaaa", "main", "body.metadata")),
        ({}, {"metadata": {"user_id": '{"device_id":"d","session_id":"s-9"}'}},
         Identity("s-9", "main", "body.metadata")),
        ({}, {"metadata": {"user_id": "somebody"}, "user": "alice"}, Identity("", "main", "none")),
        ({b"baggage": b"session.id=a%20b"}, {}, Identity("a b", "main", "baggage")),
        ({b"baggage": b"userId=alice,session.ids=x"}, {}, Identity("", "main", "none")),
        ({b"x-dynamo-session-id": b"s", b"x-dynamo-session-final": b"true"}, {},
         Identity("s", "main", "dynamo", final=True)),
    ],
)  # fmt: skip
def test_what_harnesses_send(
    headers: dict[bytes, bytes], fields: dict[str, object], expected: Identity
) -> None:
    assert identify(headers, body(**fields), by_token=False) == expected


@pytest.mark.parametrize("name", [b"x-saga-session-final", b"x-dynamo-session-final"])
def test_who_says_that_it_is_not_the_last_step_is_believed(name: bytes) -> None:
    said = {
        value: identify({name: value}, body(), by_token=True).final
        for value in (b"true", b"1", b"false", b"0")
    }
    assert said == {b"true": True, b"1": True, b"false": False, b"0": False}


def test_by_token_the_table_names_the_session_within_the_workflow() -> None:
    codex = {b"session-id": b"c", b"thread-id": b"t"}
    assert identify(codex, body(), by_token=True) == Identity("", "t", "token+codex")
    assert identify({b"x-session-id": b"c"}, body(), by_token=True) == Identity("", "c", "token+x-session-id")
    assert identify({}, body(), by_token=True) == Identity("", "main", "token")


def test_ids_are_exact() -> None:
    one = identify({b"x-session-id": b"session-1"}, body(), by_token=False)
    other = identify({b"x-session-id": b"session-12"}, body(), by_token=False)
    assert (one.workflow, other.workflow) == ("session-1", "session-12")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["agentic_context", "session_id", "id", "user_id", "agent_context", "program_id",
                         "session_control", "agent_hints", "prefix_id", "parent_program_id"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
NAMES = sorted({name for headers in HEADERS.values() for name in headers} | {b"x-parent-session-id"})


@given(
    st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=300), max_size=4),
    st.dictionaries(
        st.sampled_from(["metadata", "conversation", "session_params", "vllm_xargs", "nvext"]),
        JSON,
        max_size=3,
    ),
    st.booleans(),
)
def test_whatever_strangers_send_has_a_name_of_the_table(
    headers: dict[bytes, bytes], fields: dict[str, object], by_token: bool
) -> None:
    who = identify(headers, body(**fields), by_token=by_token)
    assert who.rule.removeprefix("token+") in (*RULES, "token")
    for name in (who.workflow, who.session, who.parent, who.agent_type):
        assert name.isprintable()
        assert len(name) <= MAX_NAME
    assert bool(who.workflow) == (who.rule != "none" and not by_token)
