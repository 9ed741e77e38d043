"""What both connectors do in the scheduler's process: session control of the pool, and one method more on `EngineCore`."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import vllm
from vllm.distributed.kv_events import KVEventBatch
from vllm.logger import init_logger
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from saga_core.kv import commands
from saga_vllm.plugin import hooks
from saga_vllm.plugin.keeper import Keeper

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = init_logger("vllm.saga")


class Attachment:
    """Session control, or why there is none."""

    def __init__(self) -> None:
        self.keeper: Keeper | None = None
        self.fault = "the engine has not bound its pool yet"

    def bind(self, pool: BlockPool, config: VllmConfig, memory: KVCacheConfig) -> None:
        """Take the place of the pool's free queue, if everything is as we know it."""
        try:
            if found := hooks.changed():
                self.fault = f"this vLLM is not the one that is known: {'; '.join(found)}"
            else:
                first = _smallest_first() if config.scheduler_config.policy == "priority" else None
                group = memory.kv_cache_groups[0]
                self.keeper = Keeper(pool, group.kv_cache_spec.block_size, smallest_first=first)
                self.keeper.model = config.model_config.model
                self.keeper.groups = len(memory.kv_cache_groups)
                logger.info("saga: session control is on (%d blocks)", pool.num_gpu_blocks - 1)
                if not vllm.__version__.startswith(hooks.TESTED):
                    tested = ", ".join(hooks.TESTED)
                    logger.warning("saga: tested with vLLM %s, this is %s", tested, vllm.__version__)
        except Exception as error:  # noqa: BLE001 - serving goes on, whatever it is
            self.fault = f"{type(error).__name__}: {error}"
        if self.keeper is None:
            logger.error("saga: session control is off: %s", self.fault)

    def arrived(self, request: Request) -> None:
        """A request was added."""
        if self.keeper is not None:
            self.keeper.arrived(request)

    def admitted(self, request: Request, blocks: KVCacheBlocks) -> None:
        """A request has its first blocks."""
        if self.keeper is not None:
            self.keeper.admitted(request, blocks.blocks)

    def scheduled(self, output: SchedulerOutput) -> None:
        """A step was planned."""
        if self.keeper is not None:
            self.keeper.scheduled(output)

    def finished(self, request: Request) -> None:
        """A request is over."""
        if self.keeper is not None:
            self.keeper.finished(request)

    def order(self, frame: bytes, engine: Any = None) -> bytes:
        """An order of the node daemon (`saga_core.kv.commands`); `engine` takes requests and reaches the ranks."""
        if self.keeper is None:
            return commands.encode(commands.Failed(reason=self.fault))
        return self.keeper.answer(frame, engine)


def _smallest_first() -> bool:
    """Which of two waiting requests this vLLM serves first, tried out on its own comparison."""
    small = SimpleNamespace(priority=1, arrival_time=1.0, request_id="small")
    large = SimpleNamespace(priority=2, arrival_time=0.0, request_id="large")
    return bool(Request.__lt__(small, large)) and not Request.__lt__(large, small)


def _saga_kv(self: EngineCore, frame: bytes) -> bytes:
    """An order of the node daemon, and what follows of it for those who listen: also while the engine is idle."""
    _tell(self)  # so that a snapshot is of after all that was told
    answer: bytes = self.scheduler.connector.saga.order(frame, self)
    _tell(self)
    return answer


def _tell(self: EngineCore) -> None:
    if events := self.scheduler.kv_cache_manager.take_events():
        self.scheduler.kv_event_publisher.publish(KVEventBatch(ts=time.time(), events=events))


# vLLM looks utility methods up by name on this class; nothing that exists is replaced.
EngineCore.saga_kv = _saga_kv
