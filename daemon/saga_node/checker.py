"""Compares what was heard of an engine's KV with what it says when asked, and believes the engine.

Events can be lost beyond replay, and a session that only finds what others stored has none of its own. A difference
that stands twice in a row is a hole; the engine's whole answer then takes the place of what was heard.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from saga_core.kv.commands import Resident, Snapshot
from saga_node.residence import Residence
from saga_shell import log
from saga_vllm.control import Control, NoControl

EVERY_S = 10.0
SETTLE_S = 0.5
"""Between two looks at a difference: events of some 10 ms ago are on their way."""
MOST = 64
"""Sessions asked about at once; in an engine with 1,000 of them a look takes some 3 ms of its time."""


class Checker:
    """For one incarnation of a worker with session control."""

    def __init__(self, control: Control, residence: Residence, every_s: float = EVERY_S) -> None:
        self._control, self._residence, self._every_s = control, residence, every_s
        self._next = 0
        residence.can_ask = True

    async def run(self) -> None:
        """Look from time to time, and at once where something was lost, for as long as the worker lives."""
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._residence.torn.wait()
            except TimeoutError:
                pass
            try:
                await self._look()
            except NoControl as error:
                log.warning("residence-unchecked", worker=self._residence.worker, reason=error)
                await asyncio.sleep(SETTLE_S)

    async def _look(self) -> None:
        if not self._residence.torn.is_set():
            some = self._some()
            first = self._residence.differs(await self._ask(some), some)
            if not first:
                return
            await asyncio.sleep(SETTLE_S)
            second = self._residence.differs(await self._ask(list(first)), first)
            standing = {name: tokens for name, tokens in second.items() if first.get(name) == tokens}
            if not standing:
                return
            log.warning("residence-differs", worker=self._residence.worker, sessions=len(standing))
            self._residence.tear()
        self._residence.mend(await self._ask([]))
        log.info("residence-mended", worker=self._residence.worker, holes=self._residence.holes)

    def _some(self) -> list[str]:
        """The next sessions that are known; all, where they are few, for those that are not known."""
        known = self._residence.ledger.sessions
        if len(known) <= MOST:
            return []
        start, self._next = self._next % len(known), self._next + MOST
        return [str(name) for name in islice(known, start, start + MOST)]

    async def _ask(self, sessions: list[str]) -> Resident:
        answer = await self._control.ask(Snapshot(sessions=sessions))
        if not isinstance(answer, Resident):
            raise NoControl(f"an answer to another order: {type(answer).__name__}")
        return answer
