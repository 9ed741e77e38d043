import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_makers import chain, step, workflow, workflows

from saga_core.errors import UserError
from saga_sim.prompts import DEFAULT_VOCAB, Prompts
from saga_sim.trace import shared_tokens


def common(a, b):
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def build_all(made, seed=1, output=lambda s: [], vocab=DEFAULT_VOCAB):
    prompts = Prompts(made, seed=seed, vocab=vocab)
    built = []
    for s in made.steps:
        built.append(prompts.build(s))
        prompts.finished(s, output(s))
    return built


@given(workflows(max_tokens=400), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_prompts_have_the_traces_counts_and_share_exactly_what_it_says(made, seed):
    built = build_all(made, seed)
    for s, prompt in zip(made.steps, built, strict=True):
        assert len(prompt.tokens) == s.prompt_tokens
        assert all(DEFAULT_VOCAB[0] <= token < DEFAULT_VOCAB[1] for token in prompt.tokens)
        if s.ctx_parent is not None:
            assert common(prompt.tokens, built[s.ctx_parent].tokens) == shared_tokens(made, s)


def test_what_was_generated_follows_the_prompt_it_was_generated_from():
    made = chain(first=50, grow=30, output=10)
    built = build_all(made, output=lambda s: [7000 + s.id] * 10)
    assert built[1].tokens[:50] == built[0].tokens
    assert list(built[1].tokens[50:60]) == [7000] * 10
    assert list(built[2].tokens[80:90]) == [7001] * 10
    assert [p.computed_before for p in built] == [0, 59, 89], "the last generated token has no KV yet"


def test_of_a_long_output_only_what_fits_is_fed_back():
    made = chain(steps=2, first=50, grow=4, output=10)
    built = build_all(made, output=lambda _: list(range(7000, 7010)))
    assert list(built[1].tokens[50:]) == [7000, 7001, 7002, 7003]
    assert built[1].computed_before == 54


def test_a_short_or_missing_output_is_filled_up():
    made = chain(steps=2, first=50, grow=30, output=10)
    assert len(build_all(made, output=lambda _: [7000])[1].tokens) == 80
    assert build_all(made)[1].computed_before == 50


def test_a_cut_context_reuses_no_output():
    made = workflow(step(0, 100, output=10), step(1, 80, 20))
    built = build_all(made, output=lambda _: [7000] * 10)
    assert 7000 not in built[1].tokens
    assert built[1].computed_before == 60


def test_members_of_a_group_share_their_system_prompt_and_no_more():
    def member(name, prompt, common_tokens, group="g"):
        return workflow(
            step(0, prompt, shared_prefix_group=group, shared_prefix_tokens=common_tokens), id=name
        )

    a, b, short, other = (
        build_all(w)[0].tokens
        for w in (
            member("a", 500, 200),
            member("b", 600, 200),
            member("c", 90, 90),
            member("d", 500, 200, "h"),
        )
    )
    assert 200 <= common(a, b) < 210
    assert common(a, short) == 90
    assert common(a, other) < 3


def test_a_sub_agent_shares_the_system_prompt_of_its_own_group():
    told = {"shared_prefix_group": "g", "shared_prefix_tokens": 40}
    made = workflow(step(0, 100, **told), step(1, 90, ctx=None, parents=[0], **told))
    first, second = build_all(made)
    assert 40 <= common(first.tokens, second.tokens) < 50


def test_seeds_and_workflows_share_nothing_and_the_same_seed_everything():
    made = chain(steps=1, first=300)
    tokens = build_all(made, seed=1)[0].tokens
    assert build_all(made, seed=1)[0].tokens == tokens
    assert common(build_all(made, seed=2)[0].tokens, tokens) < 3
    assert common(build_all(chain("w/2", 1, first=300))[0].tokens, tokens) < 3


def test_only_what_later_steps_extend_is_held():
    made = chain(steps=20)
    prompts = Prompts(made, seed=1)
    for s in made.steps:
        prompts.build(s)
        prompts.finished(s, [5] * 10)
        assert len(prompts._prompts) <= 1
        assert len(prompts._outputs) <= 1
    assert not prompts._prompts


@pytest.mark.parametrize("vocab", [(5, 5), (5, 6), (-1, 10)])
def test_a_vocabulary_must_have_room(vocab):
    with pytest.raises(UserError, match="too small"):
        Prompts(chain(), seed=1, vocab=vocab)


def test_a_tiny_vocabulary_still_parts_where_the_trace_says():
    made = workflow(step(0, 200), *(step(i, 200, 100, ctx=0) for i in range(1, 20)))
    built = build_all(made, vocab=(3, 5))
    assert {common(built[0].tokens, p.tokens) for p in built[1:]} == {100}
