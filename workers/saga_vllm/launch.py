"""How a worker is started: a pure rendering of its command line and its environment.

The caller spawns it in a process group of its own (`start_new_session=True`) and ends the whole group: a worker is
two processes or more. Secrets go into the environment only, where other users of the node cannot read them.
"""

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saga_core.errors import UserError
from saga_core.kv.commands import INCARNATION_VARIABLE
from saga_vllm import platform as platforms
from saga_vllm.platform import Platform

# `vllm serve` of the CPU wheels 0.30 to 0.32 dies of PackageNotFoundError; the module takes the same flags.
SERVER = "vllm.entrypoints.openai.api_server"

# Longer than any connection pool in front of it keeps an idle connection: vLLM's own 5 s make a gateway reuse a
# connection in the moment that the server closes it.
KEEP_ALIVE_S = 3600

# A Unix socket's path takes at most 107 bytes (unix(7)); libzmq needs a few of them.
IPC_PATH_BYTES = 100

# The engine's processes talk through sockets named by a UUID (36 characters) in the scratch folder.
SCRATCH_PATH_BYTES = IPC_PATH_BYTES - 37

# Inherited variables that would overrule what is rendered here, or that belong to somebody else's engine.
NOT_INHERITED = (
    "VLLM_API_KEY",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_PORT",
    "VLLM_RPC_BASE_PATH",
    "VLLM_SERVER_DEV_MODE",
    INCARNATION_VARIABLE,
    "OMP_NUM_THREADS",
)

# What saga decides itself; a second value on the line would silently win. --api-key would show the key in `ps`.
OUR_FLAGS = frozenset({
    "--api-key",
    "--host",
    "--kv-events-config",
    "--model",
    "--port",
    "--served-model-name",
    "--uds",
})  # fmt: skip


SCALE_OUT = "--enable-scale-out"
"""Behind the key, /v1/messages/render says what a prompt is in tokens: a stream of a lost worker is gone on with by it.
A flag of vLLM's since 0.30."""

PRIORITY_FLAGS = ("--scheduling-policy", "priority")
"""The smallest priority first, requests without one as 0. Without it vLLM refuses any priority but 0."""


CONNECTOR = {
    "kv_connector": "SagaConnector",
    "kv_connector_module_path": "saga_vllm.plugin.connector",
    # It only looks on; as a consumer, vLLM would hold back freed blocks until a step is done.
    "kv_role": "kv_producer",
}
CONNECTOR_FLAGS = frozenset({"--kv-transfer-config", "--kv-offloading-size", "--kv-offloading-backend"})
"""Each of them makes vLLM choose a KV connector."""
MIDDLEWARE = "saga_vllm.plugin.front.SessionControl"
TIER_CONNECTOR = {
    "kv_connector": "SagaTierConnector",
    "kv_connector_module_path": "saga_vllm.plugin.tier",
    "kv_role": "kv_both",
    # A block that cannot be loaded is computed.
    "kv_load_failure_policy": "recompute",
}
TIER_SPEC = {
    "spec_name": "HostSpec",
    "spec_module_path": "saga_vllm.plugin.tier",
    "eviction_policy": "Shelf",
    "cache_policy_module_path": "saga_vllm.plugin.shelf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What a worker shall be, the same words on every platform."""

    model: str
    served_names: tuple[str, ...]
    port: int
    key: str = field(repr=False)
    host: str = "127.0.0.1"
    max_model_len: int | None = None
    # The KV pool: bytes, or (CUDA) blocks. One request of max_model_len and one block more must fit.
    kv_bytes: int | None = None
    kv_blocks: int | None = None
    block_tokens: int | None = None
    max_num_seqs: int | None = None
    priority: bool = False
    # The session control inside the engine (saga_vllm.plugin), and the incarnation that its orders must name.
    control: bool = False
    incarnation: int = 0
    # KV in host memory behind the pool; with session control only.
    host_bytes: int = 0
    dtype: str = "auto"
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    gpu_memory: float = 0.9
    tensor_parallel: int = 1
    # ZeroMQ endpoints that the engine binds, ipc:// preferred: no port to collide, closed to other users.
    kv_endpoint: str | None = None
    kv_replay_endpoint: str | None = None
    tool_parser: str | None = None
    # Another environment's interpreter: each worker may run its own version of vLLM.
    python: str = sys.executable
    # A short path, private to this incarnation: the engine's own sockets and temporary files, removed after its death.
    scratch: str | None = None
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, and the variables that it adds to the environment. The latter hold the key: never log them."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The worker's whole environment: what it inherits, less what would overrule us, plus ours."""
        return {name: value for name, value in inherited.items() if name not in NOT_INHERITED} | dict(
            self.env
        )


def render(spec: LaunchSpec, platform: Platform) -> Launch:
    """The launch of `spec`. UserError says what cannot be started, before 20 s are spent on trying."""
    _check(spec)
    platforms.check(platform, spec)
    pinned = ("taskset", "-c", ",".join(map(str, spec.cores))) if spec.cores else ()
    argv = [
        *pinned,
        spec.python,
        "-m",
        SERVER,
        *_arguments(spec),
        *platforms.flags(platform, spec),
        *spec.extra_args,
    ]
    return Launch(tuple(argv), _common_variables(spec) | platforms.variables(platform, spec))


def _check(spec: LaunchSpec) -> None:
    if not spec.served_names:
        raise UserError("served_names is empty: a worker needs at least one model name")
    if not spec.key:
        raise UserError("key is empty: a worker without a key would serve anyone")
    if spec.kv_bytes is not None and spec.kv_blocks is not None:
        raise UserError("kv_bytes and kv_blocks are both set: give one of them")
    if taken := sorted({argument.partition("=")[0] for argument in spec.extra_args} & OUR_FLAGS):
        raise UserError(f"extra_args: saga sets {', '.join(taken)} itself")
    if spec.kv_replay_endpoint and not spec.kv_endpoint:
        raise UserError("kv_replay_endpoint without kv_endpoint: events are off")
    if spec.scratch:
        _check_path(spec.scratch, SCRATCH_PATH_BYTES)
    if spec.host_bytes and not spec.control:
        raise UserError("host_bytes without session control: the tier comes with it")
    if spec.control and brings_connector(spec.extra_args):
        raise UserError(
            "extra_args name a KV connector: session control is one, and an engine has room for one"
        )
    for endpoint in filter(None, (spec.kv_endpoint, spec.kv_replay_endpoint)):
        if endpoint.startswith("ipc://"):
            _check_path(endpoint.removeprefix("ipc://"), IPC_PATH_BYTES)


def _check_path(path: str, longest_bytes: int) -> None:
    if len(path.encode()) > longest_bytes:
        raise UserError(
            f"{path}: too long for a socket, {len(path.encode())} bytes where {longest_bytes} are valid"
        )


def _arguments(spec: LaunchSpec) -> list[str]:
    argv = ["--model", spec.model, "--served-model-name", *spec.served_names]
    argv += ["--host", spec.host, "--port", str(spec.port), "--dtype", spec.dtype]
    optional = {
        "--max-model-len": spec.max_model_len,
        "--max-num-seqs": spec.max_num_seqs,
        "--kv-cache-memory-bytes": spec.kv_bytes,
        "--num-gpu-blocks-override": spec.kv_blocks,
    }
    for flag, value in optional.items():
        argv += [flag, str(value)] if value is not None else []
    argv += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log", SCALE_OUT]
    argv += PRIORITY_FLAGS if spec.priority else ()
    argv += _control(spec) if spec.control else ()
    if spec.tool_parser:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", spec.tool_parser]
    if spec.kv_endpoint:
        argv += ["--kv-events-config", _kv_events(spec)]
    return argv


def serves_by_priority(extra_args: Sequence[str], *, otherwise: bool) -> bool:
    """Whether an engine with these arguments does; the last of them wins, `otherwise` if none says anything."""
    words = [word for arg in extra_args for word in arg.split("=", 1)]
    policies = [value for flag, value in itertools.pairwise(words) if flag == PRIORITY_FLAGS[0]]
    return policies[-1] == PRIORITY_FLAGS[1] if policies else otherwise


def _control(spec: LaunchSpec) -> tuple[str, ...]:
    """What puts `saga_vllm.plugin` into the engine and into its HTTP server."""
    config: dict[str, object] = dict(CONNECTOR)
    if spec.host_bytes:
        config = TIER_CONNECTOR | {
            "kv_connector_extra_config": TIER_SPEC | {"cpu_bytes_to_use": spec.host_bytes}
        }
    return "--kv-transfer-config", json.dumps(config, separators=(",", ":")), "--middleware", MIDDLEWARE


def brings_connector(extra_args: Sequence[str]) -> bool:
    """Whether these arguments name a KV connector: an engine has one, so ours has to stay away."""
    return any(argument.partition("=")[0] in CONNECTOR_FLAGS for argument in extra_args)


def _kv_events(spec: LaunchSpec) -> str:
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": spec.kv_endpoint}
    if spec.kv_replay_endpoint:
        config["replay_endpoint"] = spec.kv_replay_endpoint
    return json.dumps(config, separators=(",", ":"))


def _common_variables(spec: LaunchSpec) -> dict[str, str]:
    scratch = {"VLLM_RPC_BASE_PATH": spec.scratch, "TMPDIR": spec.scratch} if spec.scratch else {}
    control = {INCARNATION_VARIABLE: str(spec.incarnation)} if spec.control else {}
    return (
        scratch
        | control
        | {
            "VLLM_API_KEY": spec.key,
            "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            # A model is a local folder or already in the hub's cache: a compute node often has no way out.
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            # Logs are read by people and by saga_vllm.diagnose.
            "VLLM_LOGGING_COLOR": "0",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }
    )
