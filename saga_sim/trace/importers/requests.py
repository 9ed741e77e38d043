"""Requests of a foreign trace on their way to steps: the one shape that block-hash importers share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from saga_core.errors import UserError
from saga_sim.trace.importers.blocks import described, kept
from saga_sim.trace.records import MAX_STEP_TOKENS, Step, Tool

DECIMALS = 6


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One LLM call as recorded; times are seconds on the trace's own clock, None where unknown.

    `agent` names its session; `after` are the requests that must finish before it, `context` the
    one of them whose prompt it continues. `gap_s` is set only where the trace says it itself.
    """

    where: str
    prompt_tokens: int
    output_tokens: int
    ids: tuple[int, ...]
    start_s: float | None = None
    end_s: float | None = None
    ttft_s: float | None = None
    gap_s: float | None = None
    cached_tokens: int | None = None
    model: str | None = None
    agent: str = "main"
    after: list["Request"] = field(default_factory=list)
    context: "Request | None" = None
    tool: Tool | None = None

    def ended_before(self, other: "Request") -> bool:
        """Was it over when `other` started? True where nobody knows."""
        return self.end_s is None or other.start_s is None or self.end_s <= other.start_s


def check_counts(where: str, prompt_tokens: int, output_tokens: int, ids: int, block_size: int) -> None:
    """Raise UserError for counts that the format cannot hold or that contradict the block list."""
    for name, count in (("input", prompt_tokens), ("output", output_tokens)):
        if not 1 <= count <= MAX_STEP_TOKENS:
            raise UserError(f"{where}: {name} length {count} is not valid (valid: 1 to {MAX_STEP_TOKENS})")
    expected = -(-prompt_tokens // block_size)
    if ids != expected:
        raise UserError(
            f"{where}: {ids} block hashes for {prompt_tokens} tokens "
            f"(valid: {expected}, one per {block_size} tokens begun)"
        )


def steps(requests: Sequence[Request], block_size: int, origin_s: float | None) -> tuple[Step, ...]:
    """The steps of one workflow; every request stands behind all that it comes `after`."""
    number = {id(request): index for index, request in enumerate(requests)}
    return tuple(_step(request, number, block_size, origin_s) for request in requests)


def _step(request: Request, number: dict[int, int], block_size: int, origin_s: float | None) -> Step:
    context = request.context
    keep = 0
    if context is not None:
        told = (request.prompt_tokens, request.ids, context.prompt_tokens, context.ids)
        keep = kept(*told, block_size)
    if keep == 0:  # nothing in common: a new context
        context = None
    ts_s, llm_s = _since(request.start_s, origin_s), _lasted(request, origin_s)
    return Step(
        id=number[id(request)],
        ctx_parent=None if context is None else number[id(context)],
        parents=tuple(sorted({number[id(parent)] for parent in request.after})),
        agent=request.agent,
        prompt_tokens=request.prompt_tokens,
        new_prompt_tokens=request.prompt_tokens - keep * block_size,
        output_tokens=request.output_tokens,
        model=request.model,
        cached_tokens=None
        if request.cached_tokens is None
        else min(request.cached_tokens, request.prompt_tokens),
        ts_s=ts_s,
        llm_s=llm_s,
        ttft_s=request.ttft_s,
        gap_s=_gap(request, origin_s),
        tool=request.tool,
        blocks=described(request.ids, keep),
    )


def _since(at_s: float | None, origin_s: float | None) -> float | None:
    return None if at_s is None or origin_s is None else round(max(0.0, at_s - origin_s), DECIMALS)


def _lasted(request: Request, origin_s: float | None) -> float | None:
    start, end = _since(request.start_s, origin_s), _since(request.end_s, origin_s)
    return None if start is None or end is None else round(max(0.0, end - start), DECIMALS)


def _gap(request: Request, origin_s: float | None) -> float | None:
    """From the latest end of its parents to its start; a root starts at `ts_s`, so its gap is none."""
    if request.gap_s is not None:
        return round(request.gap_s, DECIMALS)
    if not request.after:
        return 0.0
    start = _since(request.start_s, origin_s)
    ends = [_since(parent.end_s, origin_s) for parent in request.after]
    known = [end for end in ends if end is not None]
    if start is None or len(known) < len(ends):
        return None
    return round(max(0.0, start - max(known)), DECIMALS)


def ordered(requests: Sequence[Request], by: Callable[[Request], float]) -> list[Request]:
    """Requests in an order where each follows all that it comes after, else by `by`; ties keep file order.

    Raises UserError for requests that wait for each other.
    """
    import heapq

    place = {id(request): index for index, request in enumerate(requests)}
    waits = {id(request): len({id(p) for p in request.after}) for request in requests}
    followers: dict[int, list[Request]] = {}
    for request in requests:
        for parent in {id(p): p for p in request.after}.values():
            followers.setdefault(id(parent), []).append(request)
    ready = [(by(r), place[id(r)], r) for r in requests if waits[id(r)] == 0]
    heapq.heapify(ready)
    done: list[Request] = []
    while ready:
        _, _, request = heapq.heappop(ready)
        done.append(request)
        for follower in followers.get(id(request), ()):
            waits[id(follower)] -= 1
            if waits[id(follower)] == 0:
                heapq.heappush(ready, (by(follower), place[id(follower)], follower))
    if len(done) < len(requests):
        stuck = next(r for r in requests if waits[id(r)])
        raise UserError(f"{stuck.where}: waits for itself through other requests (valid: no circles)")
    return done
