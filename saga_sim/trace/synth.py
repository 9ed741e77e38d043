"""Seeded synthetic workloads in the trace format: same preset, count and seed, same bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from math import log
from random import Random

from saga_core.errors import UserError, choose
from saga_sim.trace.profiles import PRESETS, TOOL_PERCENTILES_S, Profile
from saga_sim.trace.quantiles import tool_latency
from saga_sim.trace.records import Step, Tool, Workflow

SOURCE = "saga-synth"
MAX_WORKFLOWS = 100_000
# After a compaction the agent goes on with its system prompt and a summary of this many tokens,
# about what Claude Code's recordings show relative to their context (a tenth).
SUMMARY_SHARE = 0.1
BATCH_ITEMS = 50
"""A benchmark runs its items in batches."""


def synthesise(preset: str, workflows: int, seed: int) -> list[Workflow]:
    """`workflows` workflows of a preset, arriving as one Poisson stream. Raises UserError for an unknown preset."""
    if preset not in PRESETS:
        raise choose("preset", preset, list(PRESETS))
    if not 1 <= workflows <= MAX_WORKFLOWS:
        raise UserError(f"cannot make {workflows} workflows (valid: 1 to {MAX_WORKFLOWS})")
    dealt = [profile for profile, weight in PRESETS[preset] for _ in range(weight)]
    arrivals = _poisson(dealt[0].arrivals_per_s, Random(f"{SOURCE}/{preset}/{seed}/arrivals"))  # noqa: S311 - a workload
    items = _items(dealt[0], f"{SOURCE}/{preset}/{seed}")
    return [
        _workflow(dealt[index % len(dealt)], preset, seed, index, next(arrivals), next(items))
        for index in range(workflows)
    ]


def _poisson(rate_per_s: float, random: Random) -> Iterator[float]:
    now_s = 0.0
    while True:
        yield round(now_s, 3)
        now_s += -log(1.0 - random.random()) / rate_per_s


def _items(profile: Profile, name: str) -> Iterator[int | None]:
    """Which item each workflow works on; None: its own. All runs of an item come within one batch of items."""
    if profile.reruns is None:
        yield from repeat(None)
        return
    for batch in count():
        items = [*range(batch * BATCH_ITEMS, (batch + 1) * BATCH_ITEMS)] * profile.reruns.runs
        Random(f"{name}/batch {batch}").shuffle(items)  # noqa: S311 - a workload
        yield from items


def _workflow(
    profile: Profile, preset: str, seed: int, index: int, arrival_s: float, item: int | None
) -> Workflow:
    random = Random(f"{SOURCE}/{preset}/{seed}/{index}")  # noqa: S311 - a workload
    shared = None if item is None else Random(f"{SOURCE}/{preset}/{seed}/item {item}")  # noqa: S311 - a workload
    return Workflow(
        version=1,
        workflow_id=f"{preset}/{seed}/{index:04d}",
        source=SOURCE,
        workload=profile.workload,
        harness=profile.name,
        tenant=profile.tenant,
        arrival_s=arrival_s,
        block_size=None,
        hash_scope=None,
        tokens="estimated",
        timing="partial",
        steps=tuple(_steps(profile, random, shared)),
        instance=None if item is None else f"item-{item:04d}",
    )


@dataclass(slots=True)
class _Context:
    """The growing prompt of the one agent of a workflow."""

    prompt: int
    new: int
    parent: int | None = None
    compacted: bool = False


def _steps(profile: Profile, random: Random, shared: Random | None) -> Iterator[Step]:
    """shared: of the item, where others work on it too."""
    steps = _step_count(profile, random, shared)
    opening = profile.system_tokens + _first(profile, shared or random)
    common = profile.system_tokens if profile.shares_system else 0
    context = _Context(opening, opening)
    gap_s = 0.0
    for index in range(steps):
        output = random_int(profile.output_tokens.low, profile.output_tokens.high, random)
        tool = _tool(profile, random) if index < steps - 1 else None
        yield Step(
            id=index,
            ctx_parent=context.parent,
            parents=(index - 1,) if index else (),
            agent="main",
            prompt_tokens=context.prompt,
            new_prompt_tokens=context.new,
            output_tokens=output,
            compacted=context.compacted,
            shared_prefix_group=profile.name if common else None,
            shared_prefix_tokens=common or None,
            ts_s=None if index else 0.0,
            gap_s=gap_s,
            tool=tool,
        )
        gap_s = tool.latency_s or 0.0 if tool else 0.0
        context = _next_context(profile, context, index, output, random)


def _first(profile: Profile, random: Random) -> int:
    """The opening prompt without the system prompt."""
    whole = random_int(profile.first_tokens.low, profile.first_tokens.high, random)
    return max(1, whole - profile.system_tokens)


def _next_context(profile: Profile, now: _Context, index: int, output: int, random: Random) -> _Context:
    if profile.context == "replace":  # only the system prompt stays; the page is another one
        new = _first(profile, random)
        return _Context(profile.system_tokens + new, new, index)
    if profile.growth_tokens is not None:
        return _grown(
            now, index, random_int(profile.growth_tokens.low, profile.growth_tokens.high, random), profile
        )
    observed = _observation(profile, random)
    grown = now.prompt + output + observed
    if grown + profile.output_tokens.high <= profile.max_context_tokens:
        return _Context(grown, output + observed, index)
    fresh = profile.system_tokens + int(SUMMARY_SHARE * profile.max_context_tokens) + observed
    return _Context(fresh, fresh, None, compacted=True)


def _grown(now: _Context, index: int, tokens: int, profile: Profile) -> _Context:
    """Longer by `tokens`; at the limit as long as before, but for one other token at its end."""
    prompt = min(now.prompt + tokens, profile.max_context_tokens)
    return _Context(prompt, max(1, prompt - now.prompt), index)


def _step_count(profile: Profile, random: Random, shared: Random | None) -> int:
    scale = profile.mean_steps / profile.steps_shape
    if profile.reruns is None or shared is None:
        drawn = random.gammavariate(profile.steps_shape, scale)
    else:
        rho = profile.reruns.correlation
        normal = rho**0.5 * shared.gauss() + (1 - rho) ** 0.5 * random.gauss()
        drawn = scale * _gamma_at(profile.steps_shape, normal)
    return min(max(round(drawn), profile.min_steps), profile.max_steps)


def _gamma_at(shape: float, normal: float) -> float:
    """The gamma variate of scale 1 at the rank of a normal one (Wilson and Hilferty, 1931; within 1 % from shape 2 on)."""
    return float(shape * max(0.0, 1 - 1 / (9 * shape) + normal / (3 * shape**0.5)) ** 3)


def _observation(profile: Profile, random: Random) -> int:
    """Tokens that a tool returns: log-normal with the profile's mean."""
    mu = log(profile.observation_mean_tokens) - profile.observation_sigma**2 / 2
    return min(
        max(1, round(random.lognormvariate(mu, profile.observation_sigma))), profile.max_observation_tokens
    )


def _tool(profile: Profile, random: Random) -> Tool:
    name = _weighted(profile.tools, random)
    latency_s = min(_latency_s(profile, name, random), profile.max_gap_s)
    return Tool(kind="tool", name=name, latency_s=round(latency_s, 6))


def _latency_s(profile: Profile, tool: str, random: Random) -> float:
    if profile.gap_s is not None:
        return profile.gap_s.median * random.lognormvariate(0.0, profile.gap_s.sigma)
    return tool_latency(TOOL_PERCENTILES_S[tool], random.random())


def _weighted(weights: dict[str, float], random: Random) -> str:
    left = random.random() * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(weights))


def random_int(low: int, high: int, random: Random) -> int:
    """A whole number in low..high from one `random()`, whose row is the same in every Python version."""
    return low + int(random.random() * (high - low + 1))


def names() -> Sequence[str]:
    """The presets, for help texts."""
    return tuple(PRESETS)
