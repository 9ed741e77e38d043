"""Randomised work stealing of the SAGA paper (arXiv 2605.00528, section 5.2), as far as a stock engine lets it.

Rules of this file
  1. A worker whose line has been empty for `IDLE_S` steals from one with a line and more than `RATIO` times its load:
     both conditions (the paper's own text joins them once by OR and once by AND).
  2. A step that an engine has is not taken back. What is stolen is the *next* step of a session that is between two
     steps, and with it the session's home: it goes to the thief as soon as it arrives.
  3. A thief has one theft open at a time. It is closed by the session's next step, by its end, or after `PATIENCE_S`.
  4. The victim is drawn by a hash of thief and epoch, so that a replay draws the same ones.

Where this differs from the sources, and why: docs/adr/0005.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from saga_core.fleet import Pool, Worker
from saga_core.ids import SessionId, WorkerId

IDLE_S = 0.1
"""SAGA paper, T_idle; 50 to 200 ms change its completion times by less than 7 %."""
RATIO = 2.0
"""SAGA paper, R_max; 1.5 to 3 change them by less than 4 %."""
ROUNDING_S = 1e-6
"""Of times: two ticks of 100 ms are that far apart."""
PATIENCE_S = 1.0
"""Until a thief looks for another session when the one it stole does not come. Ours: the paper steals what is queued."""


def has_line(worker: Worker) -> bool:
    """Whether steps wait in its engine, by its latest report and by what was sent since."""
    return worker.waiting > 0 or worker.placed > worker.running


def may_steal(thief_load: float, idle_s: float, victim_load: float) -> bool:
    """Both conditions of section 5.2: the thief's line empty for `IDLE_S`, the victim's load over `RATIO` times its own."""
    return idle_s >= IDLE_S - ROUNDING_S and victim_load > RATIO * thief_load


def draw(thief: WorkerId, epoch: int, victims: int) -> int:
    """One of so many `victims`, each as likely as the others; the same for the same epoch."""
    seed = blake2b(f"{thief} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(seed, "big") % victims


class Theft(NamedTuple):
    """A session whose next step goes to the thief."""

    session: SessionId
    victim: WorkerId
    thief: WorkerId
    at: float


@dataclass(slots=True, eq=False)
class Idle:
    """A worker without a line."""

    since: float
    placed: int
    done: int
    """As then: what came and went between two looks shows here."""


class Stealing:
    """Who is idle since when, and what is stolen and has not come yet; soft state."""

    def __init__(self) -> None:
        self.idle: dict[WorkerId, Idle] = {}
        self.stolen: dict[SessionId, Theft] = {}
        self._open: dict[WorkerId, SessionId] = {}
        """By thief."""
        self._epoch = 0

    def epoch(self, pool: Pool, oldest: Callable[[Worker], SessionId | None], now: float) -> list[Theft]:
        """Steal for every worker of `pool` that may. `oldest`: of a victim's sessions between two steps, the oldest."""
        self._epoch += 1
        idle = [worker for worker in pool.workers.values() if self._idles(worker, now)]
        thieves = [worker for worker in idle if self._is_free(worker.id, now)]
        if not thieves:
            return []
        lines = sorted((-worker.load, worker.id) for worker in pool.workers.values() if worker.waiting > 0)
        found = [self._steal(thief, pool, lines, oldest, now) for thief in thieves]
        return [theft for theft in found if theft is not None]

    def _idles(self, worker: Worker, now: float) -> bool:
        """Whether its line is empty, and has been for long enough."""
        if has_line(worker):
            self.idle.pop(worker.id, None)
            return False
        known = self.idle.get(worker.id)
        if known is None or worker.placed > known.placed:
            self.idle[worker.id] = Idle(now, worker.placed, worker.done)
            return False
        known.placed, known.done = worker.placed, worker.done
        return now - known.since >= IDLE_S - ROUNDING_S

    def _steal(
        self,
        thief: Worker,
        pool: Pool,
        lines: list[tuple[float, WorkerId]],
        oldest: Callable[[Worker], SessionId | None],
        now: float,
    ) -> Theft | None:
        """`lines`: (-load, name) of workers with a line, the most loaded first, so that its victims stand in front."""
        idle_s = now - self.idle[thief.id].since
        victims = bisect_left(lines, True, key=lambda line: not may_steal(thief.load, idle_s, -line[0]))
        if not victims:
            return None
        victim = lines[draw(thief.id, self._epoch, victims)][1]
        session = oldest(pool.workers[victim])
        if session is None or session in self.stolen:
            return None
        theft = self.stolen[session] = Theft(session, victim, thief.id, now)
        self._open[thief.id] = session
        return theft

    def _is_free(self, thief: WorkerId, now: float) -> bool:
        session = self._open.get(thief)
        if session is None:
            return True
        if now - self.stolen[session].at < PATIENCE_S:
            return False
        self.close(session)
        return True

    def close(self, session: SessionId) -> Theft | None:
        """Its next step is here, or it is over: what was stolen, if it was."""
        theft = self.stolen.pop(session, None)
        if theft is not None:
            del self._open[theft.thief]
        return theft

    def check(self) -> None:
        """Raise AssertionError where thefts and thieves disagree."""
        by_thief = {theft.thief: session for session, theft in self.stolen.items()}
        assert by_thief == self._open, "a theft without a thief"
        assert len(by_thief) == len(self.stolen), "a thief with two thefts"
