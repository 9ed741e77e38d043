"""When a cluster asks Slurm for nodes, and which it gives back. Pure: no clock, no Slurm, no head.

Rules of this file
  1. What comes and goes is an allocation of its own; those that a person asked for count, and stay.
  2. Nodes that are asked for and not there yet count as there, or a queue would be filled by its own length.
  3. Asked for is the least that was wanted all through `grow_after_s`, given back what was more than the most of the last
     `spare_s`: one figure that sways around a node's worth of workers moves nothing.
  4. Never above `max_nodes`, those that leave included; never below `min_nodes` by leaving.
  5. What does not start is given up, and the next try waits, each time twice as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from saga_core.errors import UserError

MAX_COUNT = 100_000
"""Of nodes: above the largest machine that Slurm runs."""


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast a cluster grows and shrinks; a site may say otherwise, in seconds."""

    grow_after_s: float = 15.0
    """So long more must be wanted than is there: Kubernetes' HPA looks once in 15 s, and acts on what it sees."""
    spare_s: float = 300.0
    """So long a node must be too much (the HPA's downscale stabilization; also Ray's idle_timeout_minutes)."""
    start_s: float = 600.0
    """From a job's start until its workers serve: as long as a worker may take (`node.start_timeout_s`)."""
    backoff_s: float = 300.0
    """After a failure, doubled by each that follows (Kubernetes' cluster-autoscaler, initial-node-group-backoff)."""
    most_backoff_s: float = 1800.0
    """And no longer than that (the same, max-node-group-backoff)."""
    worth_s: float = 600.0
    """A node is not asked for where less is left of the cluster's own time: it drains 120 s before its end."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UserError(f"scaling.{name} = {getattr(self, name)}: at least 0 is valid")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the person allows."""

    min_nodes: int
    max_nodes: int
    idle_timeout_s: float | None = None
    """A cluster without steps and programs for so long ends; None: it never does by itself."""

    def __post_init__(self) -> None:
        if self.max_nodes < self.min_nodes:
            raise UserError(
                f"--max-nodes {self.max_nodes} is less than the {self.min_nodes} that stay (--nodes, --min-nodes)"
            )
        if self.max_nodes > MAX_COUNT:
            raise UserError(f"--max-nodes {self.max_nodes}: at most {MAX_COUNT} is valid")
        if self.idle_timeout_s is not None and self.idle_timeout_s <= 0:
            raise UserError("--idle-timeout: more than 0 seconds is valid")

    def spare_s(self, pace: Pace) -> float:
        """Half the idle timeout, if that is less: nodes that joined leave before the cluster ends."""
        return pace.spare_s if self.idle_timeout_s is None else min(pace.spare_s, self.idle_timeout_s / 2)


class Phase(StrEnum):
    """Of an allocation that the cluster asked for."""

    COMING = "coming"
    """In the queue, or its workers load."""
    SERVING = "serving"
    LEAVING = "leaving"
    """Its nodes drain, or it is cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """One allocation that the cluster asked for."""

    tag: str
    phase: Phase
    nodes: int = 1
    workers: int = 1
    """Once all serve."""
    unready: int = 0
    """Of these, how many do not serve yet."""
    steps: int = 0
    """On its workers now."""
    began_at: float | None = None
    """When Slurm started it; None: it waits."""
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The cluster at one moment."""

    now: float
    ready: int
    """Workers that take sessions."""
    starting: int = 0
    """Workers that load, but for those of allocations that are coming."""
    idle_s: float | None = None
    """How long there has been neither step nor program; None: there is one."""
    serves_s: float | None = None
    """How long it has been since a worker was ready for the first time; None: none has been."""
    ends_s: float | None = None
    """What is left of the cluster's own wall time; None: it does not end, or has a successor."""
    base_nodes: int
    """Those that it was started with, and those that a person joined."""
    joined: Sequence[Joined] = ()
    workers_per_node: int = 1
    """Of a node that joins."""

    @property
    def coming(self) -> int:
        """Workers that will be ready by themselves."""
        return self.starting + sum(each.unready for each in self.joined if each.phase is Phase.COMING)

    @property
    def staying(self) -> list[Joined]:
        return [each for each in self.joined if each.phase is not Phase.LEAVING]

    @property
    def staying_nodes(self) -> int:
        return self.base_nodes + sum(each.nodes for each in self.staying)

    @property
    def nodes(self) -> int:
        """Those that leave are still ours."""
        return self.base_nodes + sum(each.nodes for each in self.joined)


@dataclass(slots=True)
class Demand:
    """How many workers were wanted of late."""

    keep_s: float
    """For how long it is remembered."""
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    since: float | None = None
    """When the record begins: it has no gap since then."""

    def note(self, at: float, wanted: int) -> None:
        if self.since is None:
            self.since = at
        self.samples.append((at, wanted))
        while self.samples[0][0] < at - self.keep_s:
            self.samples.popleft()

    def forget(self) -> None:
        """Nobody saw what was wanted: a head that starts anew learns of its sessions as they come."""
        self.samples.clear()
        self.since = None

    def over(self, window_s: float, now: float) -> list[int] | None:
        """Each figure of the last `window_s`; None: the record does not go back so far."""
        if self.since is None or self.since > now - window_s:
            return None
        return [wanted for at, wanted in self.samples if at >= now - window_s]


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Failures in a row, and when the next try may be."""

    failures: int = 0
    until: float = 0.0
    reason: str = ""

    def after(self, reason: str, now: float, pace: Pace) -> Backoff:
        """One failure more."""
        pause_s = min(pace.most_backoff_s, pace.backoff_s * 2.0 ** min(self.failures, 32))
        return Backoff(failures=self.failures + 1, until=now + pause_s, reason=reason)


@dataclass(frozen=True, slots=True)
class Grow:
    nodes: int
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    tags: tuple[str, ...]
    why: str
    failed: bool = False
    """They never served."""


@dataclass(frozen=True, slots=True)
class End:
    why: str


@dataclass(frozen=True, slots=True)
class Hold:
    why: str


Decision = Grow | Release | End | Hold


def decide(scene: Scene, limits: Limits, pace: Pace, demand: Demand, backoff: Backoff) -> Decision:
    """What to do now. The same scene answers the same; what it leads to is seen in the next one."""
    if end := _end(scene, limits):
        return end
    if late := _late(scene, pace):
        return Release(late, f"did not serve within {pace.start_s:.0f} s of the start", failed=True)
    missing, why = _missing(scene, limits, pace, demand)
    if missing:
        return _grown(scene, limits, pace, backoff, missing, why)
    return _release(scene, limits, pace, demand) or Hold(why)


def _end(scene: Scene, limits: Limits) -> End | None:
    timeout_s, idle_s, serves_s = limits.idle_timeout_s, scene.idle_s, scene.serves_s
    if timeout_s is None or idle_s is None or serves_s is None or min(idle_s, serves_s) < timeout_s:
        return None
    return End(f"nothing has run for {timeout_s:.0f} s (--idle-timeout)")


def _late(scene: Scene, pace: Pace) -> tuple[str, ...]:
    return tuple(
        each.tag
        for each in scene.joined
        if each.phase is Phase.COMING
        and each.began_at is not None
        and scene.now - each.began_at > pace.start_s
    )


def _missing(scene: Scene, limits: Limits, pace: Pace, demand: Demand) -> tuple[int, str]:
    """How many nodes more are wanted, and why."""
    below = limits.min_nodes - scene.staying_nodes
    wanted = demand.over(pace.grow_after_s, scene.now)
    if scene.serves_s is None or not wanted:
        return max(
            0, below
        ), f"--min-nodes {limits.min_nodes}" if below > 0 else "not known yet what is wanted"
    least, there = min(wanted), scene.ready + scene.coming
    nodes = -(-(least - there) // max(1, scene.workers_per_node))
    if nodes >= below and nodes > 0:
        return nodes, f"{least} workers are wanted, {there} are there or coming"
    if below > 0:
        return below, f"--min-nodes {limits.min_nodes}"
    return 0, f"{wanted[-1]} workers are wanted, {scene.ready} are there, {scene.coming} coming"


def _grown(scene: Scene, limits: Limits, pace: Pace, backoff: Backoff, missing: int, why: str) -> Grow | Hold:
    nodes = min(missing, limits.max_nodes - scene.nodes)
    if nodes <= 0:
        return Hold(f"{why}: --max-nodes {limits.max_nodes}")
    if scene.now < backoff.until:
        return Hold(f"{why}: it was tried, and failed: {backoff.reason}")
    if scene.ends_s is not None and scene.ends_s < pace.worth_s:
        return Hold(f"{why}: the cluster itself ends in less than {pace.worth_s:.0f} s")
    return Grow(nodes, why)


def _release(scene: Scene, limits: Limits, pace: Pace, demand: Demand) -> Release | None:
    wanted = demand.over(limits.spare_s(pace), scene.now)
    if scene.serves_s is None or not wanted:
        return None
    most, spare_nodes = max(wanted), scene.staying_nodes - limits.min_nodes
    spare = scene.ready + scene.coming - most
    found: list[str] = []
    for each in sorted(scene.staying, key=_costs):
        if each.workers <= spare and each.nodes <= spare_nodes:
            found.append(each.tag)
            spare, spare_nodes = spare - each.workers, spare_nodes - each.nodes
    why = f"at most {most} workers were wanted for {limits.spare_s(pace):.0f} s"
    return Release(tuple(found), why) if found else None


def _costs(each: Joined) -> tuple[bool, int, float, str]:
    """What is lost with it, least first: a place in the queue, then the steps there; of two, the newer goes."""
    return each.phase is Phase.SERVING, each.steps, -each.asked_at, each.tag
