"""A decision in words: why it was made, and what would have been otherwise. Made when somebody asks, never before."""

from __future__ import annotations

from math import inf
from typing import assert_never

from saga_core.costs import CostTable
from saga_core.decisions import Decision, Verdict


def why(made: Decision) -> str:
    """Why it was decided so."""
    match made.verdict:
        case Verdict.HELD:
            return _held(made)
        case Verdict.LET_IN:
            return f"{_space(made)}{_after(made)}"
        case Verdict.RESUMED:
            return f"at home: {_space(made)}{_after(made)}"
        case Verdict.MOVED:
            return f"{made.rule}; {_space(made)}{_after(made)}" if made.room is not None else made.rule
        case Verdict.FORCED:
            return f"it had waited for {made.waited_s:,.0f} s, as long as anybody has to; {_space(made)}"
        case Verdict.PAUSED:
            return _paused(made)
        case Verdict.LOST:
            return made.rule
        case Verdict.PLACED:
            return made.rule if made.rule != "home" else f"home{_resident(made)}"
        case Verdict.MIGRATED:
            return f"{made.tokens:,} tokens of KV {made.rule}" if made.tokens else f"KV {made.rule}"
        case _:
            assert_never(made.verdict)


def otherwise(made: Decision, costs: CostTable, step_s: float) -> str:
    """What would have been otherwise, in seconds by the cost table. step_s: what a step takes; 0: not known."""
    match made.verdict:
        case Verdict.HELD if made.room is not None:
            total = made.need_tokens + made.cost_tokens
            least = "at least " if made.worker is None else ""  # in line: sticky's worker is no emptier
            return f"at once under sticky: live contexts would need {least}{_of(total, made.limit_tokens)}"
        case Verdict.PAUSED if made.need_tokens + made.cost_tokens <= made.share * made.limit_tokens:
            return f"coming back costs it at most {_seconds(_again_s(costs, made.tokens))}"
        case Verdict.PAUSED:
            again_s = _again_s(costs, made.tokens)
            return (
                f"all on {made.worker} would compute again what others evict; coming back costs it at most "
                f"{_seconds(again_s)}"
            )
        case Verdict.RESUMED:
            saved_s = _saved_s(made, costs)
            sign = ">" if saved_s > made.waited_s else "<"
            return f"re-prefill elsewhere {_seconds(saved_s)} {sign} its wait of {_seconds(made.waited_s)}"
        case Verdict.MIGRATED:
            return f"computed again there: {_seconds(_again_s(costs, made.tokens))}" if made.tokens else ""
        case Verdict.PLACED if made.resident_tokens:
            return _stayed(made, _saved_s(made, costs), made.waiting * step_s)
        case Verdict.PLACED | Verdict.MOVED if made.tokens:
            left = max(0, made.tokens - made.resident_tokens)
            return f"{left:,} tokens are computed again there: {_seconds(_again_s(costs, left))}"
        case _:
            return ""


def _held(made: Decision) -> str:
    if made.room is None:
        return made.rule or "no worker is ready"
    needs = f"needs {made.cost_tokens:,.0f} tokens, {_left(made)}"
    before = "many" if made.ahead is None else f"{made.ahead:,}"
    keys = f"{before} smaller key{'' if made.ahead == 1 else 's'} before it"
    return f"{needs}, but {keys}" if _space_tokens(made) >= made.cost_tokens else f"{needs}; {keys}"


def _space(made: Decision) -> str:
    """What it needs, and what there is."""
    if made.limit_tokens == inf:
        return f"{_left(made)}: no limit"
    if made.cost_tokens > _space_tokens(made):
        return f"needs {made.cost_tokens:,.0f} tokens, {made.room} was " + (
            "empty" if not made.need_tokens else f"full ({_of(made.need_tokens, made.limit_tokens)})"
        )
    return f"needs {made.cost_tokens:,.0f} tokens, {_left(made)}"


def _space_tokens(made: Decision) -> float:
    return made.share * made.limit_tokens - made.need_tokens


def _left(made: Decision) -> str:
    space = max(0.0, _space_tokens(made))
    if space == inf:
        return f"the memory of {made.room} is not known"
    return f"{made.room} has {_of(space, made.limit_tokens)} left below {made.share:g}"


def _of(part: float, whole: float) -> str:
    return f"{part:,.0f} of {whole:,.0f}" if whole < inf else f"{part:,.0f}"


def _after(made: Decision) -> str:
    return f", after {_seconds(made.waited_s)}" if made.waited_s > 0.0 else ""


def _paused(made: Decision) -> str:
    if made.need_tokens + made.cost_tokens <= made.share * made.limit_tokens:  # for somebody, not for space
        return f"{made.room} {made.rule}; largest key of {made.waiting} that compute nothing"
    before = _of(made.need_tokens + made.cost_tokens, made.limit_tokens)
    others = f"largest key of {made.waiting} that compute nothing" if made.waiting > 1 else "no other is idle"
    return f"{made.room} needs {before} tokens, {_of_share(made)}; {others}"


def _of_share(made: Decision) -> str:
    return f"above {made.share:g}; without it {made.need_tokens:,.0f}"


def _resident(made: Decision) -> str:
    if not made.tokens:
        return ""
    return f": {min(made.resident_tokens, made.tokens):,} of its {made.tokens:,} tokens are there"


def _stayed(made: Decision, saved_s: float, queue_s: float) -> str:
    elsewhere = f"re-prefill elsewhere {_seconds(saved_s)}"
    if not made.waiting:
        return f"{elsewhere}; nothing waits here"
    if not queue_s:
        return f"{elsewhere}; {made.waiting} wait here"
    sign = ">" if saved_s > queue_s else "<"
    return f"{elsewhere} {sign} queue {_seconds(queue_s)} ({made.waiting} wait here)"


def _saved_s(made: Decision, costs: CostTable) -> float:
    """What the worker that has its context saves it."""
    left = max(0, made.tokens - made.resident_tokens)
    return _again_s(costs, made.tokens) - costs.chunk_s(min(made.resident_tokens, made.tokens), left)


def _again_s(costs: CostTable, tokens: int) -> float:
    return costs.chunk_s(0, tokens)


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 1.0 else f"{value:,.1f} s"
