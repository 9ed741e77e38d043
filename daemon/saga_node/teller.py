"""Tells one engine what its sessions' KV is worth, and who returns soon: the latest word of each, one order at a time.

The machine says what shall be told (`SetWorths`) and counts it as told; this keeps it until the engine has it, or is
gone. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from saga_core.ids import SessionId, WorkerId
from saga_core.kv import commands
from saga_shell import log
from saga_vllm.control import Control, NoControl

AGAIN_S = 1.0
"""After an order that the engine did not take."""
MOST = 512
"""Worths in one order, as in the head's messages."""

Worth = tuple[int, float] | None


class Teller:
    """The words for one incarnation of a worker."""

    def __init__(self, worker: WorkerId, control: Control) -> None:
        self._worker, self._control = worker, control
        self._words: dict[str, Worth] = {}
        self._soon: dict[str, None] = {}
        self._some = asyncio.Event()
        self.failures = 0
        self.loaded_blocks = 0
        """Begun to be loaded ahead, since the start."""

    def tell(self, worths: Mapping[SessionId, Worth], soon: Iterable[SessionId] = ()) -> None:
        """These hold from now on; what host memory has of `soon` is to be loaded."""
        self._words |= {str(session): worth for session, worth in worths.items()}
        self._soon |= dict.fromkeys(map(str, soon))
        self._some.set()

    async def run(self) -> None:
        """Tell, for as long as the worker lives."""
        while True:
            await self._some.wait()
            some = dict(list(self._words.items())[:MOST])
            try:
                if some:
                    await self._control.ask(commands.Value(worths=some))
            except NoControl as error:
                self.failures += 1
                log.warning("worths-untold", worker=self._worker, sessions=len(some), reason=error)
                await asyncio.sleep(AGAIN_S)
            else:
                self._told(some)
                await self._load_ahead()

    async def _load_ahead(self) -> None:
        """Once each, whatever comes of it: a step that finds nothing loaded computes or loads it itself."""
        soon, self._soon = self._soon, {}
        for session in soon:
            try:
                answer = await self._control.ask(commands.Prefetch(session=session))
            except NoControl as error:
                log.debug("not-loaded-ahead", worker=self._worker, session=session, reason=error)
            else:
                self.loaded_blocks += answer.blocks if isinstance(answer, commands.Done) else 0

    def _told(self, some: Mapping[str, Worth]) -> None:
        """A word that was changed meanwhile still has to be told."""
        for session, worth in some.items():
            if self._words.get(session) == worth:
                del self._words[session]
        if not self._words and not self._soon:
            self._some.clear()
