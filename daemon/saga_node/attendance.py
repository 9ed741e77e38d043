"""One engine process from the outside, for as long as it lives: made sure of, tried, announced and watched.

A worker is announced once, and what its trial has disproved is not said of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

from saga_core.ids import WorkerId
from saga_core.node_words import Residency, SetWorths, WorkerLoad, WorkerSilent, WorkerUp
from saga_core.wire import Capability
from saga_node.checker import Checker
from saga_node.engines import Engine, Seat
from saga_node.residence import Residence
from saga_node.teller import Teller
from saga_node.watch import Watch
from saga_shell import log
from saga_vllm.control import Control
from saga_vllm.kv_events import KvEvents
from saga_vllm.listener import listener_is_ours
from saga_vllm.probe import Ready, probe
from saga_vllm.proving import CONTROL, PREFIX_HITS, PRIORITY, TIERS, Findings, Trial, prove

READY_POLL_S = 0.2

Proven = Mapping[str, Capability]


class Attendance:
    """What is known of one engine process, and who is in touch with it."""

    def __init__(
        self,
        worker: WorkerId,
        incarnation: int,
        *,
        engine: Engine,
        seat: Seat,
        pid: int,
        probe_every_s: float,
        why_no_control: str,
        tell: Callable[[WorkerUp | WorkerLoad | WorkerSilent], None],
    ) -> None:
        """`why_no_control`: it was started without session control; empty: with it."""
        self.worker, self.incarnation = worker, incarnation
        self._engine, self._seat, self._pid = engine, seat, pid
        self._probe_every_s, self._why_no_control, self._tell = probe_every_s, why_no_control, tell
        self.control: Control | None = None
        """Proven, while it is open."""
        self._mirror = Residence(worker, incarnation)
        self._is_mirrored = False
        """Whether a prompt was really found again."""
        self._teller: Teller | None = None
        self._has_tier = False
        """Whether host memory behind its pool was proven."""

    def set_worths(self, action: SetWorths) -> None:
        """Tell it what sessions' KV is worth; nothing when it has no session control."""
        if self._teller is not None:
            self._teller.tell(action.worths, action.soon if self._has_tier else ())

    def news(self) -> Residency | None:
        """What became resident or left since the last call."""
        return self._mirror.news() if self._is_mirrored else None

    # -- its way -------------------------------------------------------------------------

    async def ready(self) -> Ready:
        """Wait until it is: our process listens, and it answers as our worker does."""
        said, seat = "", self._seat
        while True:
            if await asyncio.to_thread(listener_is_ours, seat.port, self._pid, seat.host):
                answer = await probe(seat.url, seat.key, [self._engine.served_name])
                if isinstance(answer, Ready):
                    return answer
                if answer.reason != said:
                    said = answer.reason
                    log.debug("worker-not-ready", worker=self.worker, reason=said)
            await asyncio.sleep(READY_POLL_S)

    async def attend(self, ready: Ready) -> None:
        """Try it, announce it, and stay in touch until this is cancelled."""
        seat = self._seat
        async with Control(seat.url, seat.key, self.incarnation) as control, asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            findings = await prove(self._trial(ready, control))
            proven = {found.name: found for found in findings.capabilities}
            self._note(findings.capabilities)
            if proven[CONTROL].works:
                self.control = control
                self._teller = Teller(self.worker, control)
                self._has_tier = bool(proven[TIERS].works)
                group.create_task(self._teller.run())
                group.create_task(Checker(control, self._mirror).run())
            self._is_mirrored = bool(proven[PREFIX_HITS].works)
            self._tell(self._up(ready, findings, proven))
            group.create_task(self._read_load())

    def over(self) -> None:
        """Its process has ended."""
        self.control = None

    async def _follow(self) -> None:
        with contextlib.closing(KvEvents(self._seat.kv_endpoint, self._seat.kv_replay_endpoint)) as events:
            async for heard in events:
                self._mirror.hear(heard)

    async def _read_load(self) -> None:
        loop, every_s = asyncio.get_running_loop(), self._probe_every_s
        async with Watch(self.worker, self.incarnation, self._seat.url, every_s) as watch:
            while True:
                began = loop.time()
                self._tell(await watch.read())
                await asyncio.sleep(max(0.0, began + every_s - loop.time()))

    # -- its trial -----------------------------------------------------------------------

    def _trial(self, ready: Ready, control: Control) -> Trial:
        seat, engine = self._seat, self._engine
        return Trial(
            url=seat.url,
            key=seat.key,
            model=engine.served_name,
            block_tokens=ready.pool.block_tokens,
            control=control if seat.control else None,
            why_not=self._why_no_control,
            ordered=engine.ordered,
            host_tokens=engine.host_tokens if seat.control else 0,
            heard=lambda _: self._mirror.probed_tokens,
            folder=seat.scratch,
        )

    def _note(self, proven: Iterable[Capability]) -> None:
        for found in proven:
            log.info(
                "worker-tried",
                worker=self.worker,
                capability=found.name,
                works=found.works,
                detail=found.detail,
            )

    def _up(self, ready: Ready, findings: Findings, proven: Proven) -> WorkerUp:
        seat, engine = self._seat, self._engine
        return WorkerUp(
            worker=self.worker,
            incarnation=self.incarnation,
            host=seat.host,
            port=seat.port,
            key=seat.key,
            model=engine.served_name,
            capacity_tokens=ready.pool.tokens,
            max_model_len=ready.max_model_len,
            max_seqs=engine.max_seqs,
            ordered=engine.ordered and proven[PRIORITY].works is not False,
            host_tokens=engine.host_tokens if proven[TIERS].works else 0,
            values=bool(proven[CONTROL].works),
            kv_token_bytes=findings.kv_token_bytes,
            capabilities=findings.capabilities,
            gpus=len(seat.gpus) or 1,
            adapters=ready.adapters,
        )
