"""The engines a worker can run, behind one small protocol: what they need, and the command line that makes them.

Everything else (readiness, load, KV events, death) is vLLM's HTTP surface, which `saga_fake` has as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

from saga_core.config import WorkersConfig
from saga_core.errors import UserError, choose
from saga_core.kv.commands import INCARNATION_VARIABLE
from saga_node import models
from saga_node.processes import Processes
from saga_vllm import launch, platform
from saga_vllm.launch import Launch, LaunchSpec
from saga_vllm.model import MODEL_SIZES
from saga_vllm.platform import CPU_BLOCK_TOKENS, Platform

MAX_SEQS = {Platform.CPU: 128, Platform.CUDA: 256}
"""vLLM's own --max-num-seqs of an API server; large GPUs take more (vllm/engine/arg_utils.py, get_batch_defaults)."""
FAKE_MAX_SEQS = 128
FAKE_BLOCK_TOKENS = 32
CONTROL_OFF = "workers.session_control is off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What the daemon gives one start of a worker."""

    host: str
    port: int
    key: str = field(repr=False)
    scratch: Path
    """A short private path, removed after the worker's death."""
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    incarnation: int = 0
    control: bool = False
    """With session control in the engine."""

    @property
    def kv_endpoint(self) -> str:
        return f"ipc://{self.scratch}/kv"

    @property
    def kv_replay_endpoint(self) -> str:
        return f"ipc://{self.scratch}/kv-replay"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Engine(Protocol):
    """One kind of engine, set up for this node."""

    served_name: str
    max_seqs: int
    ordered: bool
    """Whether it serves the smallest priority first."""
    no_control: str
    """Why it is started without session control; empty: it is started with it."""
    host_tokens: int
    """KV in host memory behind the pool."""

    async def prepare(self, processes: Processes, log_folder: Path) -> None:
        """Do once what all workers need. SagaError says why they cannot be."""

    def render(self, seat: Seat) -> Launch:
        """The command line and environment of a worker in `seat`. UserError: it cannot be."""


class Vllm:
    """vLLM, on what this node has."""

    def __init__(self, config: WorkersConfig, *, ordered: bool = False) -> None:
        self._config = config
        self._priority = ordered
        self.ordered = launch.serves_by_priority(config.extra_args, otherwise=ordered)
        self._platform = platform.detect()
        self._model = config.model
        self._once = asyncio.Lock()
        self.served_name = served_name(config)
        self.max_seqs = config.max_seqs or MAX_SEQS[self._platform]
        self.no_control = "" if config.session_control else CONTROL_OFF
        self.host_tokens = config.host_kv_tokens
        if launch.brings_connector(config.extra_args):
            self.no_control = "workers.extra_args name another KV connector"

    async def prepare(self, processes: Processes, log_folder: Path) -> None:
        """Build the demo model, where one is named."""
        async with self._once:
            if self._model in MODEL_SIZES:
                self._model = str(await models.ensure(self._model, processes, log_folder))

    def render(self, seat: Seat) -> Launch:
        """VLLM's API server in `seat`."""
        config = self._config
        spec = LaunchSpec(
            model=self._model,
            served_names=(self.served_name,),
            host=seat.host,
            port=seat.port,
            key=seat.key,
            max_model_len=config.max_model_len,
            kv_bytes=self._kv_bytes() if self._platform is Platform.CPU else None,
            block_tokens=config.block_size or None,
            max_num_seqs=config.max_seqs or None,
            priority=self._priority,
            control=seat.control,
            incarnation=seat.incarnation,
            host_bytes=self._host_bytes() if seat.control else 0,
            cores=seat.cores if self._platform is Platform.CPU else (),
            gpus=seat.gpus,
            gpu_memory=config.gpu_memory,
            tensor_parallel=config.tp,
            kv_endpoint=seat.kv_endpoint,
            kv_replay_endpoint=seat.kv_replay_endpoint,
            scratch=str(seat.scratch),
            extra_args=config.extra_args,
        )
        return launch.render(spec, self._platform)

    def _host_bytes(self) -> int:
        if not self._config.host_kv_tokens:
            return 0
        return self._config.host_kv_tokens * models.kv_bytes_per_token(self._config.model)

    def _kv_bytes(self) -> int:
        """`kv_tokens`, and the one block that vLLM keeps for itself."""
        block = self._config.block_size or CPU_BLOCK_TOKENS
        blocks = -(-self._config.kv_tokens // block) + 1
        return blocks * block * models.kv_bytes_per_token(self._config.model)


class Fake:
    """The engine double: the same surface, no model."""

    def __init__(self, config: WorkersConfig, *, ordered: bool = False) -> None:
        self._config = config
        self._priority = ordered
        self.ordered = launch.serves_by_priority(config.extra_args, otherwise=ordered)
        self.served_name = served_name(config)
        self.max_seqs = config.max_seqs or FAKE_MAX_SEQS
        self.no_control = "" if config.session_control else CONTROL_OFF
        self.host_tokens = 0

    async def prepare(self, processes: Processes, log_folder: Path) -> None:
        """There is nothing to prepare."""

    def render(self, seat: Seat) -> Launch:
        """`python -m saga_fake` in `seat`."""
        config = self._config
        block = config.block_size or FAKE_BLOCK_TOKENS
        flags = {
            "--host": seat.host,
            "--port": seat.port,
            "--served-model-name": self.served_name,
            "--max-model-len": config.max_model_len,
            "--block-size": block,
            "--num-blocks": -(-config.kv_tokens // block) + 1,
            "--max-num-seqs": self.max_seqs,
            "--kv-events-endpoint": seat.kv_endpoint,
            "--kv-replay-endpoint": seat.kv_replay_endpoint,
        }
        argv = [str(word) for flag in flags.items() for word in flag]
        argv += launch.PRIORITY_FLAGS if self._priority else ()
        argv += () if seat.control else ("--no-control",)
        env = {
            "VLLM_API_KEY": seat.key,
            "TMPDIR": str(seat.scratch),
            "PYTHONUNBUFFERED": "1",
            INCARNATION_VARIABLE: str(seat.incarnation),
        }
        return Launch((sys.executable, "-m", "saga_fake", *argv, *config.extra_args), env)


ENGINES: dict[str, type[Vllm | Fake]] = {"vllm": Vllm, "fake": Fake}


def engine(config: WorkersConfig, *, ordered: bool = False) -> Engine:
    """The engine that the settings name. UserError lists those there are.

    ordered: it shall serve the smallest priority first; `workers.extra_args` may say otherwise.
    """
    if config.engine not in ENGINES:
        raise choose("engine", config.engine, list(ENGINES), "workers.engine")
    return ENGINES[config.engine](config, ordered=ordered)


def served_name(config: WorkersConfig) -> str:
    """The name clients use for the model."""
    return config.served_name or PurePath(config.model).name


def shares(config: WorkersConfig) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Cores and GPUs of each worker. UserError: there are too few GPUs for them."""
    cores = sorted(os.sched_getaffinity(0))
    gpus = _gpus() if config.engine == "vllm" and platform.detect() is Platform.CUDA else []
    if gpus and len(gpus) < config.count * config.tp:
        raise UserError(
            f"workers.count = {config.count} with workers.tp = {config.tp} needs {config.count * config.tp} GPUs,"
            f" this node has {len(gpus)} ({', '.join(gpus)})"
        )
    return [
        (_share(cores, i, config.count), tuple(gpus[i * config.tp : (i + 1) * config.tp]))
        for i in range(config.count)
    ]


def _share(cores: list[int], index: int, count: int) -> tuple[int, ...]:
    """An equal run of neighbouring cores; where there are fewer cores than workers, one each in turn."""
    if count > len(cores):
        return (cores[index % len(cores)],)
    return tuple(cores[index * len(cores) // count : (index + 1) * len(cores) // count])


def _gpus() -> list[str]:
    """What Slurm or the person gave us, or else all there are."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip()]
    return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
