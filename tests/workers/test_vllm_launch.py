"""The command line of a worker, whole, for each platform: what is not runnable here is at least looked at."""

import dataclasses
import json

import pytest

from saga_core.errors import UserError
from saga_vllm.launch import Launch, LaunchSpec, render, serves_by_priority
from saga_vllm.platform import Platform, detect

KEY = "sk-very-secret"


def a_spec(**changes) -> LaunchSpec:
    spec = LaunchSpec(
        model="/models/agent",
        served_names=("agent", "default"),
        port=8001,
        key=KEY,
        max_model_len=32768,
        kv_bytes=20 << 20,
        kv_endpoint="ipc:///run/saga/w0/events",
        kv_replay_endpoint="ipc:///run/saga/w0/replay",
        scratch="/run/saga/w0",
        python="/venv/bin/python",
    )
    return dataclasses.replace(spec, **changes)


EVENTS = (
    '{"enable_kv_cache_events":true,"publisher":"zmq",'
    '"endpoint":"ipc:///run/saga/w0/events","replay_endpoint":"ipc:///run/saga/w0/replay"}'
)
COMMON_ENV = {
    "VLLM_API_KEY": KEY,
    "VLLM_RPC_BASE_PATH": "/run/saga/w0",
    "TMPDIR": "/run/saga/w0",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_COLOR": "0",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
}


def lines(launch: Launch) -> list[str]:
    """The command line as a person reads it: an option and its values on a line."""
    out: list[str] = []
    for word in launch.argv:
        if word.startswith("-") or not out or not out[-1].startswith("--"):
            out.append(word)
        else:
            out[-1] += f" {word}"
    return out


def test_cpu_command_line() -> None:
    launch = render(a_spec(cores=(1,), max_num_seqs=16, tool_parser="hermes"), Platform.CPU)
    assert lines(launch) == [
        "taskset",
        "-c",
        "1",
        "/venv/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model /models/agent",
        "--served-model-name agent default",
        "--host 127.0.0.1",
        "--port 8001",
        "--dtype auto",
        "--max-model-len 32768",
        "--max-num-seqs 16",
        "--kv-cache-memory-bytes 20971520",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--enable-scale-out",
        "--enable-auto-tool-choice",
        "--tool-call-parser hermes",
        f"--kv-events-config {EVENTS}",
        "--enforce-eager",
        "--block-size 32",
    ]
    assert launch.env == COMMON_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}


def test_cuda_command_line() -> None:
    launch = render(
        a_spec(kv_bytes=None, gpus=("2", "3"), tensor_parallel=2, gpu_memory=0.85, block_tokens=16),
        Platform.CUDA,
    )
    assert lines(launch) == [
        "/venv/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model /models/agent",
        "--served-model-name agent default",
        "--host 127.0.0.1",
        "--port 8001",
        "--dtype auto",
        "--max-model-len 32768",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--enable-scale-out",
        f"--kv-events-config {EVENTS}",
        "--tensor-parallel-size 2",
        "--gpu-memory-utilization 0.85",
        "--block-size 16",
    ]
    assert launch.env == COMMON_ENV | {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_cuda_leaves_to_the_engine_what_nobody_chose() -> None:
    launch = render(
        a_spec(kv_bytes=None, kv_blocks=512, kv_endpoint=None, kv_replay_endpoint=None), Platform.CUDA
    )
    assert "--block-size" not in launch.argv
    assert "--kv-events-config" not in launch.argv
    assert "CUDA_VISIBLE_DEVICES" not in launch.env
    assert lines(launch)[-5:] == [
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--enable-scale-out",
        "--tensor-parallel-size 1",
        "--gpu-memory-utilization 0.9",
    ]
    assert "--num-gpu-blocks-override 512" in lines(launch)


@pytest.mark.parametrize("platform", Platform)
def test_the_key_is_in_the_environment_and_nowhere_else(platform: Platform) -> None:
    spec = a_spec()
    launch = render(spec, platform)
    assert launch.env["VLLM_API_KEY"] == KEY
    assert not [word for word in launch.argv if KEY in word]
    assert KEY not in repr(spec)
    assert KEY not in repr(launch)


def test_what_is_inherited_cannot_overrule_the_launch() -> None:
    launch = render(a_spec(cores=(0, 1)), Platform.CPU)
    environment = launch.environment(
        {"PATH": "/bin", "VLLM_CPU_KVCACHE_SPACE": "40", "VLLM_PORT": "1", "TMPDIR": "/t"}
    )
    assert (
        environment
        == {"PATH": "/bin", "OMP_NUM_THREADS": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | COMMON_ENV
    )


def test_extra_arguments_come_last_so_that_they_win() -> None:
    launch = render(a_spec(extra_args=("--max-num-batched-tokens", "4096")), Platform.CPU)
    assert launch.argv[-2:] == ("--max-num-batched-tokens", "4096")


@pytest.mark.parametrize(
    ("platform", "changes", "says"),
    [
        (Platform.CPU, {"kv_bytes": None}, "needs kv_bytes"),
        (Platform.CPU, {"kv_bytes": None, "kv_blocks": 100}, "needs kv_bytes"),
        (Platform.CPU, {"block_tokens": 16}, "multiples of 32"),
        (Platform.CPU, {"tensor_parallel": 2}, "one rank"),
        (Platform.CPU, {"gpus": ("0",)}, "no GPU"),
        (Platform.CUDA, {"gpus": ("0", "1")}, "2 gpus for tensor_parallel=1"),
        (Platform.CUDA, {"kv_blocks": 7}, "both set"),
        (Platform.CUDA, {"served_names": ()}, "served_names is empty"),
        (Platform.CUDA, {"key": ""}, "key is empty"),
        (Platform.CUDA, {"kv_endpoint": None}, "without kv_endpoint"),
        (Platform.CUDA, {"kv_endpoint": "ipc:///" + "x" * 100}, "101 bytes where 100 are valid"),
        (Platform.CUDA, {"scratch": "/" + "x" * 63}, "64 bytes where 63 are valid"),
        (Platform.CUDA, {"extra_args": ("--api-key=x", "--port", "1")}, "saga sets --api-key, --port itself"),
    ],
)
def test_what_cannot_start_is_refused_before_it_is_tried(platform, changes, says) -> None:
    with pytest.raises(UserError, match=says):
        render(a_spec(**changes), platform)


def test_a_machine_with_a_gpu_is_told_from_one_without(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("saga_vllm.platform._is_cpu_build", lambda: False)
    assert detect(tmp_path) is Platform.CPU
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert detect(tmp_path) is Platform.CPU, "the driver alone is no GPU"
    (tmp_path / "dev/nvidia0").touch()
    assert detect(tmp_path) is Platform.CUDA
    monkeypatch.setattr("saga_vllm.platform._is_cpu_build", lambda: True)
    assert detect(tmp_path) is Platform.CPU, "the CPU build uses no GPU"


def test_events_are_json() -> None:
    launch = render(a_spec(kv_endpoint='ipc:///a"b'), Platform.CPU)
    config = json.loads(launch.argv[launch.argv.index("--kv-events-config") + 1])
    assert config["endpoint"] == 'ipc:///a"b'


@pytest.mark.parametrize("platform", Platform)
def test_an_engine_serves_by_priority_where_it_is_asked_to(platform: Platform) -> None:
    changes = {"kv_bytes": 1 << 30} if platform is Platform.CPU else {}
    ordered = render(a_spec(priority=True, **changes), platform).argv
    assert ordered[ordered.index("--scheduling-policy") + 1] == "priority"
    assert "--scheduling-policy" not in render(a_spec(**changes), platform).argv


@pytest.mark.parametrize(
    ("extra", "serves"),
    [
        ((), None),
        (("--dtype", "priority"), None),
        (("--scheduling-policy", "priority"), True),
        (("--scheduling-policy=priority",), True),
        (("--scheduling-policy=priority", "--scheduling-policy", "fcfs"), False),
        (("--scheduling-policy",), None),
    ],
)
def test_a_persons_own_arguments_decide_whether_it_does(extra, serves) -> None:
    for otherwise in (True, False):
        assert serves_by_priority(extra, otherwise=otherwise) is (otherwise if serves is None else serves)
