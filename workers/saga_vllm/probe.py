"""Is the worker ready, and is it ours? Asked over HTTP until it says so.

vLLM binds its port before it loads the model, so neither an open port nor a quiet one means anything. Ask
saga_vllm.listener first whether the listener is our process: this module sends the key.
"""

import asyncio
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from saga_vllm.metrics import KvPool, parse_pool

# A ready worker answers each of these in milliseconds; a loading one does not answer at all.
PROBE_TIMEOUT_S = 5.0

# /metrics of 0.32.0 has 55 KB, /v1/models some hundred bytes a name.
LONGEST_ANSWER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that serves our names, to holders of our key only."""

    max_model_len: int
    pool: KvPool
    adapters: tuple[str, ...] = ()
    """Names that it serves beside ours: what --lora-modules brought."""


@dataclass(frozen=True, slots=True)
class NotReady:
    """Not yet, or not ours; `reason` is for the log and for `saga status`."""

    reason: str


class _Unfit(Exception):  # noqa: N818 - a finding, turned into NotReady
    """Why this is not our ready worker."""


async def probe(
    url: str, key: str, expected_names: Collection[str], timeout_s: float = PROBE_TIMEOUT_S
) -> Ready | NotReady:
    """Ask the worker at `url` (http://host:port) once. Never raises for what a worker does, or does not do."""
    limits = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(url, timeout=limits, trust_env=False) as http:
            return await _ask(http, key, frozenset(expected_names))
    except _Unfit as unfit:
        return NotReady(str(unfit))
    except TimeoutError:
        return NotReady(f"no answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return NotReady(f"{url}: {error}")


async def _ask(http: aiohttp.ClientSession, key: str, names: frozenset[str]) -> Ready:
    await _get(http, "/health", None, HTTPStatus.OK)
    # A stranger is given a wrong key first: a server that takes any key is not ours, and never sees the real one.
    await _get(http, "/v1/models", secrets.token_urlsafe(), HTTPStatus.UNAUTHORIZED)
    answer = await _get(http, "/v1/models", key, HTTPStatus.OK)
    lengths = _lengths(await _json(answer))
    max_model_len = _max_model_len(lengths, names)
    pool = parse_pool((await _get(http, "/metrics", None, HTTPStatus.OK)).decode("utf-8", "replace"))
    if pool is None:
        raise _Unfit("/metrics does not say the size of the KV pool (vllm:cache_config_info) yet")
    return Ready(max_model_len, pool, tuple(sorted(lengths.keys() - names)) if names else ())


async def _get(http: aiohttp.ClientSession, path: str, key: str | None, expected: HTTPStatus) -> bytes:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with http.get(path, headers=headers, allow_redirects=False) as response:
        if response.status != expected:
            raise _Unfit(f"GET {path} gave {response.status} and not {expected.value}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > LONGEST_ANSWER_BYTES:
                raise _Unfit(f"GET {path} gave more than {LONGEST_ANSWER_BYTES} bytes")
        return bytes(body)


async def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise _Unfit("GET /v1/models gave no JSON") from None


def _lengths(models: Any) -> dict[str, int]:
    """The longest context by name. An adapter's is its model's: vLLM's card of one does not say it."""
    try:
        plain = {model["id"]: model for model in models["data"] if not model.get("parent")}
        lengths = {name: int(model["max_model_len"]) for name, model in plain.items()}
        longest = max(lengths.values(), default=0)
        return lengths | {
            str(model["id"]): lengths.get(model["parent"], longest)
            for model in models["data"]
            if model.get("parent")
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _Unfit("GET /v1/models gave no list of models with their max_model_len") from None


def _max_model_len(lengths: dict[str, int], names: frozenset[str]) -> int:
    if missing := sorted(names - lengths.keys()):
        raise _Unfit(f"serves {', '.join(sorted(lengths))} and not {', '.join(missing)}")
    return min(lengths[name] for name in names or lengths)


async def wait_ready(
    url: str, key: str, expected_names: Collection[str], *, deadline_s: float, every_s: float = 0.2
) -> Ready | NotReady:
    """Probe until ready or for `deadline_s` seconds; the last reason is returned."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        answer = await probe(url, key, expected_names)
        if isinstance(answer, Ready) or loop.time() >= end:
            return answer
        await asyncio.sleep(every_s)
