"""`python -m saga_fake`: one engine double in its own process. The API key comes in the environment: VLLM_API_KEY."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from saga_core.errors import SagaError, UserError
from saga_core.kv.commands import INCARNATION_VARIABLE
from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.faults import Fault, Mode, parse_fault
from saga_fake.server import FakeServer

PARENT_POLL_S = 0.2
"""How often the process looks whether its parent still lives. Not PR_SET_PDEATHSIG: that fires when the *thread*
that started us ends."""


def read_arguments(argv: Sequence[str]) -> FakeConfig:
    """The configuration from vLLM-like flags. UserError for values that cannot be served."""
    parser = argparse.ArgumentParser(prog="saga_fake", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+", default=["fake"], metavar="NAME")
    parser.add_argument("--lora-modules", nargs="+", default=[], metavar="NAME=PATH", help="further names")
    parser.add_argument(
        "--max-model-len", type=int, default=32768, help="tokens of prompt and reply together"
    )
    parser.add_argument(
        "--block-size", type=int, default=32, choices=[16, 32, 64, 128], help="tokens per block"
    )
    parser.add_argument(
        "--num-blocks", type=int, default=1025, help="blocks of the KV pool, the null block included"
    )
    parser.add_argument("--max-num-seqs", type=int, default=128, help="most requests in one step")
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048, help="most tokens in one step")
    parser.add_argument("--scheduling-policy", default="fcfs", choices=["fcfs", "priority"])
    parser.add_argument("--kv-events-endpoint", help="ZeroMQ address to publish KV events on")
    parser.add_argument("--kv-replay-endpoint", help="ZeroMQ address to replay KV events on")
    parser.add_argument("--kv-topic", default="", help="topic of the KV events")
    parser.add_argument("--speed", type=float, default=1.0, help="divides all times; inf: no waiting")
    parser.add_argument("--seed", type=int, default=0, help="of the invented words")
    parser.add_argument(
        "--script", type=Path, help="JSON lines with replies to give, see saga_fake.reply.ScriptLine"
    )
    parser.add_argument(
        "--reply-tokens", type=int, help="invented replies stop by themselves after so many tokens"
    )
    parser.add_argument(
        "--control",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take orders about sessions' KV",
    )
    parser.add_argument(
        "--fault", default=os.environ.get("SAGA_FAKE_FAULT") or "ok", help="MODE or MODE=VALUE"
    )
    return _config(parser.parse_args(argv))


def _config(given: argparse.Namespace) -> FakeConfig:
    if not given.speed > 0:
        raise UserError(f"--speed {given.speed}: a number above 0 is valid")
    if given.kv_replay_endpoint and not given.kv_events_endpoint:
        raise UserError("--kv-replay-endpoint goes with --kv-events-endpoint only")
    return FakeConfig(
        models=tuple(given.served_model_name),
        adapters=tuple(word.partition("=")[0] for word in given.lora_modules),
        host=given.host,
        port=given.port,
        shape=EngineShape(
            max_model_len_tokens=given.max_model_len,
            block_tokens=given.block_size,
            blocks=given.num_blocks,
            max_num_seqs=given.max_num_seqs,
            step_tokens=given.max_num_batched_tokens,
            priority=given.scheduling_policy == "priority",
        ),
        kv_events_endpoint=given.kv_events_endpoint,
        kv_replay_endpoint=given.kv_replay_endpoint,
        kv_topic=given.kv_topic,
        speed=given.speed,
        seed=given.seed,
        script=given.script,
        reply_tokens=given.reply_tokens,
        api_key=os.environ.get("VLLM_API_KEY") or None,
        control=given.control,
        incarnation=int(os.environ.get(INCARNATION_VARIABLE) or 0),
        fault=parse_fault(given.fault),
    )


async def serve(config: FakeConfig, parent: int) -> None:
    """Serve until SIGTERM, SIGINT or the death of `parent` (a process id)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if config.fault.mode is Mode.SLOW_START:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_stopped(stop, parent), config.fault.amount)
            return
    async with FakeServer(config, crash=lambda: os._exit(1)) as server:
        sys.stderr.write(f"saga_fake: {', '.join(config.models)} on {server.url}\n")
        await _stopped(stop, parent)


async def _stopped(stop: asyncio.Event, parent: int) -> None:
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_POLL_S)


def main() -> int:
    """Exit code 0 after a stop, 1 when it cannot run, 2 for wrong flags."""
    parent = os.getppid()
    try:
        config = read_arguments(sys.argv[1:])
        _fail_if_asked(config.fault)
        asyncio.run(serve(config, parent))
    except (SagaError, OSError) as error:
        sys.stderr.write(f"saga_fake: error: {error}\n")
        return 2 if isinstance(error, UserError) else 1
    return 0


def _fail_if_asked(fault: Fault) -> None:
    if fault.mode is Mode.BAD_START:
        raise OSError("Engine core initialization failed (--fault bad_start)")


if __name__ == "__main__":
    sys.exit(main())
