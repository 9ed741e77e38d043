"""Profiles: what a cluster runs by, each a name for one choice of every policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from saga_core.policy import ordering
from saga_core.policy.admission import NEVER, Admission
from saga_core.policy.keeping import Retention, by_density, by_steps, by_ttl, by_wa_lru
from saga_core.policy.modes import BALANCED, in_mode
from saga_core.policy.ordering import Key
from saga_core.policy.placement import Place, affinity, least_loaded, prefix_aware, round_robin, sticky


@dataclass(frozen=True, slots=True)
class Profile:
    """One choice of every policy."""

    what: str
    """In a line, with its source."""
    place: Place
    """Where a step goes; with a gate, only where it stands open."""
    admission: Admission | None = None
    """Constants of the gate; None: every step goes to its worker as it comes."""
    key: Key = ordering.arrival
    victim: Key | None = None
    """Of whom the largest value is paused first; None: that of `key`."""
    due: Key | None = None
    """Of those overdue, the smallest is waited for first; None: that of `key`. Overdue is, where this is the virtual
    finish, whom a fair share would have finished, and else who has waited for `patience_s`."""
    engine_order: bool = False
    """Whether engines serve by the key too (vLLM --scheduling-policy priority) and not as steps come."""
    epochs: bool = False
    """Whether the paper's coordinator works: tenants' shares as priorities, and stealing (`saga_core.coordinator`)."""
    retention: Retention | None = None
    """What KV of sessions in a tool is worth to engines that take it; None: least recently used goes first."""
    migrates: bool = False
    """Whether a session that goes elsewhere takes its KV along where that is cheaper (`policy.migration`)."""


THUNDER = Admission(
    low=0.8, high=0.95, reserve_tokens=100, reserve_parts=1, half_life_s=1.0, adaptive=False, patience_s=NEVER
)
"""ThunderAgent (arXiv 2602.13692). Its repository reserves 100 tokens per program, halves what waits for its tool each
second, pauses the smallest first, resumes the smallest first, the paused before the new, and all after 1800 s.

It has no gap between pausing and resuming and pauses by undecayed tokens; on our simulator that is half as fast as
pausing at 0.95 and resuming at 0.8 (the policy study's figures), so the latter is what we compare with: docs/adr/0005."""

PROFILES: Mapping[str, Profile] = {
    "saga": Profile(
        "ours: working-set admission, least work left and newest first, whoever is overdue before all",
        sticky,
        Admission(),
        ordering.least_left_newest_first,
        victim=ordering.left,
        due=ordering.virtual_finish,
        retention=by_density,
        migrates=True,
    ),
    "saga-blind": Profile(
        "the same, newest first, nothing learned of work",
        sticky,
        Admission(),
        ordering.newest,
        due=ordering.arrival,
        retention=by_density,
        migrates=True,
    ),
    "saga-paper": Profile(
        "the paper: home below load 0.8, stealing, Agent Fair Share in engines, WA-LRU (arXiv 2605.00528)",
        affinity,
        engine_order=True,
        epochs=True,
        retention=by_wa_lru,
    ),
    "round-robin": Profile("each step to the next worker", round_robin),
    "least-loaded": Profile("each step to the least loaded worker", least_loaded),
    "sticky": Profile("each workflow to one worker, by consistent hashing", sticky),
    "prefix-aware": Profile(
        "where most of the context is, else least loaded (SGLang's router)", prefix_aware
    ),
    "las": Profile(
        "sticky; engines serve the workflow with the least service first (Autellix, arXiv 2502.13965)",
        sticky,
        key=ordering.least_attained,
        engine_order=True,
    ),
    "program-fcfs": Profile(
        "sticky; engines serve the workflow that came first",
        sticky,
        key=ordering.arrival,
        engine_order=True,
    ),
    "ttl": Profile(
        "program-fcfs; KV kept for the TTL of its tool (Continuum, arXiv 2511.02230)",
        sticky,
        key=ordering.arrival,
        engine_order=True,
        retention=by_ttl,
    ),
    "kvflow": Profile(
        "sticky; KV kept by steps to execution (KVFlow, arXiv 2507.07400)",
        sticky,
        retention=by_steps,
    ),
    "thunder": Profile(
        "pause and resume by working set, smallest first (ThunderAgent, arXiv 2602.13692)",
        sticky,
        THUNDER,
        ordering.smallest,
        victim=ordering.smallest_last,
    ),
}


OURS = frozenset({"saga", "saga-blind"})
"""Whose constants of admission the settings and the mode say."""


def profile_of(name: str, admission: Admission, mode: str = BALANCED) -> Profile:
    """The profile of that name; ours takes its constants of admission from the settings and the mode."""
    found = PROFILES[name]
    return replace(found, admission=in_mode(mode, admission)) if name in OURS else found
