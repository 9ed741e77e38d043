"""The way into the engine: a KV connector that moves no KV. vLLM makes one in the scheduler and one in each rank; only
the first does anything.
"""
# ruff: noqa: ARG002 - the hooks have the parameters that vLLM gives them

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)

from saga_vllm.plugin.attachment import Attachment

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class Nothing(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler's half has to tell the ranks' halves."""


class SagaConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Session control of the device's pool. Hybrid models keep their hybrid memory: it claims nothing of the layout."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.saga = Attachment()

    @property
    def requires_kv_delivery(self) -> bool:
        """It hands nothing over, so nothing is computed again for its sake."""
        return False

    # -- in the scheduler ----------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """The pool is there."""
        self.saga.bind(gpu_block_pool, self._vllm_config, self._kv_cache_config)

    def on_new_request(self, request: Request) -> None:
        """A request was added."""
        self.saga.arrived(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int, bool]:
        """Nothing is loaded from elsewhere."""
        return 0, False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """A request has its first blocks."""
        self.saga.admitted(request, blocks)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """A step was planned."""
        self.saga.scheduled(scheduler_output)
        return Nothing()

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, None]:
        """Its blocks may be freed at once."""
        self.saga.finished(request)
        return False, None

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        """Its blocks may be freed at once."""
        return self.request_finished(request, [])

    def reset_cache(self) -> bool:
        """There is no other cache behind the pool's, which notices its reset by itself."""
        return True

    # -- in the ranks: nothing is loaded, nothing saved ----------------------------------

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...
    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None: ...
    def wait_for_save(self) -> None: ...
