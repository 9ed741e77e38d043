"""The named evaluations: which sets, loads, twists and profiles each of them runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from saga_core.errors import choose
from saga_core.policy.admission import Admission
from saga_sim.evaluation.plan import MIX, WORKERS, Grid, Load, Suite
from saga_sim.evaluation.sets import AGAIN, OWN
from saga_sim.evaluation.variants import TAKEN_AWAY

PEAK_SHARES = (0.5, 0.8, 0.9, 0.97, 1.1)
OVERLOADS = (1.0, 1.5, 2.0, 4.0)
CLIFF, BELOW_CLIFF, WEB_OVERLOAD = 1.5, 0.3, 0.5
"""WebArena-like work is bound by compute long before memory: the study ran it at 0.5, it seems with prompts of which
workflows share nothing (`web-own`)."""
SHORT, LONG = ("swe", "iso"), ("entire", "kvct")
"""Workflows of minutes and of hours. In overload short ones need many: the backlog must outgrow the pool first. The geomean
of `saga-blind` against `sticky` on swe at pressure 1.5 was 1.4 with 160 workflows, 3.2 with 500, 4.3 with 1,500."""
CHAT = 3000
"""tau-bench workflows last half a minute: 600 of them were over before they filled a quarter of the engines' time."""
STICKY, THUNDER, BLIND, LEARNED, PERFECT = "sticky", "thunder", "saga-blind", "saga", "saga+declared"
HOST = "+host~2"
"""Host memory of twice the pool behind every worker."""
BELOW = (STICKY, THUNDER, BLIND, LEARNED)
"""Below the cliff all are alike; these have targets there."""
LRU = f"{LEARNED}+lru"
"""Ours, with engines that forget what was used least recently."""
HASTY = f"{LEARNED}+mode=throughput"
OURS = (LRU, HASTY)
MAIN = (STICKY, THUNDER, "ttl", "saga-paper", BLIND, LEARNED, PERFECT)
"""Those with targets, and what they are held against."""


def _constants() -> Iterator[str]:
    """Each constant of admission at half and at twice its value; shares near 1 by their distance to it."""
    usual = Admission()
    for field in fields(Admission):
        value = getattr(usual, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float) or field.name == "high":
            continue
        near_one = 0.5 < value < 1
        found = (1 - 2 * (1 - value), 1 - (1 - value) / 2) if near_one else (value / 2, value * 2)
        yield from (f"{LEARNED}+{field.name}={type(value)(round(one, 4)):g}" for one in found)


ABLATIONS = tuple(f"{LEARNED}+{name}" for name in (*TAKEN_AWAY, "mode=latency", "mode=throughput"))
SENSITIVITY = tuple(_constants())


def _pressure(
    works: tuple[str, ...],
    *at: float,
    per_worker: int,
    workers: tuple[int, ...] = (WORKERS,),
    profiles: tuple[str, ...] | None = None,
    twists: tuple[str, ...] = ("",),
) -> Grid:
    return Grid(
        works=works, load=Load.PRESSURE, levels=at, workers=workers, per_worker=per_worker, profiles=profiles, twists=twists
    )  # fmt: skip


def _chat(*at: float, least: int = CHAT, profiles: tuple[str, ...] | None = None) -> Grid:
    return Grid(
        works=("chat",), load=Load.PRESSURE, levels=at, workers=(WORKERS,), per_worker=0, least=least, profiles=profiles
    )  # fmt: skip


def _mix(at: tuple[float, ...], per_worker: int, profiles: tuple[str, ...] | None = None) -> Grid:
    return Grid(
        works=(MIX,), load=Load.PEAK, levels=at, workers=(WORKERS,), per_worker=per_worker, profiles=profiles
    )


def _loop(works: tuple[str, ...], *at_once: float, per_worker: int) -> Grid:
    """Closed loops: so many workflows at a time on all workers together."""
    return Grid(
        works=works,
        load=Load.AT_ONCE,
        levels=at_once,
        workers=(WORKERS,),
        per_worker=per_worker,
        profiles=MAIN,
    )


def _twisted(profiles: tuple[str, ...], *twists: str, works: tuple[str, ...], per_worker: int) -> Grid:
    return _pressure(works, CLIFF, per_worker=per_worker, profiles=profiles, twists=twists)


HOSTED = tuple(name + HOST for name in (STICKY, BLIND, LEARNED))
SHIFTS = (
    _twisted((STICKY, THUNDER, BLIND, LEARNED, PERFECT), "slow~10", works=(*SHORT, *LONG), per_worker=100),
    _twisted((STICKY, THUNDER, BLIND, LEARNED, PERFECT), "then~iso", works=("swe",), per_worker=100),
    _twisted((STICKY, THUNDER, BLIND, LEARNED, PERFECT), "then~kvct", works=("entire",), per_worker=100),
)
VARIANCE = _twisted(
    (STICKY, THUNDER, BLIND, LEARNED), "cv~0.5", "cv~1", "cv~1.5", "cv~2", "cv~3", works=("swe", "iso"), per_worker=100
)  # fmt: skip
SEEN = (STICKY, THUNDER, "saga-paper", BLIND, LEARNED, PERFECT)
LOADS = (
    _pressure(SHORT, 0.5, *OVERLOADS, per_worker=200, profiles=SEEN),
    _pressure(LONG, 0.5, *OVERLOADS, per_worker=50, profiles=SEEN),
    _mix((0.5, 1.1), per_worker=150, profiles=SEEN),
)
SIZED = (STICKY, THUNDER, BLIND, LEARNED)
SIZES = (
    _pressure(SHORT, CLIFF, per_worker=50, workers=(1, 4, 16, 64), profiles=SIZED),
    _pressure(LONG, CLIFF, per_worker=15, workers=(4, 16, 64, 256), profiles=SIZED),
)
"""4 to 256 GPUs: the 70B worker takes four of them, the 8B worker one. As many workflows for each worker at every size:
figures of different sizes may be compared with each other, and with nothing else."""
LOOPS = (
    _loop(SHORT, 16, 32, 64, 96, 160, 320, per_worker=200),
    _loop(LONG, 8, 16, 32, 64, 128, per_worker=75),
)
AGAINS = (
    _pressure((AGAIN, "iso"), CLIFF, per_worker=200, profiles=(STICKY, LEARNED, f"{LEARNED}+instance", PERFECT)),
    Grid(
        works=("chat",), load=Load.PRESSURE, levels=(CLIFF,), workers=(WORKERS,), per_worker=0, least=CHAT,
        profiles=(STICKY, LEARNED, f"{LEARNED}+instance", PERFECT),
    ),
)  # fmt: skip

SUITES = {
    "quick": Suite(
        what="two sets at two pressures with one seed: a look, no evidence",
        grids=(
            _pressure(SHORT, BELOW_CLIFF, per_worker=40, profiles=MAIN),
            _pressure(SHORT, CLIFF, per_worker=75, profiles=MAIN),
        ),
        seeds=1,
    ),
    "standard": Suite(
        what="all that has a target, three seeds",
        grids=(
            _pressure(SHORT, CLIFF, per_worker=200, profiles=(*MAIN, *OURS)),
            _pressure(("entire",), CLIFF, per_worker=50, profiles=(*MAIN, *OURS)),
            _pressure(("kvct",), CLIFF, per_worker=50, profiles=(*MAIN, *OURS, *HOSTED)),
            _pressure(("web", OWN), WEB_OVERLOAD, per_worker=300, profiles=MAIN),
            _pressure((*SHORT, "web"), BELOW_CLIFF, per_worker=50, profiles=BELOW),
            _pressure(LONG, BELOW_CLIFF, per_worker=30, profiles=BELOW),
            _chat(BELOW_CLIFF, least=1000, profiles=BELOW),
            _mix((0.8, 0.9, 0.97), per_worker=150, profiles=(STICKY, THUNDER, BLIND, LEARNED)),
        ),
        seeds=3,
    ),
    "loads": Suite(
        what="the pressures and shares of the peak that have no target", grids=LOADS, seeds=1, judged=False
    ),
    "sizes": Suite(what="clusters of 4 to 256 GPUs", grids=SIZES, seeds=1, judged=False),
    "ablation": Suite(
        what="ours with one mechanism taken away, or one constant at half and at twice its value",
        grids=(
            _pressure(SHORT, CLIFF, per_worker=100, profiles=(LEARNED, STICKY, *ABLATIONS, *SENSITIVITY)),
            _pressure(LONG, CLIFF, per_worker=25, profiles=(LEARNED, STICKY, *ABLATIONS, *SENSITIVITY)),
        ),
        seeds=1,
        baselines=(LEARNED, STICKY),
        judged=False,
    ),
    "shift": Suite(
        what="other tools or other agents from the middle on", grids=SHIFTS, seeds=3, judged=False
    ),
    "variance": Suite(
        what="tools whose times spread less and more", grids=(VARIANCE,), seeds=3, judged=False
    ),
    "throughput": Suite(
        what="closed loops: completion time against throughput", grids=LOOPS, seeds=2, judged=False
    ),
    "instance": Suite(
        what="items that are run again, named and not",
        grids=AGAINS,
        seeds=3,
        baselines=(LEARNED, STICKY, PERFECT),
        judged=False,
    ),
    "full": Suite(
        what="every set, pressure, share of the peak, twist and cluster size, five seeds; a day",
        grids=(
            _pressure((*SHORT, *LONG, "web"), 0.1, BELOW_CLIFF, per_worker=75),
            _pressure((*SHORT, "web"), 0.5, *OVERLOADS, per_worker=500),
            _pressure(LONG, 0.5, *OVERLOADS, per_worker=75),
            _chat(BELOW_CLIFF, 0.5, *OVERLOADS),
            _mix(PEAK_SHARES, per_worker=300),
            _pressure((*SHORT, *LONG), CLIFF, per_worker=75, profiles=OURS),
            _pressure(("kvct",), CLIFF, per_worker=75, profiles=HOSTED),
            *SHIFTS,
            VARIANCE,
            *LOOPS,
            *AGAINS,
            # 4 to 256 GPUs: the 70B worker takes four of them, the 8B worker one.
            _pressure(SHORT, CLIFF, per_worker=200, workers=(1, 16, 64)),
            _pressure(LONG, CLIFF, per_worker=75, workers=(16, 64, 256)),
        ),
        seeds=5,
    ),
}


def suite(name: str) -> Suite:
    """The suite of that name. Raises UserError with the valid ones."""
    if name not in SUITES:
        raise choose("suite", name, list(SUITES))
    return SUITES[name]
