"""The engine model by virtual time: no clock, no sockets."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.errors import UserError
from saga_fake.engine import Engine, EngineShape, content_hash
from saga_fake.kv_events import AllBlocksCleared, BlockRemoved, BlockStored
from saga_fake.reply import Script, ScriptedCall, ScriptLine, StopWatch, after, invented
from saga_fake.requests import EngineRequest, FinishReason, RequestState
from saga_fake.tokens import EOS, VOCAB_TOKENS, chat_tokens, pieces, tokenise

_ids = itertools.count()


def make_engine(*, blocks=17, block=16, length=None, seqs=8, step=2048):
    length = (blocks - 1) * block if length is None else length
    return Engine(
        EngineShape(
            max_model_len_tokens=length,
            block_tokens=block,
            blocks=blocks,
            max_num_seqs=seqs,
            step_tokens=step,
        )
    )


def make_request(tokens, max_tokens=1, **more):
    tokens = list(range(16, 16 + tokens)) if isinstance(tokens, int) else list(tokens)
    return EngineRequest(
        id=str(next(_ids)), tokens=tokens, reply=invented(0, tokens), max_tokens=max_tokens, **more
    )


def run(engine, now=0.0):
    """Step until idle; the outputs, and the time by then."""
    outputs = []
    while (step := engine.schedule(now)) is not None:
        now += step.duration_s
        outputs += engine.complete(step, now)
        engine.pool.check()
    assert engine.is_idle
    return outputs, now


def serve(engine, tokens, max_tokens=1, **more):
    request = make_request(tokens, max_tokens, **more)
    engine.submit(request, 0.0)
    run(engine)
    return request


def other(n, first):
    return [first + i for i in range(n)]


def test_second_turn_finds_all_full_blocks_of_the_first():
    engine = make_engine()
    first = serve(engine, 40, max_tokens=10)
    assert first.cached_tokens == 0
    # 49 of the 50 tokens were computed (the last one was only sampled): 3 full blocks.
    assert serve(engine, [*first.tokens, 1, 2, 3]).cached_tokens == 48


def test_at_least_one_prompt_token_is_always_computed():
    engine = make_engine()
    prompt = other(48, 100)
    serve(engine, prompt)
    assert serve(engine, prompt).cached_tokens == 32


def test_salt_isolates_a_cache():
    engine = make_engine()
    serve(engine, 40, salt="a")
    assert serve(engine, 40, salt="b").cached_tokens == 0
    assert serve(engine, 40, salt="a").cached_tokens == 32


def test_a_request_loses_its_tail_first():
    engine = make_engine(blocks=9)  # 8 blocks
    kept = other(100, 100)  # 6 full blocks and a part
    serve(engine, kept)
    serve(engine, other(64, 900))  # takes the 2 never used, then 2 of the tail
    assert serve(engine, kept).cached_tokens == 4 * 16


def test_the_longest_unused_request_is_evicted_first():
    engine = make_engine(blocks=9)
    a, b = other(49, 100), other(49, 500)
    serve(engine, a)
    serve(engine, b)
    serve(engine, a)  # used again: b is the oldest now
    serve(engine, other(64, 900))  # 2 free blocks, then 2 of b's tail
    assert serve(engine, a).cached_tokens == 48
    assert serve(engine, b).cached_tokens < 48


def test_the_newest_request_is_preempted_and_still_finishes():
    engine = make_engine(blocks=9)
    old, new = make_request(other(60, 100), 60), make_request(other(60, 900), 60)
    engine.submit(old, 0.0)
    engine.submit(new, 0.0)
    outputs, _ = run(engine)
    assert (old.preemptions, new.preemptions) == (0, 1)
    assert engine.totals.preemptions == 1
    assert [o.request for o in outputs if o.finish] == [old, new]
    assert old.generated_tokens == new.generated_tokens == 60


def test_preemption_changes_no_token():
    calm, tight = make_engine(blocks=100, length=128), make_engine(blocks=9)
    texts = []
    for engine in (calm, tight):
        pair = [make_request(other(60, 100), 60), make_request(other(60, 900), 60)]
        for request in pair:
            engine.submit(request, 0.0)
        run(engine)
        texts.append([request.tokens for request in pair])
    assert texts[0] == texts[1]
    assert tight.totals.preemptions > calm.totals.preemptions == 0


def test_first_come_first_served_even_when_a_later_one_would_fit():
    engine = make_engine(blocks=9)
    running, large, small = (
        make_request(other(40, 100), 20),
        make_request(other(100, 400)),
        make_request(other(10, 900)),
    )
    for request in (running, large, small):
        engine.submit(request, 0.0)
    outputs, _ = run(engine)
    assert [o.request for o in outputs if o.finish] == [running, large, small]


def test_max_num_seqs_bounds_the_step():
    engine = make_engine(seqs=2)
    for i in range(5):
        engine.submit(make_request(other(5, 100 * i + 16), 3), 0.0)
    step = engine.schedule(0.0)
    assert step is not None
    assert (len(step.chunks), len(engine.running), len(engine.waiting)) == (2, 2, 3)


def test_prefill_is_chunked_and_decodes_go_along():
    engine = make_engine(blocks=257, step=64)
    decoding = make_request(other(5, 100), 50)
    engine.submit(decoding, 0.0)
    step = engine.schedule(0.0)
    engine.complete(step, 0.0)
    engine.submit(make_request(other(200, 500)), 0.0)
    sizes = []
    for _ in range(4):
        step = engine.schedule(0.0)
        sizes.append([chunk.tokens for chunk in step.chunks])
        engine.complete(step, 0.0)
    assert sizes == [[1, 63], [1, 63], [1, 63], [1, 11]]


@pytest.mark.parametrize(("tokens", "measured_s"), [(4096, 0.33), (8192, 1.1), (16384, 3.9)])
def test_cold_prefill_costs_what_was_measured(tokens, measured_s):
    engine = Engine(EngineShape())
    engine.submit(make_request([16 + i % 4000 for i in range(tokens)]), 0.0)
    _, now = run(engine)
    assert now == pytest.approx(measured_s, rel=0.15)


def test_decode_rate_is_that_of_the_demo_model():
    engine = Engine(EngineShape())
    request = make_request(100, 300)
    engine.submit(request, 0.0)
    _, now = run(engine)
    assert 110 < 299 / (now - request.first_token_s) < 250


def test_a_batch_is_faster_than_one_after_another():
    def took(*requests):
        engine = Engine(EngineShape())
        for request in requests:
            engine.submit(request, 0.0)
        return run(engine)[1]

    alone = took(make_request(other(20, 100), 60))
    together = took(*(make_request(other(20, 100 * n), 60) for n in range(1, 9)))
    assert alone < together < 4 * alone


def test_abort_frees_the_blocks_at_any_moment():
    engine = make_engine()
    request, waiting = make_request(40, 100), make_request(other(200, 500))
    engine.submit(request, 0.0)
    engine.submit(waiting, 0.0)
    step = engine.schedule(0.0)
    assert engine.pool.usage > 0
    engine.abort(request)
    engine.abort(waiting)
    assert engine.complete(step, 1.0) == []
    assert engine.pool.usage == 0
    assert engine.is_idle
    engine.abort(request)  # again: nothing
    assert engine.totals.finished[FinishReason.ABORT] == 2
    assert request.state is RequestState.FINISHED
    engine.pool.check()


def test_events_mirror_the_cache():
    engine = make_engine(blocks=9)
    request = serve(engine, 40, session="s1")
    (stored,) = engine.pool.take_events()
    assert isinstance(stored, BlockStored)
    assert stored.block_hashes == request.contents[:2]
    assert stored.token_ids == request.tokens[:32]
    assert (stored.parent_block_hash, stored.block_size, stored.medium) == (None, 16, "GPU")
    assert (stored.session_id, stored.extra_keys) == ("s1", [None, None])
    serve(engine, other(120, 900))
    removed = [e for e in engine.pool.take_events() if isinstance(e, BlockRemoved)]
    assert [h for e in removed for h in e.block_hashes] == [request.contents[1], request.contents[0]]


def test_parent_hash_links_chunks():
    engine = make_engine(step=32)
    request = serve(engine, 70)
    stored = engine.pool.take_events()
    assert [e.parent_block_hash for e in stored] == [None, request.contents[1]]
    assert request.contents[1] == content_hash(request.contents[0], request.tokens[16:32])


def test_reset_only_when_nothing_runs():
    engine = make_engine()
    request = make_request(40, 5)
    engine.submit(request, 0.0)
    engine.schedule(0.0)
    assert not engine.reset_prefix_cache()
    engine.abort(request)
    assert engine.reset_prefix_cache()
    assert isinstance(engine.pool.take_events()[-1], AllBlocksCleared)
    assert serve(engine, 40).cached_tokens == 0


def test_a_pool_too_small_for_one_request_is_refused():
    with pytest.raises(UserError, match=r"needs 17 blocks.*--num-blocks is 16"):
        EngineShape(max_model_len_tokens=256, block_tokens=16, blocks=16)


def test_natural_end_min_tokens_and_ignore_eos():
    assert serve(make_engine(), 5, 50, natural_tokens=7).generated_tokens == 8  # with the end token
    assert serve(make_engine(), 5, 50, natural_tokens=7, min_tokens=20).generated_tokens == 21
    assert serve(make_engine(), 5, 50, natural_tokens=7, ignore_eos=True).generated_tokens == 50


@pytest.mark.parametrize(("keep", "text"), [(False, "one t"), (True, "one two")])
def test_stop_string_across_pieces(keep, text):
    watch = StopWatch(["wo", "never"], keep_stop=keep)
    shown = ""
    for piece in ("on", "e t", "w", "o three"):
        stop = watch.read(piece, may_stop=True)
        shown += watch.release(finished=stop is not None)
        if stop:
            break
    assert (shown, stop) == (text, "wo")


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=3), max_size=3), st.booleans(), st.data())
def test_stop_watch_shows_the_text_up_to_the_first_stop(text, stops, keep, data):
    watch, shown, stop, rest = StopWatch(stops, keep_stop=keep), "", None, text
    while rest and stop is None:
        cut = data.draw(st.integers(1, len(rest)))
        stop = watch.read(rest[:cut], may_stop=True)
        rest = rest[cut:]
        shown += watch.release(finished=stop is not None or not rest)
    hits = [(text.find(s) + len(s), s) for s in stops if s in text]
    if not hits:
        assert (shown, stop) == (text, None)
    else:
        assert stop in stops
        assert text.startswith(shown)
        assert not any(s in shown for s in stops) or keep


@given(st.text(max_size=200))
def test_pieces_cover_the_text_and_ids_stay_in_the_vocabulary(text):
    assert "".join(pieces(text)) == text
    assert all(0 <= t < VOCAB_TOKENS for t in tokenise(text))


def test_a_longer_conversation_keeps_the_tokens_of_the_shorter():
    turn = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 2+2?"}]
    prompt = chat_tokens(turn)
    said = list(itertools.islice(invented(3, prompt), 20))
    answer = {"role": "assistant", "content": "".join(p.text for p in said)}
    longer = chat_tokens([*turn, answer, {"role": "user", "content": "sure?"}])
    generated = [*prompt, *(p.token for p in said)]
    assert longer[: len(generated)] == generated


def test_a_scripted_tool_call_reads_back_as_generated():
    call = ScriptedCall(name="list_files", arguments={"path": "/tmp", "all": True})
    turn = [{"role": "user", "content": "files?"}]
    said = Script([ScriptLine(content="let me look", tool_calls=[call])]).next_reply("files?")
    function = {"name": call.name, "arguments": call.arguments_text}
    answer = {"role": "assistant", "content": "let me look", "tool_calls": [{"function": function}]}
    generated = [*chat_tokens(turn), *(p.token for p in said), EOS]
    assert chat_tokens([*turn, answer])[: len(generated)] == generated


def test_script_lines_are_used_up_in_order_and_by_match(tmp_path):
    path = tmp_path / "script.jsonl"
    path.write_text('{"match": "b", "content": "1"}\n\n{"content": "2"}\n{"match": "b", "content": "3"}\n')
    script = Script.read(path)
    said = [script.next_reply(text) for text in ("a", "b", "a", "b", "b")]
    assert ["".join(p.text for p in reply) if reply else None for reply in said] == [
        "2",
        "1",
        None,
        "3",
        None,
    ]


def test_a_broken_script_names_its_line(tmp_path):
    path = tmp_path / "script.jsonl"
    path.write_text('{"content": "fine"}\n{"contents": "typo"}\n')
    with pytest.raises(UserError, match=r"line 2.*contents"):
        Script.read(path)


operation = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 3), st.integers(1, 90), st.integers(1, 40)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("abort"), st.integers(0, 9)),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(operation, max_size=40), st.integers(9, 20), st.integers(1, 5), st.sampled_from([16, 64, 2048])
)
def test_the_pool_is_never_exceeded_and_everything_ends(operations, blocks, seqs, step_tokens):
    engine = make_engine(blocks=blocks, length=128, seqs=seqs, step=step_tokens)
    live, finished, mirror = [], set(), Counter()

    def step_once():
        step = engine.schedule(0.0)
        assert (step is None) == engine.is_idle
        if step is None:
            return
        assert len(step.chunks) <= seqs
        assert sum(chunk.tokens for chunk in step.chunks) <= step_tokens
        assert 0 <= engine.pool.free_blocks <= blocks - 1
        held = {b for r in engine.running for b in r.blocks}
        assert len(held) == blocks - 1 - engine.pool.free_blocks
        finished.update(o.request for o in engine.complete(step, 0.0) if o.finish)
        engine.pool.check()
        follow(engine.pool.take_events())

    def follow(events):
        for event in events:
            if isinstance(event, BlockStored):
                assert event.parent_block_hash is None or mirror[event.parent_block_hash] > 0
                mirror.update(event.block_hashes)
            else:
                mirror.subtract(event.block_hashes)  # vLLM reports each copy of a block

    for name, *values in operations:
        if name == "submit":
            family, tokens, more = values
            request = make_request(other(tokens, 100 + 1000 * family), min(more, 128 - tokens))
            engine.submit(request, 0.0)
            live.append(request)
        elif name == "step":
            for _ in range(values[0]):
                step_once()
        elif live:
            engine.abort(live[values[0] % len(live)])
    for _ in range(20_000):
        if engine.is_idle:
            break
        step_once()
    assert engine.is_idle
    assert engine.pool.usage == 0
    assert all(count >= 0 for count in mirror.values())
    assert {h for h, count in mirror.items() if count} == set(engine.pool._found)
    assert all(r.state is RequestState.FINISHED for r in live)
    assert engine.totals.prefix_hits_tokens <= engine.totals.prefix_queries_tokens


def test_what_waits_is_taken_in_by_priority_where_the_engine_is_started_so():
    for priority, order in ((False, [30, 10, 20]), (True, [10, 20, 30])):
        engine = Engine(EngineShape(max_num_seqs=1, priority=priority))
        for at, rank in enumerate([30, 10, 20]):
            request = make_request([16 + at] * 40, 1)
            request.priority = rank
            engine.submit(request, float(at))
        taken, now = [], 10.0
        while (step := engine.schedule(now)) is not None:
            now += step.duration_s
            taken += [output.request.priority for output in engine.complete(step, now)]
        assert taken == order


def test_a_conversation_that_ends_with_what_was_said_is_gone_on_with():
    turn = [{"role": "user", "content": "what is 2+2?"}]
    said = [piece.text for piece in itertools.islice(invented(3, chat_tokens(turn)), 3000)]
    assert len(set(said)) > 1000, "words do not come round"
    begun = {"role": "assistant", "content": "".join(said[:70])}
    rest = invented(3, chat_tokens([*turn, begun], goes_on=True), opens=False)
    assert [piece.text for piece in itertools.islice(rest, 100)] == said[70:170]


def test_of_a_script_the_rest_is_said():
    reply = ScriptLine(content="one two three").pieces()
    assert "".join(p.text for p in after(reply, tokenise("one two"))) == " three"
    assert after(reply, tokenise("one tw")) == reply, "not at a seam"
    assert after(reply, tokenise("one two three")) == []
