"""The simulator's engine beside the block-exact double: the same requests at the same times, compared step by step."""

from __future__ import annotations

from dataclasses import dataclass

from saga_core.costs import CostTable
from saga_fake.costs import CostTable as FakeCosts
from saga_fake.engine import Engine as FakeEngine
from saga_fake.engine import EngineShape
from saga_fake.reply import Piece
from saga_fake.requests import EngineRequest
from saga_sim.costs import Shape
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.streams import Stream

COSTS = {
    "step_s": 0.01,
    "prefill_token_s": 1e-3,
    "attention_token2_s": 1e-6,
    "decode_s": 2e-3,
    "context_token_s": 1e-5,
}


class Names:
    """Token ids: one per stream and position, equal where streams are equal."""

    def __init__(self) -> None:
        self.ids: dict[Stream, int] = {}

    def tokens(self, stream: Stream, count: int, size: int) -> list[int]:
        owners = {b: s for s, low, high in stream.pieces(count // size + 1) for b in range(low, high)}
        return [self.token(owners[at // size], at) for at in range(count)]

    def token(self, stream: Stream, at: int) -> int:
        return (self.ids.setdefault(stream, len(self.ids)) << 16) + at


@dataclass(frozen=True)
class Call:
    """One call to make of both engines."""

    at: float
    stream: Stream
    prompt: int
    output: int


@dataclass
class Told:
    """What an engine told of a call."""

    cached: int | None = None
    first_at: float | None = None
    done_at: float | None = None
    preemptions: int = 0


def shape(*, blocks: int, block: int, seqs: int, step: int) -> Shape:
    return Shape(
        block_tokens=block,
        blocks=blocks,
        max_model_len_tokens=blocks * block,
        max_num_seqs=seqs,
        step_tokens=step,
    )


def simulate(
    limits: Shape, calls: list[Call], *, costs: CostTable | None = None, check: bool = True
) -> tuple[list[Told], Engine]:
    """Play `calls` through the simulator's engine."""
    told = [Told() for _ in calls]

    def done(request: Request, at: float) -> None:
        told[request.key] = Told(request.cached_tokens, request.first_at, at, request.preemptions)

    engine = Engine(limits, costs or CostTable(**COSTS), done)
    pending = sorted(range(len(calls)), key=lambda i: calls[i].at)
    while pending or engine.next_at < NEVER:
        if pending and calls[pending[0]].at < engine.next_at:
            number = pending.pop(0)
            call = calls[number]
            engine.submit(
                Request(key=number, stream=call.stream, prompt_tokens=call.prompt, output_tokens=call.output),
                call.at,
            )
        else:
            engine.advance(engine.next_at)
        if check:
            engine.check()
    return told, engine


def exact(limits: Shape, calls: list[Call], names: Names) -> tuple[list[Told], FakeEngine]:
    """Play `calls` through the block-exact double."""
    engine = FakeEngine(
        EngineShape(
            max_model_len_tokens=limits.max_model_len_tokens,
            block_tokens=limits.block_tokens,
            blocks=limits.blocks + 1,
            max_num_seqs=limits.max_num_seqs,
            step_tokens=limits.step_tokens,
        ),
        FakeCosts(**COSTS),
    )
    told = [Told() for _ in calls]
    pending = sorted(range(len(calls)), key=lambda i: calls[i].at)
    now = 0.0
    while True:
        while pending and calls[pending[0]].at < now:
            _submit(engine, names, calls, pending.pop(0))
        step = engine.schedule(now)
        if step is None:
            if not pending:
                return told, engine
            now = calls[pending[0]].at
            _submit(engine, names, calls, pending.pop(0))
            continue
        end = now + step.duration_s
        while pending and calls[pending[0]].at < end:
            _submit(engine, names, calls, pending.pop(0))
        now = end
        for output in engine.complete(step, now):
            if output.finish is not None:
                request = output.request
                told[int(request.id)] = Told(
                    request.cached_tokens, request.first_token_s, now, request.preemptions
                )


def _submit(engine: FakeEngine, names: Names, calls: list[Call], number: int) -> None:
    call = calls[number]
    size = engine.shape.block_tokens
    whole = names.tokens(call.stream, call.prompt + call.output, size)
    engine.submit(
        EngineRequest(
            id=str(number),
            tokens=whole[: call.prompt],
            reply=iter([Piece(token) for token in whole[call.prompt :]]),
            max_tokens=call.output,
            ignore_eos=True,
        ),
        call.at,
    )


def queue_of(engine: Engine, names: Names) -> list[int]:
    """First token of each cached free block, the next to be evicted first."""
    size = engine.shape.block_tokens
    return [
        names.token(span.stream, block * size)
        for span in engine.cache.queue()
        for block in range(span.high - 1, span.low - 1, -1)
    ]


def queue_of_exact(engine: FakeEngine, first: dict[int, int]) -> list[int]:
    """The same of the double; `first` names a content by its first token."""
    pool = engine.pool
    return [first[c] for b in pool.order if (c := pool._blocks[b].content) is not None]


def contents(names: Names, streams: list[Stream], size: int, blocks: int) -> dict[int, int]:
    """Content hash to first token, for every block of every stream."""
    from saga_fake.engine import content_hash

    found: dict[int, int] = {}
    for stream in streams:
        tokens = names.tokens(stream, blocks * size, size)
        parent = None
        for start in range(0, len(tokens), size):
            parent = content_hash(parent, tokens[start : start + size])
            found[parent] = tokens[start]
    return found
