"""Bringing a session's KV back from host memory before its next step comes.

The order becomes a request of the engine's own: the session's latest prompt and answer, as far as the pool or the tier
has it, with one token to be decoded. So vLLM loads as it loads for any step, on whatever device, and what is loaded is
the session's, free to be found, once that request is over. Nobody waits for its answer: the server's front end knows no
such request and drops it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from vllm.sampling_params import SamplingParams
from vllm.v1.kv_offload.base import make_offload_key
from vllm.v1.request import Request

from saga_vllm.plugin.moving import Cannot

if TYPE_CHECKING:
    from saga_vllm.plugin.keeper import Keeper
    from saga_vllm.plugin.shelf import Shelf

PREFIX = "saga-ahead-"
MOST_TOKENS = 4 << 20
"""Of prompts and answers that are remembered, the latest ones: at some 36 bytes each 150 MB."""
LAST = 1 << 30
"""Priority behind all steps."""


class Ahead:
    """The latest contexts of one engine's sessions, and loading them."""

    def __init__(self, keeper: Keeper, shelf: Shelf) -> None:
        self._keeper, self._shelf = keeper, shelf
        self._latest: OrderedDict[str, Request] = OrderedDict()
        self._tokens = 0
        self._loads = 0

    def remember(self, request: Request) -> None:
        """A request of a session is over: the next one will begin with its tokens."""
        if request.request_id.startswith(PREFIX):
            return
        self.forget(request.session_id)
        self._latest[request.session_id] = request
        self._tokens += request.num_tokens
        while self._tokens > MOST_TOKENS:
            self.forget(next(iter(self._latest)))

    def forget(self, session: str) -> None:
        """It does not return."""
        request = self._latest.pop(session, None)
        if request is not None:
            self._tokens -= request.num_tokens

    def load(self, session: str, engine: Any) -> int:
        """Begin to load what the pool has not and the tier has; in blocks. Cannot: why it was not begun."""
        request = self._latest.get(session)
        if request is None:
            return 0  # its step is here, or nothing of it ever was
        if self._keeper.groups != 1 or request.mm_features or request.lora_request is not None:
            raise Cannot(
                f"session {session}: only text of one kind of KV, without an adapter, is loaded ahead"
            )
        here, behind = self._found(request)
        if not behind:
            return 0
        if behind > self._keeper.queue.num_free_blocks:
            raise Cannot(f"{behind} blocks are needed, {self._keeper.queue.num_free_blocks} are free")
        # vLLM looks for all but the last token, which it computes.
        tokens = (here + behind) * self._keeper.block_tokens + 1
        engine.add_request(self._request(request, tokens, engine.request_block_hasher))
        return behind

    def _found(self, request: Request) -> tuple[int, int]:
        """Its leading blocks that are in the pool, and those of the rest that only the tier has."""
        here = behind = 0
        for name in request.block_hashes:
            if self._keeper.find(name) is not None:
                here += 1
            elif self._shelf.has(make_offload_key(name, 0)):
                behind += 1
            else:
                break
        return here, behind

    def _request(self, request: Request, tokens: int, hasher: Any) -> Request:
        self._loads += 1
        first = self._keeper.smallest_first
        return Request(
            request_id=f"{PREFIX}{self._loads}",
            prompt_token_ids=list(request.all_token_ids[:tokens]),
            sampling_params=SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False),
            pooling_params=None,
            cache_salt=request.cache_salt,
            priority=0 if first is None else LAST if first else -LAST,
            block_hasher=hasher,
            session_id=request.session_id,
        )
