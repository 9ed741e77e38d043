"""One step over HTTP with an ordinary OpenAI client: token ids in, a streamed completion of forced length out."""

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

from saga_core.errors import UserError
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


def openai_package() -> ModuleType:
    """The `openai` package, or a UserError naming the extra that brings it."""
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise UserError("replay over HTTP needs the openai package: pip install 'saga-llm[replay]'") from None


class StepCaller:
    """Sends steps; one pool of connections for all workflows of a replay. `async with` closes it."""

    def __init__(self, *, model: str, patience: Patience) -> None:
        self._openai = openai_package()
        self._model = model
        self._patience = patience
        # Straight to the cluster: a proxy of the environment has no part in a measurement.
        http = self._openai.DefaultAsyncHttpxClient(trust_env=False)
        self._client = self._openai.AsyncOpenAI(
            base_url="http://unset.invalid/v1", api_key="unset", max_retries=0,
            timeout=patience.silence_s, http_client=http,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def bound_to(self, endpoint: Endpoint) -> Any:
        """The same client with another address and key."""
        return self._client.with_options(base_url=endpoint.base_url, api_key=endpoint.api_key)

    async def call(
        self,
        client: Any,
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
        for attempt in range(1, self._patience.attempts + 1):
            try:
                reply = await self._attempt(client, prompt, output_tokens, headers, on_first)
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

    async def _attempt(
        self,
        client: Any,
        prompt: list[int],
        output_tokens: int,
        headers: dict[str, str],
        on_first: Callable[[], None],
    ) -> Reply:
        try:
            return await self._stream(client, prompt, output_tokens, headers, on_first)
        except self._openai.APIStatusError as error:
            retry = error.status_code in RETRIED_STATUSES
            told = f"HTTP {error.status_code}: {_told(error)}"
            raise StepFailed(told, _retry_after_s(error.response.headers), retry=retry) from error
        except self._openai.APIConnectionError as error:
            raise StepFailed(f"no connection: {error.__cause__ or error}", retry=True) from error
        except self._openai.APIError as error:  # an error event in the stream
            raise StepFailed(f"error in the stream: {_told(error)}", retry=True) from error
        except (OSError, ValueError) as error:
            raise StepFailed(f"broken stream: {error}", retry=True) from error
        except Exception as error:
            # While streaming, the client's own transport errors come unwrapped (httpx or httpx2 by version).
            if not type(error).__module__.startswith("httpx"):
                raise
            raise StepFailed(f"broken stream: {type(error).__name__} {error}", retry=True) from error

    async def _stream(
        self,
        client: Any,
        prompt: list[int],
        output_tokens: int,
        headers: dict[str, str],
        on_first: Callable[[], None],
    ) -> Reply:
        clock = asyncio.get_running_loop().time
        stream = await client.completions.create(
            model=self._model,
            prompt=prompt,
            max_tokens=output_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers=headers,
            extra_body={"ignore_eos": True, "min_tokens": output_tokens, "return_token_ids": True},
        )
        reply = Reply()
        async with stream:
            async for chunk in stream:
                if reply.first_at is None:
                    reply.first_at = clock()
                    on_first()
                _take(reply, chunk)
        reply.ended_at = clock()
        if reply.finish_reason is None or reply.output_tokens is None:
            raise StepFailed("the stream ended before its last event", retry=True)
        return reply


def _take(reply: Reply, chunk: Any) -> None:
    """Add one chunk: vLLM's `token_ids` are the new ids of this chunk, usage comes in the last one."""
    for choice in chunk.choices:
        reply.output_ids += getattr(choice, "token_ids", None) or []
        reply.finish_reason = choice.finish_reason or reply.finish_reason
    if chunk.usage is not None:
        reply.prompt_tokens = chunk.usage.prompt_tokens
        reply.output_tokens = chunk.usage.completion_tokens
        details = getattr(chunk.usage, "prompt_tokens_details", None)
        reply.cached_tokens = getattr(details, "cached_tokens", None)


def _pause_s(failed: StepFailed, attempt: int) -> float:
    """The server's own wish, else doubling from a quarter of a second."""
    if failed.retry_after_s is not None:
        return failed.retry_after_s
    return float(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))


def _retry_after_s(headers: Any) -> float | None:
    try:
        wish_s = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return wish_s if 0 <= wish_s < float("inf") else None


def _told(error: Any) -> str:
    """The server's message, short."""
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)[:500]
