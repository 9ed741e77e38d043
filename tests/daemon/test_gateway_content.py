"""The last rule: whose a prompt is, seen from what it continues. No wrong join, and bounded state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from saga_head import continuations
from saga_head.continuations import Continuations
from saga_head.prompts import Chain, chain_of

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You are an agent. " * 10}
TOOLS = [{"type": "function", "function": {"name": "bash"}}]


def chain(messages: list[Any], api: str = CHAT, **more: object) -> Chain:
    found = chain_of(api, json.dumps({"model": "m", "messages": messages} | more).encode())
    assert found is not None
    return found


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def turn(text: str) -> list[dict[str, str]]:
    """An answer of the model's, and what the tool then said."""
    return [
        {"role": "assistant", "content": f"I shall look at {text}, and then we will see what it is"},
        {"role": "tool", "content": f"the output of {text} is this and that and some more of it"},
    ]


def test_a_prompt_that_extends_an_earlier_one_continues_it() -> None:
    known = Continuations()
    first = [SYSTEM, user("fix the bug")]
    assert known.take(chain(first)).name == "", "one question is no conversation"
    second = known.take(chain(first + turn("a")))
    assert (bool(second.name), second.confidence) == (True, 1.0)
    assert known.take(chain(first + turn("a") + turn("b"))) == second
    assert len(known) == 1


def test_one_that_offers_tools_opens_at_once() -> None:
    known = Continuations()
    opened = known.take(chain([user("hi")], tools=TOOLS)).name
    assert opened
    assert known.take(chain([user("hi"), *turn("a")], tools=TOOLS)).name == opened


def test_equal_first_prompts_are_two_sessions_and_their_twins_are_told_with_doubt() -> None:
    known = Continuations()
    first = [user("hi")]
    names = {known.take(chain(first, tools=TOOLS)).name for _ in range(2)}
    assert len(names) == 2
    one = known.take(chain(first + turn("a"), tools=TOOLS))
    assert (one.name in names, one.confidence) == (True, 0.5)
    two = known.take(chain(first + turn("b"), tools=TOOLS))
    assert (names - {one.name}, two.confidence) == ({two.name}, 1.0)
    assert known.take(chain(first + turn("a") + turn("c"))).name == one.name
    assert known.take(chain(first + turn("b") + turn("c"))).name == two.name


@pytest.mark.parametrize(
    "other",
    [
        [SYSTEM, user("fix another bug"), *turn("a")],
        [SYSTEM | {"content": "You are another."}, user("fix the bug"), *turn("a")],
        [SYSTEM, user("fix the bug"), user("or not")],
        [user("fix the bug"), *turn("a")],
    ],
)
def test_what_begins_otherwise_is_another(other: list[Any]) -> None:
    known = Continuations()
    name = known.take(chain([SYSTEM, user("fix the bug")], tools=TOOLS)).name
    assert known.take(chain(other, tools=TOOLS)).name != name


def test_the_same_prompt_again_is_a_retry_once_it_holds_an_answer() -> None:
    known = Continuations()
    grown = [user("hi"), *turn("a")]
    first = known.take(chain(grown))
    again = known.take(chain(grown))
    assert (again.name, again.confidence) == (first.name, continuations.SURE_OF_REPEATS)


def test_after_a_compaction_what_is_kept_tells() -> None:
    known = Continuations()
    prompt = [SYSTEM, user("fix the bug")]
    known.take(chain(prompt))
    for name in "abcd":
        prompt += turn(name)
        found = known.take(chain(prompt))
    compacted = [
        SYSTEM,
        user("A summary of the work so far: we looked at a and b and found nothing"),
        *turn("d"),
    ]
    kept = known.take(chain(compacted))
    assert kept.name == found.name
    assert 0.3 < kept.confidence < 1.0
    assert known.take(chain(compacted + turn("e"))).name == found.name
    assert (
        known.take(chain([SYSTEM, user("A summary of nothing at all, of which nothing is known")])).name == ""
    )


def test_what_goes_on_without_an_answer_is_another() -> None:
    known = Continuations()
    name = known.take(chain([SYSTEM, user("a document")], tools=TOOLS)).name
    assert known.take(chain([SYSTEM, user("a document"), user("a question"), *turn("a")])).name != name


def grown(known: Continuations, question: str, *steps: str) -> tuple[list[Any], str]:
    """A conversation of so many steps; its last prompt and its name."""
    prompt: list[Any] = [SYSTEM, user(question)]
    known.take(chain(prompt, tools=TOOLS))
    for step in steps:
        prompt = prompt + turn(step)
        name = known.take(chain(prompt, tools=TOOLS)).name
    return prompt, name


def test_pieces_of_two_conversations_join_neither() -> None:
    known = Continuations()
    names = {grown(known, "one", "a", "b")[1], grown(known, "two", "c", "d")[1]}
    assert known.take(chain([SYSTEM, user("both"), *turn("b"), *turn("d")], tools=TOOLS)).name not in names


def test_what_twins_have_both_said_joins_neither() -> None:
    known = Continuations()
    for _ in range(2):
        known.take(chain([SYSTEM, user("one")], tools=TOOLS))
    names = {known.take(chain([SYSTEM, user("one"), *turn("a")], tools=TOOLS)).name for _ in range(2)}
    assert len(names) == 2
    assert known.take(chain([SYSTEM, user("a summary"), *turn("a")], tools=TOOLS)).name not in names


def test_examples_that_all_prompts_share_join_nobody() -> None:
    known = Continuations()
    shots = [SYSTEM, user("an example question, asked by everybody who uses this program"), *turn("example")]
    first = known.take(chain([*shots, user("the first question of somebody, which is long enough to count")]))
    known.take(
        chain([*shots, user("the first question of somebody, which is long enough to count"), *turn("x")])
    )
    other = known.take(
        chain([*shots, user("the second question of somebody, which is long enough to count")])
    )
    assert first.name != other.name


def test_messages_and_responses_grow_too_and_markers_that_move_do_not_count() -> None:
    known = Continuations()
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=%s;"},
        {"type": "text", "text": "be good"},
    ]

    def said(prompt: list[Any], number: int) -> str:
        marked = json.loads(json.dumps(prompt))
        marked[-1]["content"] = [{"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}}]
        header = json.loads(json.dumps(system).replace("%s", str(number)))
        return known.take(chain(marked, "/v1/messages", system=header, tools=TOOLS)).name

    plain = {"role": "user", "content": [{"type": "text", "text": "t"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "an answer"}]}
    assert said([plain], 1) == said([plain, answer, plain], 2)

    def asked(items: list[Any] | str) -> str:
        body = {"model": "m", "input": items, "instructions": "be good", "tools": TOOLS}
        found = chain_of("/v1/responses", json.dumps(body, separators=(",", ":")).encode())
        assert found is not None
        return known.take(found).name

    first = {"role": "user", "content": "hi"}
    call = {"type": "function_call", "call_id": "c", "name": "bash", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "ok"}
    assert asked("hi") == asked([first, call, output])


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[", b'{"messages": 5}', b'{"messages": []}', b"\xff", b"[" * 90_000]
)
def test_what_is_no_prompt_has_no_chain(body: bytes) -> None:
    assert chain_of(CHAT, body) is None


def test_within_a_workflow_by_token_the_first_conversation_is_main() -> None:
    known = Continuations()
    main = known.take(chain([user("plan")], tools=TOOLS), scope=7)
    sub = known.take(chain([user("search")], tools=TOOLS), scope=7)
    assert main.name == "main" != sub.name
    assert known.take(chain([user("search"), *turn("a")]), scope=7).name == sub.name
    assert known.take(chain([user("search"), *turn("a")]), scope=8).name == "main", "scopes are apart"


def test_what_is_forgotten_is_told() -> None:
    known = Continuations(limit=3)
    names = [known.take(chain([user(str(i))], tools=TOOLS)).name for i in range(5)]
    assert known.forgotten == names[:2]
    known.check()


class Traffic(RuleBasedStateMachine):
    """Agents of two tenants with prompts that resemble each other, some forgotten on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.known = [Continuations(limit=6), Continuations(limit=6)]
        self.runs: list[tuple[int, list[Any], str]] = []
        self.owners: dict[str, int] = {}
        self.serial = 0

    def ask(self, tenant: int, prompt: list[Any]) -> str:
        name = self.known[tenant].take(chain(prompt, tools=TOOLS)).name
        assert self.owners.setdefault(name, tenant) == tenant, "one tenant joined another's session"
        return name

    @rule(tenant=st.integers(0, 1), question=st.integers(0, 2))
    def begin(self, tenant: int, question: int) -> None:
        prompt = [SYSTEM, user(f"question {question}")]
        self.runs.append((tenant, prompt, self.ask(tenant, prompt)))

    @precondition(lambda self: self.runs)
    @rule(pick=st.integers(0, 50), compact=st.booleans())
    def go_on(self, pick: int, compact: bool) -> None:
        tenant, prompt, name = self.runs.pop(pick % len(self.runs))
        self.serial += 1
        prompt = prompt + turn(f"step {self.serial}")  # no other run will ever have it
        compact = compact and len(prompt) > 6
        if compact:
            prompt = [SYSTEM, user("a summary of what happened until now, in few words"), *prompt[-4:]]
        before = set(self.owners)
        found = self.ask(tenant, prompt)
        grown = any("step" in m["content"] and m["role"] == "assistant" for m in prompt[:-2])
        if grown and name in {c.name for c in self.known[tenant]._all.values()}:
            assert found == name or (compact and found not in before), (
                "known for sure, or a new one; never another"
            )
        self.runs.append((tenant, prompt, found))

    @invariant()
    def bounded(self) -> None:
        for known in self.known:
            known.check()
            assert len(known) <= known.limit


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_links_are_equal_exactly_as_far_as_messages_are(one: list[str], other: list[str]) -> None:
    left, right = chain([SYSTEM, *map(user, one)]), chain([SYSTEM, *map(user, other)])
    for at in range(min(len(one), len(other)) + 1):
        assert (left.links[at] == right.links[at]) == (one[:at] == other[:at])
