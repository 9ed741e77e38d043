"""Reading a ready worker's figures, once a second, over one connection."""

from __future__ import annotations

from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from saga_core.ids import WorkerId
from saga_core.node_words import WorkerLoad, WorkerSilent
from saga_vllm.metrics import parse_metrics
from saga_vllm.probe import LONGEST_ANSWER_BYTES

LEAST_TIMEOUT_S = 1.0
"""A worker on a busy core answers within some hundred milliseconds."""


class Watch:
    """`async with Watch(…) as watch: … await watch.read()`."""

    def __init__(self, worker: WorkerId, incarnation: int, url: str, every_s: float) -> None:
        self._worker, self._incarnation = worker, incarnation
        self._timeout_s = max(2 * every_s, LEAST_TIMEOUT_S)
        self._http = aiohttp.ClientSession(
            url, timeout=aiohttp.ClientTimeout(total=self._timeout_s), trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def read(self) -> WorkerLoad | WorkerSilent:
        """One reading, or why there is none. Never raises for what the worker does."""
        try:
            await self._get("/health")
            load = parse_metrics(await self._get("/metrics"))
        except TimeoutError:
            return self._silent(f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._silent(str(error) or type(error).__name__)
        usage = min(max(load.kv_usage, 0.0), 1.0)
        tokens = load.prompt_tokens + load.generation_tokens
        return WorkerLoad(self._worker, self._incarnation, load.running, load.waiting, usage, tokens)

    def _silent(self, reason: str) -> WorkerSilent:
        return WorkerSilent(self._worker, self._incarnation, reason)

    async def _get(self, path: str) -> str:
        async with self._http.get(path, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise ValueError(f"GET {path} gave {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LONGEST_ANSWER_BYTES:
                    raise ValueError(f"GET {path} gave more than {LONGEST_ANSWER_BYTES} bytes")
            return body.decode("utf-8", "replace")
