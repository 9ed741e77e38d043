"""How much work a worker's memory takes at once, and when the limit moves. Numbers in, numbers out.

Memory that nobody limits is the one thing that ruins agents: past the point where the contexts of all live sessions
fit, every call recomputes what another one has just evicted (policy study, sections 0 and 2).
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Constants of admission, with their sources (policy study, section 5, unless said otherwise)."""

    low: float = 0.9
    """Share of the limit up to which sessions are let in and resumed. 0.85 to 0.95 differ by 3 % or less."""
    high: float = 1.0
    """Share of the limit above which sessions are paused. Without the gap to `low`: 0.38 of the speed."""
    reserve_tokens: int = 1000
    """Growth of a session that is counted before it happens. None: 0.85 of the speed; 500 to 2000 are alike."""
    reserve_parts: int = 64
    """No session reserves more than this part of the memory: on a CPU worker's 32,768 tokens 500 are 6 % faster than
    1000 (workload live-gate in the simulator, 8 seeds)."""
    half_life_s: float = 30.0
    """In which what a session that waits for its tool counts for halves; 0: it counts fully, as in the study.

    Sessions that come back late, or never (sub-agents that are done), would hold room that nobody uses. Counting them
    fully: 0.65 of the speed on entire-cli, 0.9 on swe-like and kv-cache-tester; 10 s: 0.95 on iso-bench."""
    adaptive: bool = True
    """Whether the limit follows the worker's idleness; otherwise it is its memory."""
    window_s: float = 20.0
    """How long a worker is watched before its limit moves; 5 and 60 do as well."""
    idle_share: float = 0.85
    """Below this busy share the limit rises, if somebody waits and the limit is what holds them."""
    busy_share: float = 0.95
    """Above this busy share the limit falls, if what the worker does is regeneration."""
    again_share: float = 0.15
    """Of the time spent on regeneration, above which that is so."""
    rise: float = 0.15
    fall: float = 0.85
    most: float = 4.0
    """Multiples of the memory that the limit goes up to. Start at 1: a busy worker is never over-committed."""
    held_share: float = 0.8
    """Of the limit in use, above which it is the limit that holds the waiting."""
    rehome_share: float = 0.5
    """A paused session with less of its context than this at home may be resumed elsewhere."""
    grace_s: float = 10.0
    """Virtual seconds after which whoever a fair share would have finished is waited for. 0.001 costs iso-bench 2 %,
    10 half a percent; without, entire-cli has workflows of seconds that wait for half an hour (docs/fairness.md)."""
    patience_s: float = 1800.0
    """After which, without estimates, whoever waits is waited for: later sessions are paused to make room for it (docs/fairness.md).
    ThunderAgent's and Dynamo's limit, after which they let in whoever it is."""
    force_s: float = 5400.0
    """Whoever has waited for this long is let in, whatever is full: for what no rule foresaw. On swe-like at pressure 1.5
    many wait for longer than 1800 s; letting them in then cost 2 % of the mean completion time, as memory was short."""

    def reserve(self, capacity_tokens: int, expected_tokens: int = 0) -> int:
        """Growth in tokens that is counted of each session; of a small memory not more than it can spare.

        expected_tokens: that its client says its step will write. Nobody reserves more by saying much than memory allows.
        """
        return min(max(self.reserve_tokens, expected_tokens), capacity_tokens // self.reserve_parts)

    def limit(self, factor: float, capacity_tokens: int, share: float) -> float:
        """Tokens that sessions may need; no limit where the memory is not known."""
        return share * factor * capacity_tokens if capacity_tokens > 0 else NEVER

    def next_factor(self, factor: float, *, busy: float, again: float, held: bool) -> float:
        """The factor on the memory after a window in which the worker was `busy` for that share of the time.

        again: regeneration seconds per second. held: somebody waits, and for this worker's limit.
        """
        if not self.adaptive:
            return factor
        if busy > self.busy_share and again > self.again_share:
            return max(1.0, self.fall * factor)
        if busy < self.idle_share and held:
            return min(self.most, factor + self.rise)
        return factor
