"""Streams of Anthropic's Messages API: how another worker goes on with them.

Rules of this file
  1. vLLM 0.32 takes a last message of the assistant's as one that is over, so the rest is asked for by token ids: those
     of the prompt as the next worker itself renders it, and those of what was said. Its Messages API takes them as it
     takes a prefilling worker's, in `kv_transfer_params`, and leaves out messages and template alone: tools are found
     and events are made as ever.
  2. It is not asked where something else than text is between prompt and text, or steers what comes: pictures,
     thoughts that were not told, a grammar. What it renders must be as long as what the lost worker counted, and what
     it then counts as long as what it was given: an older vLLM would not look at the ids, and answer anew.
  3. Blocks keep their numbers: a text that was begun is gone on with in its block; what else comes, comes behind it.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from saga_head.gateway.enquiry import Enquiry, Found, Prompt
from saga_head.gateway.messages import MessagesSaid
from saga_head.gateway.port import Usage
from saga_head.gateway.reply import read_usage
from saga_head.gateway.resuming import (
    Json,
    Unable,
    number,
    read_event,
    read_request,
    refuse_thoughts,
    told,
    whole_usage,
)
from saga_head.gateway.spoken import Spoken

RENDER = "/v1/messages/render"


class _Kind(msgspec.Struct):
    type: str = ""


class _Output(msgspec.Struct):
    format: Any = None


class Wishes(msgspec.Struct):
    """What of a request decides whether and how it can be gone on with."""

    max_tokens: int
    tool_choice: _Kind | None = None
    output_config: _Output | None = None
    thinking: _Kind | None = None
    kv_transfer_params: Any = None


_FORBIDS: dict[str, Callable[[Wishes], object]] = {
    "output_config.format": lambda w: w.output_config is not None and w.output_config.format,
    "tool_choice": lambda w: w.tool_choice is not None and w.tool_choice.type not in ("auto", "none"),
    # vLLM serves it with an effort that it finds by trying, and renders it without.
    "thinking.disabled": lambda w: w.thinking is not None and w.thinking.type == "disabled",
    "kv_transfer_params": lambda w: w.kv_transfer_params is not None,
}


class MessagesContinuation:
    """How one of them goes on (`continuation.Continuation`)."""

    def __init__(self, spoken: Spoken[MessagesSaid], usage: Usage | None) -> None:
        said = spoken.said
        self._spoken, self._said, self._text = spoken, said, said.text
        self._fields, self._wishes = read_request(spoken.body, Wishes, _FORBIDS)
        refuse_thoughts(self._text)
        self.usage = usage
        self._given = 0  # tokens of the prompt that it is given; 0: it makes its own
        self._counted = 0  # of them, tokens that were said
        self._full = False  # all that may be said has been
        self._opened, self._blocks, self._open = said.opened, said.blocks, said.open
        self._shift: int | None = None  # what is added to the numbers of its blocks

    @property
    def over(self) -> bool:
        """Whether nothing is missing but the end."""
        return self._said.finished

    @property
    def end(self) -> bytes:
        """The events that then are missing."""
        return b"" if self._said.ended else told({"type": "message_stop"}) + b"\n\n"

    def enquiry(self) -> Enquiry:
        """What is to be asked before the rest is."""
        return Enquiry(self._text, path=RENDER, request=self._spoken.body) if self._text else Enquiry()

    def body(self, found: Found) -> bytes:
        """The request to send."""
        if not self._text:
            return msgspec.json.encode(self._fields)
        if found.prompt is None or found.ids is None:
            raise Unable(
                "its next worker does not say what tokens it is (vLLM says it with --enable-scale-out)"
            )
        self._check(found.prompt)
        ids = [*found.prompt.token_ids, *found.ids]
        self._given, self._counted = len(ids), len(found.ids)
        self._full = self._counted >= self._wishes.max_tokens
        fields = dict(self._fields)
        fields["max_tokens"] = number(max(1, self._wishes.max_tokens - self._counted))
        fields["kv_transfer_params"] = msgspec.Raw(msgspec.json.encode({"prompt_token_ids": ids}))
        return msgspec.json.encode(fields)

    def _check(self, prompt: Prompt) -> None:
        if prompt.features is not None:
            raise Unable("its prompt has more in it than text")
        if prompt.sampling_params.structured_outputs is not None:
            raise Unable("a grammar rules what is said")
        if prompt.reasoning_parser_kwargs is not None and not prompt.reasoning_ended:
            raise Unable("its model may have thought before it spoke")
        if len(prompt.token_ids) != self._said.prompt_tokens:
            raise Unable("its next worker makes another prompt of it")

    def tell(self, event: bytes) -> bytes:
        """An event as the client is told it."""
        said = read_event(event)
        if said is None:
            return event + b"\n\n"
        return b"".join([self._noted(one) for one in self._retold(said)])

    def _noted(self, said: Json) -> bytes:
        event = told(said)
        self._spoken.note(event)
        return event + b"\n\n"

    def _retold(self, said: Json) -> list[Json]:
        match said["type"]:
            case "message_start":
                return self._start(said)
            case "content_block_start":
                return self._begin(said)
            case "content_block_delta" | "content_block_stop":
                return self._go_on(said)
            case "message_delta":
                return [*self._close(), self._finish(said)]
            case _:
                return [said]

    def _start(self, said: Json) -> list[Json]:
        usage = read_usage(msgspec.json.encode(said))
        if self._given and (usage is None or usage.prompt_tokens != self._given):
            raise Unable("its next worker did not take the prompt that it was given")
        return [] if self._opened else [said]

    def _begin(self, said: Json) -> list[Json]:
        if self._full:
            return []
        if self._open and self._shift is None and said["content_block"].get("type") == "text":
            self._shift = self._blocks - 1 - said["index"]
            return []
        closed = self._close()
        if self._shift is None:
            self._shift = self._blocks - said["index"]
        self._blocks += 1
        return [*closed, said | {"index": said["index"] + self._shift}]

    def _go_on(self, said: Json) -> list[Json]:
        if self._full or self._shift is None:
            return []
        index = said["index"] + self._shift
        if said["type"] == "content_block_stop" and index == self._blocks - 1:
            self._open = False
        return [said | {"index": index}]

    def _close(self) -> list[Json]:
        """The end of the text that was begun, if it has not come."""
        if not self._open:
            return []
        self._open = False
        return [{"type": "content_block_stop", "index": self._blocks - 1}]

    def _finish(self, said: Json) -> Json:
        """Why it ended, and the usage of the whole."""
        if self._full:
            said["delta"] = {"stop_reason": "max_tokens", "stop_sequence": None}
        counts: Any = said.get("usage")
        usage = whole_usage(counts, self._counted, more=not self._full)
        if usage is not None:
            self.usage = usage
            _count(counts, usage)
        return said


def _count(counts: Json, usage: Usage) -> None:
    """Put it in: cached tokens are no part of `input_tokens`."""
    apart = usage.cached_tokens
    if apart:
        counts["cache_read_input_tokens"] = apart
    if counts.get("cache_creation_input_tokens"):
        created = min(counts["cache_creation_input_tokens"], usage.prompt_tokens - apart)
        counts["cache_creation_input_tokens"] = created
        apart += created
    counts |= {"input_tokens": usage.prompt_tokens - apart, "output_tokens": usage.output_tokens}
