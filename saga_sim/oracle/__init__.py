"""How good could the cache have been? Recorded accesses replayed under eviction rules, and under oracles.

The definition, its limits and what was measured: docs/oracle.md.
"""

from saga_sim.oracle.accesses import Access, Recorder, Recording, Run
from saga_sim.oracle.belady import ORACLES, RULES, Comparison, compare
from saga_sim.oracle.bound import least_seconds
from saga_sim.oracle.brute import Goal, brute_force
from saga_sim.oracle.own import own_outcome
from saga_sim.oracle.reference import Timing, accesses_of
from saga_sim.oracle.replay import Outcome, replay_cache
from saga_sim.oracle.rules import Rule
from saga_sim.oracle.witness import Belady, Witness, belady

__all__ = [
    "ORACLES",
    "RULES",
    "Access",
    "Belady",
    "Comparison",
    "Goal",
    "Outcome",
    "Recorder",
    "Recording",
    "Rule",
    "Run",
    "Timing",
    "Witness",
    "accesses_of",
    "belady",
    "brute_force",
    "compare",
    "least_seconds",
    "own_outcome",
    "replay_cache",
]
