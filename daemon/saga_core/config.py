"""The one tree of settings: names, defaults, units and bounds. Reading it is the shells' work.

TOML file < environment (`SAGA_<SECTION>_<NAME>`) < flag. An unknown name is an error that
lists the valid ones; `saga config show` prints each value with its origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgspec

from saga_core.costs import CostTable
from saga_core.errors import UserError, choose
from saga_core.policy.admission import Admission
from saga_core.policy.migration import Migration
from saga_core.policy.modes import BALANCED, MODES
from saga_core.policy.placement import PlacementPolicy
from saga_core.policy.profiles import PROFILES


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Settings of the head daemon."""

    host: str = "127.0.0.1"
    """Address of the gateway. 0.0.0.0 opens it to the network; keys are asked for in any case."""
    port: int = 0
    """Port of the gateway; 0 takes a free one, and the same again after a restart."""
    control_port: int = 0
    """Port of the ZeroMQ socket for nodes; 0 takes a free one."""
    max_body_bytes: int = 64 * 1024 * 1024
    """Larger requests are refused with 413. A 200k-token prompt of text is about 1 MB."""
    queue_timeout_s: float = 180.0
    """How long a step waits while no worker of its model is ready; then 503 with retry-after."""
    max_waiting: int = 16384
    """Steps that may wait at once, for a worker or at the gate; more are refused with 503."""
    max_step_losses: int = 3
    """Times that one step is tried elsewhere after its worker was lost."""
    node_timeout_s: float = 4.5
    """A node silent for this long is lost: with an epoch on top, that is noticed within 5 s of its last word."""
    register_timeout_s: float = 10.0
    """A connection to the control port that has not proved its key by then is closed."""
    report_every_s: float = 1.0
    """How often nodes report; they report changes at once."""
    idle_workflow_s: float = 1800.0
    """A workflow from outside that is silent for this long is over (1800 s is the field's default)."""
    stop_grace_s: float = 10.0
    """Between TERM and KILL of a cancelled program."""
    drain_before_end_s: float = 120.0
    """So long before its wall time ends, a node drains: time for steps in flight to finish, and for sessions to go elsewhere."""
    program_retries: int = 1
    """Times that a program starts again after its node was lost."""
    snapshot_bytes: int = 16 * 1024 * 1024
    """A journal of this size is replaced by a snapshot."""
    otlp_endpoint: str = ""
    """Where spans of steps and workflows go (OpenTelemetry, OTLP over HTTP), e.g. http://collector:4318; empty: what
    OTEL_EXPORTER_OTLP_ENDPOINT says, else nowhere."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Settings of a node daemon."""

    register_timeout_s: float = 30.0
    """The daemon gives up when no head has taken it in by then."""
    head_timeout_s: float = 5.0
    """Without an acknowledgement for this long, the head's address is looked up again."""
    orphan_timeout_s: float = 600.0
    """Without a head for this long, workers are stopped and the daemon ends."""
    probe_every_s: float = 1.0
    """How often a worker's health and load are read."""
    silent_probes: int = 10
    """Failed probes in a row after which a ready worker is killed and started again."""
    notice_s: float = 60.0
    """How long this machine stays after SIGUSR1 (Slurm's --signal=USR1@60, or the grace of a preemption)."""
    stall_s: float = 120.0
    """A ready worker that has requests and whose figures do not change for this long hangs, and is killed and started
    again. The longest engine step is some seconds (a chunk of 8,192 tokens of a 70B model); compiling in mid-flight
    takes a minute."""
    start_timeout_s: float = 600.0
    """A worker that is not ready by then is killed and started again (70B weights take minutes)."""
    backoff_s: float = 1.0
    """Wait before the first restart of a worker; doubles with each failed start."""
    backoff_max_s: float = 30.0
    program_slots: int = 64
    """Programs that run at once on this node."""


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """What a node starts."""

    count: int = 1
    engine: str = "vllm"
    """`vllm` or `fake`."""
    model: str = "agent"
    """Path of a model, or the name of a demo model: nano, agent, small."""
    served_name: str = ""
    """Name clients use; empty: the last part of `model`."""
    max_model_len: int = 16384
    kv_tokens: int = 32768
    """Size of the KV pool of a CPU worker in tokens; a GPU worker uses `gpu_memory`."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory for the engine (vLLM --gpu-memory-utilization)."""
    block_size: int = 0
    """Tokens per KV block; 0: the engine's default."""
    max_seqs: int = 0
    """Sequences in one batch; 0: the engine's default."""
    tp: int = 1
    """GPUs per worker."""
    host_kv_tokens: int = 0
    """KV kept in host memory behind the pool, from where it is loaded instead of computed; 0: none."""
    session_control: bool = True
    """Put saga's plugin into the engine, so that it keeps KV by what sessions are worth."""
    extra_args: tuple[str, ...] = ()
    """Handed to the engine as they are."""


BOUNDS: Mapping[str, tuple[float, float]] = {
    "head.port": (0, 65535),
    "head.control_port": (0, 65535),
    "head.max_body_bytes": (1024, 4 * 1024**3),
    "head.max_waiting": (0, 1_000_000),
    "head.max_step_losses": (0, 100),
    "head.report_every_s": (0.01, 60),
    "head.stop_grace_s": (0, 3600),
    "head.program_retries": (0, 100),
    "head.snapshot_bytes": (1024, 2**40),
    "node.silent_probes": (1, 10_000),
    "node.program_slots": (1, 100_000),
    "workers.count": (0, 4096),
    "workers.max_model_len": (1, 2**31),
    "workers.kv_tokens": (1, 2**40),
    "workers.host_kv_tokens": (0, 2**40),
    "workers.gpu_memory": (0.01, 1),
    "workers.block_size": (0, 4096),
    "workers.max_seqs": (0, 1_000_000),
    "workers.tp": (1, 1024),
    "placement.max_load": (0, 1),
    "placement.match": (0, 1),
    "admission.low": (0.01, 4),
    "admission.high": (0.01, 4),
    "admission.reserve_tokens": (0, 2**20),
    "admission.reserve_parts": (1, 2**20),
    "admission.half_life_s": (0, 86400),
    "admission.idle_share": (0, 1),
    "admission.busy_share": (0, 1),
    "admission.again_share": (0, 1),
    "admission.rise": (0, 10),
    "admission.fall": (0.01, 1),
    "admission.most": (1, 100),
    "admission.held_share": (0, 1),
    "admission.rehome_share": (0, 1),
    "migration.local_bytes_per_s": (1, 1e12),
    "migration.shared_bytes_per_s": (1, 1e12),
}
"""Least and largest valid value of the numbers that are not times."""
TIMES_S = (0.001, 30 * 86400.0)
"""The same for every other setting in seconds: a pause of nothing spins, a month is a mistake."""
COSTS_S = (0.0, 10.0)
"""The same for what a token or a step of an engine costs."""
ENGINES = ("vllm", "fake")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    profile: str = "saga"
    """By which policies steps and sessions are scheduled."""
    mode: str = BALANCED
    """What for: `latency`, `balanced` or `throughput`. Of the profiles `saga` and `saga-blind`."""
    name: str = ""
    """Name of the cluster; empty: `saga-<user>`."""
    head: HeadConfig = field(default_factory=HeadConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    admission: Admission = field(default_factory=Admission)
    migration: Migration = field(default_factory=Migration)
    costs: CostTable = field(default_factory=CostTable)

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise choose("profile", self.profile, list(PROFILES))
        if self.mode not in MODES:
            raise choose("mode", self.mode, list(MODES))
        if self.workers.engine not in ENGINES:
            raise choose("engine", self.workers.engine, ENGINES)
        for name, value in settings(self).items():
            _check_bounds(name, value)
        if self.admission.low > self.admission.high:
            low, high = self.admission.low, self.admission.high
            raise UserError(
                f"admission.low = {low:g} is above admission.high = {high:g} (valid: at most that)"
            )


def settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, in the order of the tree."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if hasattr(value, "__dataclass_fields__"):
            flat |= {f"{item.name}.{sub.name}": getattr(value, sub.name) for sub in fields(value)}
        else:
            flat[item.name] = value
    return flat


def _check_bounds(name: str, value: object) -> None:
    """Raise `UserError` for a number out of its range; NaN is out of every range."""
    if name.startswith("costs."):
        low, high = COSTS_S
    else:
        low, high = BOUNDS.get(name, TIMES_S if name.endswith("_s") else (float("-inf"), float("inf")))
    if isinstance(value, int | float) and not low <= value <= high:
        raise UserError(f"{name} = {value!r} is out of range (valid: {low:g} to {high:g})")


def with_settings(config: Config, values: Mapping[str, Any], *, where: str) -> Config:
    """`config` with `values` (dotted name to value, text accepted) in place.

    `where` names their origin for the error text. Raises `UserError` for an unknown name or
    a value of the wrong kind or out of range.
    """
    known = settings(config)
    for name, value in values.items():
        if name not in known:
            raise choose("setting", name, list(known), where)
        try:
            config = _with(config, name, _typed(config, name, value))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return config


def _with(config: Config, name: str, value: Any) -> Config:
    section, _, leaf = name.rpartition(".")
    if not section:
        return replace(config, **{leaf: value})
    return replace(config, **{section: replace(getattr(config, section), **{leaf: value})})


def _typed(config: Config, name: str, value: Any) -> Any:
    section, _, leaf = name.rpartition(".")
    owner = getattr(config, section) if section else config
    kind = type(getattr(owner, leaf))
    if kind is tuple:
        kind = tuple[str, ...]
        value = value.split() if isinstance(value, str) else value
    try:
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        what = getattr(kind, "__name__", str(kind))
        raise UserError(f"{name} = {value!r} is not a valid {what} ({error})") from None
