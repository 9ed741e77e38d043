"""How many workers a model's sessions want: what a cluster grows and shrinks by. Numbers of the moment, made when asked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from saga_core.gate import Gate
from saga_core.pool import Pool


@dataclass(frozen=True, slots=True)
class Backlog:
    """One model's."""

    model: str
    ready: int
    """Workers that take new sessions."""
    wanted: int
    """So many workers have the memory for all sessions, those too that wait."""
    waiting_steps: int
    waiting_tokens: int
    """What the sessions that wait would need, in tokens."""


def backlog_of(model: str, pool: Pool | None, gate: Gate | None, waiting: int, now: float) -> Backlog:
    """`waiting`: steps without any worker.

    Without a gate nobody knows what sessions need: then no more workers are wanted than there are, and one while
    anybody is there.
    """
    ready = 0 if pool is None or pool.last_resort else len(pool)
    if gate is None or not gate.rooms:
        held = gate.waiting if gate is not None else 0
        placed = pool is not None and any(worker.placed or worker.homes for worker in pool.workers.values())
        there = bool(waiting or held or placed)
        return Backlog(model, ready, max(ready, 1) if there else 0, waiting + held, 0)
    rooms = gate.rooms.values()
    tokens = sum(room.cost(claim) for claim, room in gate.demands())
    space = sum(room.policy.limit(1.0, room.capacity_tokens, room.policy.low) for room in rooms) / len(rooms)
    need = sum(room.need(now) for room in rooms) + tokens
    live = any(room.live for room in rooms)
    wanted = ceil(need / space) if 0.0 < space < float("inf") else ready
    return Backlog(model, ready, max(wanted, int(live or waiting > 0)), waiting + gate.waiting, round(tokens))
