"""What goes wrong in a simulated cluster: workers and nodes that die or hang, links that are cut, lose or repeat.

A fault is written `KIND:TARGET@SECONDS[+SECONDS]`: what, to whom, when after the first arrival, for how long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from saga_core.errors import UserError, choose
from saga_core.ids import NodeId
from saga_sim.clock import Clock

FOR_S = 30.0
"""How long a node is dead or cut off where nothing is said: six times the head's patience."""
_WRITTEN = re.compile(r"([a-z]+):([\w.-]+(?:/\d+)?)@([\d.]+)(?:\+([\d.]+))?")


class FaultKind(StrEnum):
    CRASH = "crash"  # a worker's process ends; its node starts it again
    HANG = "hang"  # a worker answers nobody, until its node kills it
    DEATH = "death"  # a node's machine fails with all that is on it, and comes back later
    CUT = "cut"  # a node cannot talk to the head for a while; its workers work on
    END = "end"  # a node hears that it ends after a while, and then does, for good


OF_WORKERS = frozenset({FaultKind.CRASH, FaultKind.HANG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong. `at_s`: after the first arrival."""

    kind: FaultKind
    target: str
    at_s: float
    for_s: float = FOR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All that goes wrong in a run. `lose`, `repeat`: shares of control messages; `late_s`: the longest extra delay."""

    plan: Sequence[Fault] = ()
    lose: float = 0.0
    repeat: float = 0.0
    late_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, share in (("lost", self.lose), ("repeated", self.repeat)):
            if not 0 <= share < 1:
                raise UserError(f"a share of {share:g} messages {name} is not valid (valid: 0 to below 1)")


def parse(text: str, nodes: int, workers_of: Callable[[int], int]) -> Fault:
    """A fault as a person writes it, for a cluster of that size. Raises `UserError`."""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise UserError(
            f"{text!r} is not a fault (valid: crash:n0001/0@120, hang:…, death:n0001@60+30, cut:…, end:…)"
        )
    kind, target, at_s, for_s = match.groups()
    if kind not in list(FaultKind):
        raise choose("fault", kind, list(FaultKind))
    fault = Fault(kind=FaultKind(kind), target=target, at_s=float(at_s), for_s=float(for_s or FOR_S))
    names = [f"n{i + 1:04d}" for i in range(nodes)]
    if fault.kind in OF_WORKERS:
        names = [f"{name}/{w}" for i, name in enumerate(names) for w in range(workers_of(i))]
    if target not in names:
        raise choose("target", target, names, f"the fault {text!r}")
    return fault


class Line:
    """Carries control messages between nodes and head; it may lose, repeat and delay them, and so reorder them."""

    def __init__(self, clock: Clock, delay_s: float, faults: Faults | None) -> None:
        self._clock, self._delay_s, self._faults = clock, delay_s, faults
        self._random = Random(f"{faults.seed if faults else 0}/line")  # noqa: S311 - a simulation
        self._cut: dict[NodeId, float] = {}
        self._spoilt = False

    def spoil(self) -> None:
        """From now on the faults hold: a cluster boots in peace."""
        self._spoilt = self._faults is not None

    def cut(self, node: NodeId, until: float) -> None:
        """Nothing passes between `node` and the head before `until`."""
        self._cut[node] = until

    def carry(self, node: NodeId, deliver: Callable[[Any], None], message: object) -> None:
        """Bring `message` to or from `node`."""
        if not self._spoilt or self._faults is None:
            self._clock.after(self._delay_s, deliver, message)
            return
        if self._cut.get(node, 0.0) > self._clock.now or self._random.random() < self._faults.lose:
            return
        copies = 2 if self._random.random() < self._faults.repeat else 1
        for _ in range(copies):
            late_s = self._random.random() * self._faults.late_s
            self._clock.after(self._delay_s + late_s, deliver, message)
