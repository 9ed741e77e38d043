"""A bound in seconds for recordings that are too large for the optimum: nobody computes less again than this.

Every stay of blocks between two uses takes room at each access in between, and saves their seconds. Let room have a
price per block at each access; then no choice of stays saves more than all room at its price, plus what the stays are
worth above theirs (Lagrange). Any prices give a bound; the rounds look for good ones (a subgradient, Polyak's steps).
Of one stay a cache keeps a prefix; as its deep blocks are the dear ones, all or nothing is the most that it can be worth.
So this bounds caches that keep prefixes, as the replay does.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple

from saga_core.costs import CostTable
from saga_sim.oracle.accesses import Recording

ROUNDS = 80


class Stay(NamedTuple):
    """Blocks `low` to `high` (without it) of one stream; let go before access `since`, looked up by access `until`."""

    low: int
    high: int
    since: int
    until: int


class _Held(NamedTuple):
    """Blocks below `high` (from the one in front) were let go, or will be, at `at_s`."""

    high: int
    at_s: float


def least_seconds(
    recording: Recording, blocks: int, costs: CostTable, played_s: float, rounds: int = ROUNDS
) -> float:
    """A lower bound on `missed_s` of every rule. `played_s`: what some rule reached; it sets the size of the steps."""
    stays, rooms = stays_of(recording), _rooms(recording, blocks)
    size = recording.block_tokens
    first_s, slope_s = costs.chunk_s(0, size), costs.chunk_s(size, size) - costs.chunk_s(0, size)
    total = sum(_worth(stay.low, stay.high, first_s, slope_s) for stay in stays)
    prices = [0.0] * len(rooms)
    best = 0.0
    for _ in range(rounds):
        value, spare = _priced(stays, rooms, prices, first_s, slope_s)
        best = max(best, total - value)
        length = sum(room * room for room, price in zip(spare, prices, strict=True) if room < 0 or price > 0)
        if not length:
            break
        step = (value - (total - played_s)) / length
        prices = [max(0.0, price - step * room) for price, room in zip(prices, spare, strict=True)]
    return best


def _priced(
    stays: list[Stay], rooms: list[int], prices: list[float], first_s: float, slope_s: float
) -> tuple[float, list[float]]:
    """The bound on what can be saved at these prices, and the room left at each access by whoever pays them."""
    sums = [0.0, *accumulate(prices)]
    taken = [0] * (len(rooms) + 1)
    value = sum(price * room for price, room in zip(prices, rooms, strict=True))
    for stay in stays:
        count = stay.high - stay.low
        gain = _worth(stay.low, stay.high, first_s, slope_s) - count * (sums[stay.until] - sums[stay.since])
        if gain > 0:
            value += gain
            taken[stay.since] += count
            taken[stay.until] -= count
    return value, [room - used for room, used in zip(rooms, accumulate(taken), strict=False)]


def _worth(low: int, high: int, first_s: float, slope_s: float) -> float:
    return (high - low) * (first_s + slope_s * (low + high - 1) / 2)


def stays_of(recording: Recording) -> list[Stay]:
    """Every stay that takes room at some access."""
    starts = [access.start_s for access in recording.accesses]
    rows: dict[int, list[_Held]] = {}
    stays = []
    for number, access in enumerate(recording.accesses):
        for stream, low, high in access.runs:
            row = rows.get(stream, [])
            at = low
            for held in row:
                since = bisect_left(starts, held.at_s)
                until = min(held.high, high, access.prompt_blocks)
                if at < until and since < number:
                    stays.append(Stay(at, until, since, number))
                at = held.high
            rows[stream] = _held_now(row, high, access.end_s)
    return stays


def _held_now(row: list[_Held], reach: int, end_s: float) -> list[_Held]:
    """The row after an access that holds its blocks below `reach` until `end_s`."""
    now: list[_Held] = []
    longer = [held for held in row if held.high <= reach and held.at_s > end_s]
    now.extend(longer)
    covering = next((held for held in row if held.high > reach), None)
    if not (covering is not None and covering.at_s > end_s) and (not now or now[-1].high < reach):
        now.append(_Held(reach, end_s))
    now.extend(held for held in row if held.high > reach)
    return now


def _rooms(recording: Recording, blocks: int) -> list[int]:
    """What running steps leave of the pool, at each access."""
    running: list[tuple[float, int]] = []
    reaches: dict[int, list[int]] = {}
    used, rooms = 0, []
    for number, access in enumerate(recording.accesses):
        while running and running[0][0] <= access.start_s:
            _, old = heapq.heappop(running)
            gone = recording.accesses[old]
            used -= gone.private_blocks
            for stream, low, high in gone.runs:
                before = max(reaches[stream])
                reaches[stream].remove(high)
                used -= before - max(reaches[stream], default=low)
        used += access.private_blocks
        for stream, low, high in access.runs:
            held = reaches.setdefault(stream, [])
            used += max(0, high - max(held, default=low))
            held.append(high)
        heapq.heappush(running, (access.end_s, number))
        rooms.append(blocks - used)
    return rooms
