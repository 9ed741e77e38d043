"""One step over HTTP as OpenAI clients speak it: token ids in, a streamed completion of forced length out.

aiohttp and partial decoding, not an OpenAI package: on a machine that runs workers as well, the client's own CPU time is
theirs, and a client that builds a model of every chunk took 54 ms of it per step (docs/simulator.md).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import msgspec

from saga_sim.runs import Endpoint

# Statuses that say "not now": too many requests, a lost upstream, restarting, silent upstream.
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a step may take. silence_s: between two bytes (a queued step is silent until it runs);
    retry_for_s, attempts: bounds of the retries of one step.
    """

    silence_s: float = 600.0
    retry_for_s: float = 120.0
    attempts: int = 8


@dataclass(slots=True)
class Reply:
    """What the server sent and said. Times are the caller's clock."""

    first_at: float | None = None
    ended_at: float = 0.0
    output_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    attempts: int = 1


class StepFailed(Exception):  # noqa: N818 - an outcome of one step, told as data by the replay
    """The step did not succeed; `retry_after_s` is None if trying again is no use."""

    def __init__(self, why: str, retry_after_s: float | None = None, *, retry: bool = False) -> None:
        super().__init__(why)
        self.retry = retry
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a workflow's steps go, ready to be sent."""

    url: str
    headers: dict[str, str] = field(repr=False)


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    """vLLM's, where it was asked for: those that are new in this chunk."""


class _Fault(msgspec.Struct, frozen=True):
    message: str = ""


class _Chunk(msgspec.Struct, frozen=True):
    """What is read of an event, or of an answer that is an error."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Fault | None = None
    message: str = ""


_CHUNK = msgspec.json.Decoder(_Chunk)
_DATA, _DONE = b"data:", b"[DONE]"
LONGEST_LINE_BYTES = 4 << 20
"""Of an event; a stream with longer ones is broken."""


class StepCaller:
    """Sends steps; one pool of connections for all workflows of a replay. `async with` opens and closes it."""

    def __init__(self, *, model: str, patience: Patience) -> None:
        self._model = model
        self._patience = patience
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Straight to the cluster: a proxy of the environment has no part in a measurement.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._patience.silence_s, sock_read=self._patience.silence_s
            ),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    def bound_to(self, endpoint: Endpoint) -> Address:
        """Where steps of a workflow with this endpoint go."""
        return Address(
            url=endpoint.base_url.rstrip("/") + "/completions",
            headers={"Authorization": f"Bearer {endpoint.api_key}", "Content-Type": "application/json"},
        )

    async def call(
        self,
        client: Address,
        prompt: list[int],
        output_tokens: int,
        headers: dict[str, str],
        *,
        on_first: Callable[[], None],
        on_retry: Callable[[str], None],
    ) -> Reply:
        """The step's reply, after retries where they are of use. Raises StepFailed."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience.retry_for_s
        body = self._body(prompt, output_tokens)
        for attempt in range(1, self._patience.attempts + 1):
            try:
                reply = await self._attempt(client, body, headers, on_first)
            except StepFailed as failed:
                pause_s = _pause_s(failed, attempt)
                if not failed.retry or attempt == self._patience.attempts or clock() + pause_s > deadline:
                    tried = f" (tried {attempt} times)" if attempt > 1 else ""
                    raise StepFailed(f"{failed}{tried}") from failed.__cause__
                on_retry(str(failed))
                await asyncio.sleep(pause_s)
            else:
                reply.attempts = attempt
                return reply
        raise StepFailed("no attempt was allowed")

    def _body(self, prompt: list[int], output_tokens: int) -> bytes:
        return msgspec.json.encode(
            {
                "model": self._model,
                "prompt": prompt,
                "max_tokens": output_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "ignore_eos": True,
                "min_tokens": output_tokens,
                "return_token_ids": True,
            }
        )

    async def _attempt(
        self, client: Address, body: bytes, headers: dict[str, str], on_first: Callable[[], None]
    ) -> Reply:
        assert self._http is not None, "`async with` opens it"
        try:
            async with self._http.post(
                client.url, data=body, headers=client.headers | headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await _refused(response)
                return await _stream(response, on_first)
        except aiohttp.ClientConnectorError as error:
            raise StepFailed(f"no connection: {error}", retry=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise StepFailed(f"broken stream: {type(error).__name__} {error}", retry=True) from error


async def _refused(response: aiohttp.ClientResponse) -> StepFailed:
    told = _message(await response.content.read(LONGEST_LINE_BYTES))
    return StepFailed(
        f"HTTP {response.status}: {told or response.reason}",
        _retry_after_s(response.headers.get("retry-after", "")),
        retry=response.status in RETRIED_STATUSES,
    )


async def _stream(response: aiohttp.ClientResponse, on_first: Callable[[], None]) -> Reply:
    clock = asyncio.get_running_loop().time
    reply = Reply()
    async for told in _events(response.content):
        chunk = _CHUNK.decode(told)
        if chunk.error is not None:
            raise StepFailed(f"error in the stream: {chunk.error.message[:500]}", retry=True)
        if reply.first_at is None:
            reply.first_at = clock()
            on_first()
        _take(reply, chunk)
    reply.ended_at = clock()
    if reply.finish_reason is None or reply.output_tokens is None:
        raise StepFailed("the stream ended before its last event", retry=True)
    return reply


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event of one line; read to the end, so that the connection serves again."""
    rest = b""
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE_BYTES:
            raise ValueError(f"a line of more than {LONGEST_LINE_BYTES} bytes")
        for line in lines:
            data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else b""
            if data and data != _DONE:
                yield data


def _take(reply: Reply, chunk: _Chunk) -> None:
    """Add one chunk; usage comes in the last one."""
    for choice in chunk.choices:
        reply.output_ids += choice.token_ids or []
        reply.finish_reason = choice.finish_reason or reply.finish_reason
    if chunk.usage is not None:
        reply.prompt_tokens = chunk.usage.prompt_tokens
        reply.output_tokens = chunk.usage.completion_tokens
        details = chunk.usage.prompt_tokens_details
        reply.cached_tokens = details.cached_tokens if details else None


def _pause_s(failed: StepFailed, attempt: int) -> float:
    """The server's own wish, else doubling from a quarter of a second."""
    if failed.retry_after_s is not None:
        return failed.retry_after_s
    return float(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))


def _retry_after_s(wish: str) -> float | None:
    try:
        wish_s = float(wish)
    except ValueError:
        return None
    return wish_s if 0 <= wish_s < float("inf") else None


def _message(body: bytes) -> str:
    """The server's own words, short; of an OpenAI error or of vLLM's older shape."""
    try:
        told = _CHUNK.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace").strip()[:500]
    return ((told.error and told.error.message) or told.message)[:500]
