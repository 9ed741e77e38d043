"""Everything of vLLM that the plugin uses, by name and parameters; checked at the engine's start and in the tests.

A new release is supported when `changed()` is empty on it and the live tests pass; then `TESTED` gets its number.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

TESTED = ("0.31", "0.32")
"""Releases of vLLM that the live tests have passed on; others are tried when no hook has changed, and say so."""

BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"
POOL = "vllm.v1.core.block_pool:BlockPool"
QUEUE = "vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue"

POLICY = "vllm.v1.kv_offload.cpu.policies.base:CachePolicy"

CALLS: dict[str, tuple[str, ...]] = {
    # Called by vLLM on us: official.
    f"{BASE}:KVConnectorBase_V1.__init__": ("vllm_config", "role", "kv_cache_config"),
    f"{BASE}:KVConnectorBase_V1.bind_gpu_block_pool": ("gpu_block_pool",),
    f"{BASE}:KVConnectorBase_V1.on_new_request": ("request",),
    f"{BASE}:KVConnectorBase_V1.update_state_after_alloc": ("request", "blocks", "num_external_tokens"),
    f"{BASE}:KVConnectorBase_V1.build_connector_meta": ("scheduler_output",),
    f"{BASE}:SupportsHMA.request_finished_all_groups": ("request", "block_ids"),
    # The whole surface of the queue that ours takes the place of.
    f"{QUEUE}.popleft": (),
    f"{QUEUE}.popleft_n": ("n",),
    f"{QUEUE}.remove": ("block",),
    f"{QUEUE}.append": ("block",),
    f"{QUEUE}.append_n": ("blocks",),
    f"{QUEUE}.prepend_n": ("blocks",),
    f"{QUEUE}.get_all_free_blocks": (),
    # Called by the offloading manager on our policy.
    f"{POLICY}.__init__": ("cache_capacity",),
    f"{POLICY}.get": ("key",),
    f"{POLICY}.insert": ("key", "chunk"),
    f"{POLICY}.remove": ("key",),
    f"{POLICY}.touch": ("keys", "req_context"),
    f"{POLICY}.evict": ("n", "protected"),
    f"{POLICY}.clear": (),
    f"{POLICY}.mark_evictable": ("key",),
    f"{POLICY}.mark_non_evictable": ("key",),
    # Called by us.
    f"{POOL}.evict_blocks": ("block_ids",),
    f"{POOL}.get_new_blocks": ("num_blocks",),
    f"{POOL}.free_blocks": ("ordered_blocks",),
    f"{POOL}.touch": ("blocks",),
    f"{POOL}._insert_block_hash": ("block_hash_with_group_id", "block", "num_tokens"),
    "vllm.v1.engine.core:EngineCore.add_request": ("request",),
    "vllm.v1.request:Request.__init__": (
        "request_id",
        "prompt_token_ids",
        "sampling_params",
        "pooling_params",
        "cache_salt",
        "priority",
        "block_hasher",
        "session_id",
    ),
    "vllm.v1.kv_offload.base:make_offload_key": ("block_hash", "group_idx"),
    "vllm.v1.executor.abstract:Executor.collective_rpc": ("method", "args"),
    "vllm.v1.core.block_pool:BlockHashToBlockMap.get_one_block": ("key",),
    "vllm.v1.core.kv_cache_utils:make_block_hash_with_group_id": ("block_hash", "group_id"),
    "vllm.v1.core.kv_cache_utils:maybe_convert_block_hash": ("hash_bytes",),
    "vllm.v1.core.kv_cache_manager:KVCacheManager.take_events": (),
    "vllm.distributed.kv_events:EventPublisher.publish": ("events",),
    "vllm.v1.engine.core_client:AsyncMPClient.call_utility_async": ("method", "args"),
}
"""Parameters that must be there; more may be, where they have defaults (checked by the live tests)."""

QUEUE_SURFACE = frozenset({
    "append", "append_n", "get_all_free_blocks", "iter_blocks_after", "popleft", "popleft_n", "prepend_n", "remove",
})  # fmt: skip
"""Public names of the free queue: a new one might be a way past ours."""

ATTRIBUTES = {
    "vllm.v1.request:Request.__init__": ("self.session_id", "self.block_hashes", "self.request_id"),
    f"{POOL}.__init__": (
        "self.free_block_queue",
        "self.blocks",
        "self.cached_block_hash_to_block",
        "self.null_block",
        "self.hash_block_size",
        "self.kv_event_queue",
        "self.medium",
    ),
    f"{POOL}.reset_prefix_cache": ("self.cached_block_hash_to_block = BlockHashToBlockMap()",),
    f"{SCHEDULER}.__init__": (
        "self.connector",
        "self.kv_event_publisher",
        "self.kv_cache_manager",
        "self.finished_req_ids",
    ),
    "vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler:OffloadingConnectorScheduler.__init__": (
        "self._block_id_to_pending_jobs",
    ),
    "vllm.v1.kv_offload.cpu.manager:CPUOffloadingManager.__init__": ("self._policy",),
    "vllm.v1.engine.core:EngineCore.__init__": (
        "self.scheduler",
        "self.model_executor",
        "self.request_block_hasher",
    ),
    "vllm.v1.engine.core:EngineCoreProc._handle_client_request": ("getattr(self, method_name)",),
}
"""Words that the source of a method must have: attributes have no signature."""

FIELDS = {
    "vllm.v1.core.sched.output:CachedRequestData": ("req_ids", "resumed_req_ids", "new_block_ids"),
    "vllm.v1.core.sched.output:SchedulerOutput": ("scheduled_cached_reqs",),
    "vllm.v1.core.kv_cache_utils:KVCacheBlock": ("block_id", "ref_cnt", "is_null"),
    "vllm.v1.core.kv_cache_manager:KVCacheBlocks": ("blocks",),
    "vllm.distributed.kv_events:KVEventBatch": ("ts", "events"),
}


def changed() -> list[str]:
    """The hooks that are not as the plugin knows them, in words; none: it can be used."""
    return [*_changed_calls(), *_changed_surface(), *_changed_sources(), *_changed_fields()]


def _changed_calls() -> Iterator[str]:
    for name, wanted in CALLS.items():
        found = _find(name)
        if found is None:
            yield f"{name} is gone"
            continue
        parameters = [p for p in inspect.signature(found).parameters if p != "self"]
        if missing := [parameter for parameter in wanted if parameter not in parameters]:
            yield f"{name}({', '.join(parameters)}) has no {', '.join(missing)}"


def _changed_surface() -> Iterator[str]:
    queue = _find(QUEUE)
    names = {name for name in vars(queue) if not name.startswith("_")} if queue is not None else set()
    if new := sorted(names - QUEUE_SURFACE):
        yield f"{QUEUE} has new methods: {', '.join(new)}"


def _changed_sources() -> Iterator[str]:
    for name, words in ATTRIBUTES.items():
        found = _find(name)
        source = inspect.getsource(found) if found is not None else ""
        for word in words:
            if word not in source:
                yield f"{name} has no {word}"


def _changed_fields() -> Iterator[str]:
    for name, fields in FIELDS.items():
        found = _find(name)
        known = {field for base in getattr(found, "__mro__", ()) for field in _fields(base)}
        for field in fields:
            if field not in known:
                yield f"{name} has no field {field}"


def _fields(kind: type) -> set[str]:
    return {*inspect.get_annotations(kind), *getattr(kind, "__dataclass_fields__", ())}


def _find(name: str) -> Any:
    """The object at `module:Class.attribute`; None: there is none."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found
