"""What tenants and workflows have had of the GPUs, in GPU-seconds by the clock.

Rules of this file
  1. A worker's time is shared equally among the steps that are on it; while there is none, it is nobody's.
  2. Facts alone change it, as all of the book: what a crashed head had not seen the end of ends with the last fact.
  3. Bounded: hours are kept for a month, tenants up to `TENANTS` per hour, and the rest is `OTHERS`.

This is what an administrator charges. The work that decides whose turn it is, is another measure (`accounts`): what a
step costs an engine by the cost table, without what was computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.events import StepFinished
from saga_core.ids import StepId, TenantId, WorkerId

HOUR_S = 3600
HOURS = 31 * 24
TENANTS = 256
OTHERS = TenantId("(others)")


@dataclass(slots=True)
class Spent:
    """Sums of one tenant in one hour: each step counts into the hour in which it ended."""

    gpu_s: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: Spent) -> None:
        self.gpu_s += other.gpu_s
        self.steps += other.steps
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens


@dataclass(slots=True)
class Share:
    """One worker: how long a step that was there all the time would have had of it."""

    at: float
    steps: int = 0
    clock_s: float = 0.0

    def turn(self, at: float, by: int) -> float:
        """The clock at `at`, from when on so many more steps are there."""
        if self.steps and at > self.at:
            self.clock_s += (at - self.at) / self.steps
        self.at = at
        self.steps += by
        return self.clock_s


Stay = tuple[WorkerId, float, int]
"""A step on a worker: since when on the clock of its share, and how many GPUs that worker has. A tuple: every step
makes one."""


@dataclass(slots=True, eq=False)
class Usage:
    """Sums by hour and tenant, and what is under way."""

    hours: dict[int, dict[TenantId, Spent]] = field(default_factory=dict)
    shares: dict[WorkerId, Share] = field(default_factory=dict)
    stays: dict[StepId, Stay] = field(default_factory=dict)
    seen_at: float = 0.0

    def begin(self, step: StepId, worker: WorkerId, gpus: int, at: float) -> None:
        """`step` is on `worker`, which has so many GPUs (one, where it has none)."""
        if at > self.seen_at:  # noqa: PLR1730 - for every step
            self.seen_at = at
        share = self.shares.get(worker)
        if share is None:
            share = self.shares[worker] = Share(at)
        self.stays[step] = (worker, share.turn(at, 1), gpus)

    def end(self, step: StepId, at: float) -> float:
        """It is there no more; the GPU-seconds that it had. One that was nowhere had none."""
        if at > self.seen_at:  # noqa: PLR1730 - for every step
            self.seen_at = at
        stay = self.stays.pop(step, None)
        if stay is None:
            return 0.0
        worker, since_s, gpus = stay
        share = self.shares[worker]
        had_s = share.turn(at, -1) - since_s
        if not share.steps:
            del self.shares[worker]
        return had_s * gpus

    def charge(self, tenant: TenantId, gpu_s: float, fact: StepFinished | None, at: float) -> None:
        """`tenant` has had so much; `fact`: with the end of a step, None: with its loss."""
        by_tenant = self._hour(int(at // HOUR_S))
        if tenant not in by_tenant and len(by_tenant) >= TENANTS:
            tenant = OTHERS
        spent = by_tenant.get(tenant)
        if spent is None:
            spent = by_tenant[tenant] = Spent()
        spent.gpu_s += gpu_s
        if fact is not None:
            spent.steps += 1
            spent.prompt_tokens += fact.prompt_tokens or 0
            spent.cached_tokens += fact.cached_tokens or 0
            spent.output_tokens += fact.output_tokens or 0

    def _hour(self, hour: int) -> dict[TenantId, Spent]:
        found = self.hours.get(hour)
        if found is None:
            found = self.hours[hour] = {}
            for old in [known for known in self.hours if known <= hour - HOURS]:
                del self.hours[old]
        return found

    def since(self, at: float) -> dict[TenantId, Spent]:
        """Sums per tenant of the hours that were not over at `at`."""
        found: dict[TenantId, Spent] = {}
        for hour, by_tenant in self.hours.items():
            for tenant, spent in by_tenant.items() if (hour + 1) * HOUR_S > at else ():
                found.setdefault(tenant, Spent()).add(spent)
        return found

    def check(self) -> None:
        """Raise AssertionError where shares and stays disagree."""
        there: dict[WorkerId, int] = {}
        for worker, _, _ in self.stays.values():
            there[worker] = there.get(worker, 0) + 1
        assert there == {worker: share.steps for worker, share in self.shares.items()}, "stays miscounted"
