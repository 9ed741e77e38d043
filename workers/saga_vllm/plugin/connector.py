"""The way into the engine: a KV connector that moves no KV, and one method more on `EngineCore`.

vLLM makes one of these in the scheduler and one in each rank; only the first does anything.
"""
# ruff: noqa: ARG002 - the hooks have the parameters that vLLM gives them

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_events import KVEventBatch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)
from vllm.logger import init_logger
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from saga_core.kv import commands
from saga_vllm.plugin import hooks
from saga_vllm.plugin.keeper import Keeper

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = init_logger("vllm.saga")


class Nothing(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler's half has to tell the ranks' halves."""


class SagaConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Session control of the device's pool. Hybrid models keep their hybrid memory: it claims nothing of the layout."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.keeper: Keeper | None = None
        self.fault = "the engine has not bound its pool yet"

    @property
    def requires_kv_delivery(self) -> bool:
        """It hands nothing over, so nothing is computed again for its sake."""
        return False

    # -- in the scheduler ----------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """Take the place of the pool's free queue, if everything is as we know it."""
        try:
            if found := hooks.changed():
                self.fault = f"this vLLM is not the one that is known: {'; '.join(found)}"
            else:
                group = self._kv_cache_config.kv_cache_groups[0]
                first = _smallest_first() if self._vllm_config.scheduler_config.policy == "priority" else None
                self.keeper = Keeper(gpu_block_pool, group.kv_cache_spec.block_size, smallest_first=first)
                logger.info("saga: session control is on (%d blocks)", gpu_block_pool.num_gpu_blocks - 1)
        except Exception as error:  # noqa: BLE001 - serving goes on, whatever it is
            self.fault = f"{type(error).__name__}: {error}"
        if self.keeper is None:
            logger.error("saga: session control is off: %s", self.fault)

    def on_new_request(self, request: Request) -> None:
        """A request was added."""
        if self.keeper is not None:
            self.keeper.arrived(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        """Nothing is loaded from elsewhere."""
        return 0, False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """A request has its first blocks."""
        if self.keeper is not None:
            self.keeper.admitted(request, blocks.blocks)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """A step was planned."""
        if self.keeper is not None:
            self.keeper.scheduled(scheduler_output)
        return Nothing()

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, None]:
        """Its blocks may be freed at once."""
        if self.keeper is not None:
            self.keeper.finished(request)
        return False, None

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        """Its blocks may be freed at once."""
        return self.request_finished(request, [])

    def reset_cache(self) -> bool:
        """There is no other cache behind the pool's, which notices its reset by itself."""
        return True

    def saga_kv(self, frame: bytes) -> bytes:
        """An order of the node daemon (`saga_core.kv.commands`)."""
        if self.keeper is None:
            return commands.encode(commands.Failed(reason=self.fault))
        return self.keeper.answer(frame)

    # -- in the ranks: nothing is loaded, nothing saved ----------------------------------

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...
    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None: ...
    def wait_for_save(self) -> None: ...


def _smallest_first() -> bool:
    """Which of two waiting requests this vLLM serves first, tried out on its own comparison."""
    small = SimpleNamespace(priority=1, arrival_time=1.0, request_id="small")
    large = SimpleNamespace(priority=2, arrival_time=0.0, request_id="large")
    return bool(Request.__lt__(small, large)) and not Request.__lt__(large, small)


def _saga_kv(self: EngineCore, frame: bytes) -> bytes:
    """An order of the node daemon, and what follows of it for those who listen: also while the engine is idle."""
    _tell(self)  # so that a snapshot is of after all that was told
    answer: bytes = self.scheduler.connector.saga_kv(frame)
    _tell(self)
    return answer


def _tell(self: EngineCore) -> None:
    if events := self.scheduler.kv_cache_manager.take_events():
        self.scheduler.kv_event_publisher.publish(KVEventBatch(ts=time.time(), events=events))


# vLLM looks utility methods up by name on this class; nothing that exists is replaced.
EngineCore.saga_kv = _saga_kv
