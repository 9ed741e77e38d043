"""Reply bodies and stream chunks in vLLM's shapes: what all APIs share, and both completions APIs."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from saga_fake.reply import CallDelta
from saga_fake.requests import EngineRequest, Output

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def event(body: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def named_event(name: str, body: Json) -> bytes:
    """One with a name, as the Messages and the Responses API have them."""
    return b"event: " + name.encode() + b"\n" + event(body)


@dataclass(slots=True, kw_only=True)
class Answer:
    """What all endpoints share: identity, usage and the text so far."""

    id: str
    model: str
    request: EngineRequest
    continuous_usage: bool = False
    token_ids_wanted: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    generated: list[int] = field(default_factory=list)
    last: Output | None = None

    chunk_object = ""
    whole_object = ""
    last_words = b""

    def add(self, output: Output) -> None:
        """Take in one token."""
        self.text += output.text
        self.generated.append(output.piece.token)
        self.last = output

    def opening(self) -> list[bytes]:
        """What a stream begins with, once its first token is there."""
        first = self.first()
        return [] if first is None else [event(first)]

    def events(self, output: Output) -> list[bytes]:
        """What a stream says of one token, which has been added."""
        delta = self.delta(output)
        return [] if delta is None else [event(delta)]

    def closing(self, *, usage: bool) -> list[bytes]:
        """What a stream ends with."""
        return [event(self.usage_chunk())] if usage else []

    def first(self) -> Json | None:
        """The chunk that opens a stream."""
        return None

    def delta(self, output: Output) -> Json | None:
        """The chunk for one token; None for a token of which a client sees nothing."""
        raise NotImplementedError

    def whole(self) -> Json:
        """The unstreamed reply."""
        raise NotImplementedError

    def usage(self, *, details: bool = True) -> Json:
        """Token counts so far; `details` with the cached prompt tokens (vLLM's --enable-prompt-tokens-details)."""
        prompt, completion = self.request.prompt_tokens, len(self.generated)
        counts: Json = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
        }
        if details:
            counts["prompt_tokens_details"] = {"cached_tokens": self.request.cached_tokens}
        return counts

    def envelope(self, kind: str, choices: list[Json]) -> Json:
        """The fields around the choices."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def chunk(self, choices: list[Json]) -> Json:
        """One stream event."""
        body = self.envelope(self.chunk_object, choices)
        if self.continuous_usage:
            body["usage"] = self.usage(details=False)
        return body

    def usage_chunk(self) -> Json:
        """The last event of a stream with include_usage."""
        return {**self.envelope(self.chunk_object, []), "usage": self.usage()}

    def ending(self) -> Json:
        """finish_reason and stop_reason of the whole reply."""
        assert self.last is not None
        assert self.last.finish is not None
        return {"finish_reason": str(self.last.finish), "stop_reason": self.last.stop_reason}


@dataclass(slots=True, kw_only=True)
class ChatAnswer(Answer):
    """A chat completion, with tool calls."""

    calls: list[Json] = field(default_factory=list)

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"
    last_words = DONE

    def first(self) -> Json:
        """The event that opens a stream."""
        delta = {"role": "assistant", "content": ""}
        return self.chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def add(self, output: Output) -> None:
        Answer.add(self, output)
        match output.piece.call:
            case CallDelta(name=str(name)):
                function = {"name": name, "arguments": ""}
                self.calls.append(
                    {"id": f"chatcmpl-tool-{uuid.uuid4().hex[:16]}", "type": "function", "function": function}
                )
            case CallDelta(arguments=arguments):
                self.calls[-1]["function"]["arguments"] += arguments

    def delta(self, output: Output) -> Json | None:
        """The event for one token; None for a token of which a client sees nothing."""
        delta: Json = {}
        if output.piece.call is not None:
            delta["tool_calls"] = [self._call_delta(output.piece.call)]
        elif output.text or not self.calls:
            delta["content"] = output.text
        elif output.finish is None and not self.token_ids_wanted:
            return None
        choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        if self.token_ids_wanted:
            choice["token_ids"] = [output.piece.token]
        return self.chunk([choice | self.ending() if output.finish is not None else choice])

    def ending(self) -> Json:
        end = Answer.ending(self)
        if self.calls and end["finish_reason"] == "stop":
            end["finish_reason"] = "tool_calls"
        return end

    def whole(self) -> Json:
        """The unstreamed reply."""
        message: Json = {"role": "assistant", "content": self.text if self.text or not self.calls else None}
        message |= {
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {"index": 0, "message": message, "logprobs": None, **self.ending()}
        choice["token_ids"] = self.generated if self.token_ids_wanted else None
        body = self.envelope(self.whole_object, [choice]) | {"usage": self.usage()}
        body["prompt_token_ids"] = prompt_ids(self.request) if self.token_ids_wanted else None
        return body

    def _call_delta(self, call: CallDelta) -> Json:
        if call.name is None:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        function = {"name": call.name, "arguments": ""}
        return {"index": call.index, "id": self.calls[-1]["id"], "type": "function", "function": function}


@dataclass(slots=True, kw_only=True)
class CompletionAnswer(Answer):
    """A text completion; `echo` is the prompt's text, given back first."""

    echo: str = ""

    chunk_object = "text_completion"
    whole_object = "text_completion"
    last_words = DONE

    def delta(self, output: Output) -> Json | None:
        """The event for one token."""
        first = len(self.generated) == 1
        text = self.echo + output.text if first else output.text
        choice: Json = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
        }
        if self.token_ids_wanted:
            choice["token_ids"] = [output.piece.token]
            choice["prompt_token_ids"] = prompt_ids(self.request) if first else None
        return self.chunk([choice | self.ending() if output.finish is not None else choice])

    def whole(self) -> Json:
        """The unstreamed reply."""
        choice: Json = {"index": 0, "text": self.echo + self.text, "logprobs": None, **self.ending()}
        choice["token_ids"] = self.generated if self.token_ids_wanted else None
        choice["prompt_token_ids"] = prompt_ids(self.request) if self.token_ids_wanted else None
        return self.envelope(self.whole_object, [choice]) | {"usage": self.usage()}


def prompt_ids(request: EngineRequest) -> list[int]:
    """Token ids of the prompt alone."""
    return request.tokens[: request.prompt_tokens]
