"""Anthropic's Messages API as vLLM 0.32 serves it (`vllm/entrypoints/anthropic`): requests, replies, events."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from saga_fake.answers import Answer, Json, named_event
from saga_fake.reply import CallDelta
from saga_fake.requests import Output
from saga_fake.tokens import chat_tokens, content_text
from saga_fake.wire import ChatRequest, GenerationRequest, RequestRefused


class MessagesRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/messages; of /v1/messages/count_tokens, which has no limit, too."""

    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None

    @property
    def stops(self) -> list[str]:
        return self.stop_sequences or []

    @property
    def usage_wanted(self) -> bool:
        return True

    def as_chat(self) -> ChatRequest:
        """The same question to the chat API, as vLLM asks it."""
        return ChatRequest(
            model=self.model,
            messages=chat_messages(self.messages, self.system),
            tools=self.tools,
            max_tokens=self.max_tokens,
            stop=self.stops,
            stream=self.stream,
            cache_salt=self.cache_salt,
            vllm_xargs=self.vllm_xargs,
            kv_transfer_params=self.kv_transfer_params,
        )


def rendered(request: MessagesRequest) -> Json:
    """The answer of /v1/messages/render, vLLM's `GenerateRequest` as far as anybody asks for it."""
    ids = chat_tokens(chat_messages(request.messages, request.system), request.tools or ())
    params = {"max_tokens": request.max_tokens, "structured_outputs": None}
    return {"model": request.model, "token_ids": ids, "features": None, "sampling_params": params}


def count_tokens(request: MessagesRequest) -> Json:
    """The answer of /v1/messages/count_tokens."""
    tokens = len(chat_tokens(chat_messages(request.messages, request.system), request.tools or ()))
    return {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}


def chat_messages(messages: list[dict[str, Any]], system: str | list[dict[str, Any]] | None) -> list[Json]:
    """Messages with their blocks as chat messages: tool uses become calls, tool results messages of their own."""
    found: list[Json] = []
    if system:
        found.append({"role": "system", "content": content_text(system)})
    for message in messages:
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        found += _of_blocks(str(message.get("role")), blocks)
    return found


def _of_blocks(role: str, blocks: list[Any]) -> list[Json]:
    text = content_text([b for b in blocks if isinstance(b, dict) and b.get("type") == "text"])
    calls = [_call(b) for b in blocks if isinstance(b, dict) and b.get("type") == "tool_use"]
    results = [
        {"role": "tool", "tool_call_id": b.get("tool_use_id"), "content": content_text(b.get("content"))}
        for b in blocks
        if isinstance(b, dict) and b.get("type") == "tool_result"
    ]
    said: Json = {"role": role, "content": text}
    if calls:
        said["tool_calls"] = calls
    return [*results, said] if text or calls or not results else results


def _call(block: Json) -> Json:
    arguments = json.dumps(block.get("input") or {}, separators=(",", ":"))
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def messages_error(refused: RequestRefused) -> Json:
    """`AnthropicErrorResponse`: vLLM keeps its own names of types."""
    return {"type": "error", "error": {"type": refused.kind, "message": str(refused)}}


@dataclass(slots=True, kw_only=True)
class MessagesAnswer(Answer):
    """A message with its blocks."""

    blocks: list[Json] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    """Of the tool use that is being written."""

    def opening(self) -> list[bytes]:
        started = self._message() | {"content": [], "usage": self._usage()}
        return [named_event("message_start", {"type": "message_start", "message": started})]

    def events(self, output: Output) -> list[bytes]:
        frames: list[bytes] = []
        match output.piece.call:
            case CallDelta(name=str(name)):
                frames += self._begin(
                    {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:16]}", "name": name, "input": {}}
                )
            case CallDelta(arguments=arguments):
                self.arguments.append(arguments)
                frames.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
            case None if output.text:
                if not self.blocks or self.blocks[-1]["type"] != "text":
                    frames += self._begin({"type": "text", "text": ""})
                self.blocks[-1]["text"] += output.text
                frames.append(self._delta({"type": "text_delta", "text": output.text}))
        return frames

    def closing(self, *, usage: bool) -> list[bytes]:
        del usage
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        return [
            *self._end(),
            named_event("message_delta", {"type": "message_delta", "delta": delta, "usage": self._usage()}),
            named_event("message_stop", {"type": "message_stop"}),
        ]

    def whole(self) -> Json:
        """The unstreamed reply."""
        self._end()
        return self._message() | {
            "content": self.blocks,
            "stop_reason": self._stop_reason(),
            "stop_sequence": self._stop_sequence(),
            "usage": self._usage(),
        }

    def _message(self) -> Json:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}

    def _begin(self, block: Json) -> list[bytes]:
        frames = self._end()
        self.blocks.append(block)
        start = {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": dict(block)}
        return [*frames, named_event("content_block_start", start)]

    def _delta(self, delta: Json) -> bytes:
        event = {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}
        return named_event("content_block_delta", event)

    def _end(self) -> list[bytes]:
        if not self.blocks:
            return []
        if self.blocks[-1]["type"] == "tool_use":
            self.blocks[-1]["input"] = _object("".join(self.arguments))
            self.arguments.clear()
        stop = {"type": "content_block_stop", "index": len(self.blocks) - 1}
        return [named_event("content_block_stop", stop)]

    def _usage(self) -> Json:
        """Cached tokens are counted apart, and not at all in `input_tokens`."""
        cached = self.request.cached_tokens or 0
        return {
            "input_tokens": self.request.prompt_tokens - cached,
            "output_tokens": len(self.generated),
            "cache_read_input_tokens": cached,
        }

    def _stop_reason(self) -> str:
        end = self.ending()
        if end["finish_reason"] == "length":
            return "max_tokens"
        if any(block["type"] == "tool_use" for block in self.blocks):
            return "tool_use"
        return "end_turn" if self._stop_sequence() is None else "stop_sequence"

    def _stop_sequence(self) -> str | None:
        reason = self.ending()["stop_reason"]
        return reason if isinstance(reason, str) else None


def _object(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {}
