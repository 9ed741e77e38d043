"""A tier of host memory behind the engine's pool: vLLM's own offloading, with session control beside it.

What decides is stock (managers, when blocks are stored and loaded) but the order in which chunks go, which follows the
sessions' worths (`shelf`); on a GPU the copies are stock as well. vLLM refuses a CPU device only because its copies are CUDA's: there ours are plain copies of rows, done at once.

The tier is private memory of the worker's process, of a size fixed at its start: after its death, however it came,
nothing of it is left anywhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

from saga_vllm.plugin.attachment import Attachment
from saga_vllm.plugin.shelf import Shelf

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorRole
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class SagaTierConnector(OffloadingConnector):  # type: ignore[misc]
    """Session control of the device's pool, and vLLM's offloading behind it."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.saga = Attachment()

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """The pool is there."""
        super().bind_gpu_block_pool(gpu_block_pool)
        self.saga.bind(gpu_block_pool, self._vllm_config, self._kv_cache_config)
        if self.saga.keeper is not None and (shelf := self._shelf) is not None:
            self.saga.keeper.put_behind(shelf)
        if self.saga.keeper is not None:
            self.saga.keeper.copying = self._copying

    def _copying(self, scheduler: Any, blocks: list[int]) -> bool:
        """Copies of these are under way; or some may begin with the next step, where requests have just finished."""
        pending = self.scheduler._block_id_to_pending_jobs  # noqa: SLF001
        return bool(scheduler.finished_req_ids) or not pending.keys().isdisjoint(blocks)

    @property
    def _shelf(self) -> Shelf | None:
        """None: its manager was given another policy, or is another one."""
        policy = getattr(self.scheduler.manager, "_policy", None)
        return policy if isinstance(policy, Shelf) else None

    def on_new_request(self, request: Request) -> None:
        """A request was added."""
        self.saga.arrived(request)
        if request.session_id and (shelf := self._shelf) is not None:
            shelf.belongs(request.request_id, request.session_id)
        super().on_new_request(request)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """A request has its first blocks."""
        self.saga.admitted(request, blocks)
        super().update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """A step was planned."""
        self.saga.scheduled(scheduler_output)
        return super().build_connector_meta(scheduler_output)

    def request_finished(self, request: Request, block_ids: list[int]) -> Any:
        """Its blocks are freed at once, or when they are stored."""
        self.saga.finished(request)
        return super().request_finished(request, block_ids)

    def request_finished_all_groups(self, request: Request, block_ids: tuple[list[int], ...]) -> Any:
        """Its blocks are freed at once, or when they are stored."""
        self.saga.finished(request)
        return super().request_finished_all_groups(request, block_ids)


class HostSpec(CPUOffloadingSpec):  # type: ignore[misc]
    """vLLM's, and on a CPU device copies of our own."""

    copies: RowCopies | None = None

    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        """What copies in this rank; the same one each time."""
        if not current_platform.is_cpu():
            return super().get_worker(kv_caches)
        if self.copies is None:
            self.copies = RowCopies(kv_caches, self.blocks_per_chunk, self.num_chunks)
        return self.copies


class RowCopies(OffloadingWorker):  # type: ignore[misc]
    """Copies blocks between two tensors of this process, while the engine waits: some 10 GB/s."""

    def __init__(self, kv_caches: Any, blocks_per_chunk: int, chunks: int) -> None:
        if blocks_per_chunk != 1:
            raise ValueError(f"{blocks_per_chunk} blocks per chunk: on a CPU device 1 is valid")
        self._device = [
            cache.tensor.view(torch.int8).view(-1, cache.page_size_bytes) for cache in kv_caches.tensors
        ]
        self._host = [torch.zeros((chunks, rows.shape[1]), dtype=torch.int8) for rows in self._device]
        self._done: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """From the device's pool into the tier."""
        return self._copy(job_id, self._device, src_spec.block_ids, self._host, dst_spec.block_ids)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """From the tier into the device's pool."""
        return self._copy(job_id, self._host, src_spec.block_ids, self._device, dst_spec.block_ids)

    def _copy(self, job_id: int, source: Any, source_ids: Any, target: Any, target_ids: Any) -> bool:
        began = time.perf_counter()
        rows, places = (torch.from_numpy(ids.astype("int64")) for ids in (source_ids, target_ids))
        copied_bytes = 0
        for here, there in zip(source, target, strict=True):
            there[places] = here[rows]
            copied_bytes += here.shape[1] * len(rows)
        self._done.append(TransferResult(job_id, True, copied_bytes, time.perf_counter() - began))
        return True

    def get_finished(self) -> list[TransferResult]:
        """All since the last call: each was over when it began."""
        done, self._done = self._done, []
        return done

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is under way."""

    def shutdown(self) -> None:
        """Give the memory back."""
        self._device.clear()
        self._host.clear()
