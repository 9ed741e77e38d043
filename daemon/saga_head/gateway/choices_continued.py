"""Streams of chat completions and of completions: how another worker goes on with them.

It is asked with vLLM's `continue_final_message` and what was said as the last message, or behind the prompt.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from saga_head.gateway.choices import DATA, DONE, ChoicesSaid
from saga_head.gateway.enquiry import Enquiry, Found
from saga_head.gateway.port import Usage
from saga_head.gateway.resuming import (
    Json,
    RawFields,
    Unable,
    joined,
    number,
    read_request,
    refuse_harmony,
    refuse_thoughts,
    whole_usage,
)
from saga_head.gateway.spoken import Spoken

COMPLETION_TOKENS = 16  # vLLM's `max_tokens` of a completion that names none


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Wishes(msgspec.Struct):
    """What of a request decides whether and how it can be gone on with."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = 0
    stream_options: _StreamOptions | None = None
    n: int | None = 1
    best_of: int | None = 1
    use_beam_search: bool = False
    logprobs: bool | int | None = None
    top_logprobs: int | None = 0
    prompt_logprobs: int | None = None
    temperature: float | None = None
    seed: int | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    bad_words: list[str] | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    response_format: dict[str, Any] | None = None
    structured_outputs: Any = None
    tool_choice: Any = None
    include_reasoning: bool = True
    echo: bool | None = False
    suffix: str | None = None
    prompt_embeds: Any = None
    truncate_prompt_tokens: int | None = None
    repetition_detection: Any = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


_FORBIDS: dict[str, Callable[[Wishes], object]] = {
    "n": lambda w: w.n not in (None, 1) or w.best_of not in (None, 1),
    "use_beam_search": lambda w: w.use_beam_search,
    "logprobs": lambda w: (
        not (w.logprobs in (None, False) and w.logprobs != 0) or w.top_logprobs or w.prompt_logprobs
    ),
    "seed": lambda w: w.seed is not None and w.temperature != 0,
    "presence_penalty or frequency_penalty": lambda w: w.presence_penalty or w.frequency_penalty,
    "bad_words": lambda w: w.bad_words,
    "include_stop_str_in_output": lambda w: w.include_stop_str_in_output and w.stop,
    "response_format": lambda w: w.response_format and w.response_format.get("type") != "text",
    "structured_outputs": lambda w: w.structured_outputs,
    "tool_choice": lambda w: w.tool_choice not in (None, "auto", "none"),
    "include_reasoning": lambda w: not w.include_reasoning,
    "echo": lambda w: w.echo,
    "suffix": lambda w: w.suffix,
    "prompt_embeds": lambda w: w.prompt_embeds,
    "truncate_prompt_tokens": lambda w: w.truncate_prompt_tokens is not None,
    "repetition_detection": lambda w: w.repetition_detection,
    "continue_final_message": lambda w: w.continue_final_message or not w.add_generation_prompt,
}
_USAGES = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')


class ChoicesContinuation:
    """How one of them goes on (`continuation.Continuation`). Its ids become those of the first, its usage the sum of all."""

    def __init__(self, spoken: Spoken[ChoicesSaid], usage: Usage | None, *, chat: bool) -> None:
        self._spoken, self._said, self._chat = spoken, spoken.said, chat
        self._fields, self._wishes = read_request(spoken.body, Wishes, _FORBIDS)
        if chat:
            refuse_thoughts(spoken.said.text)
        self._asked = self._prompt()
        self._counted = 0
        self._ended = spoken.said.finished
        """Only its usage is missing."""
        self.usage = usage

    @property
    def over(self) -> bool:
        """Whether nothing is missing but the end."""
        return self._ended and (self._said.used or not self._wants_usage)

    @property
    def end(self) -> bytes:
        """The events that then are missing."""
        return b"" if self._said.ended else DONE + b"\n\n"

    def enquiry(self) -> Enquiry:
        """What is to be asked before the rest is."""
        return Enquiry("" if self._exact else self._said.text, harmony=self._chat)

    def body(self, found: Found) -> bytes:
        """The request to send."""
        refuse_harmony(found)
        said, wishes = self._said, self._wishes
        if self._exact:
            self._counted = len(said.ids or ())
        else:
            self._counted = said.tokens if found.ids is None else len(found.ids)
        fields, tokens, most = dict(self._asked), self._counted, self._most()
        fields["stream_options"] = _USAGES
        name = "max_completion_tokens" if wishes.max_completion_tokens is not None else "max_tokens"
        if said.finished:
            most, tokens = 1, 0
        if most is not None:
            fields[name] = number(max(1, most - tokens))
        if wishes.min_tokens:
            fields["min_tokens"] = number(0 if said.finished else max(0, wishes.min_tokens - tokens))
        return msgspec.json.encode(fields)

    def tell(self, event: bytes) -> bytes:
        """An event as the client is told it; empty where it is not."""
        if not event.startswith(b"data: {"):
            self._spoken.note(event)
            return event + b"\n\n"
        try:
            said = msgspec.json.decode(event[len(DATA) :])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event + b"\n\n"
        if not isinstance(said.get("choices"), list):
            return event + b"\n\n"
        return self._chunk(said)

    @property
    def _wants_usage(self) -> bool:
        options = self._wishes.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def _wants_continuous_usage(self) -> bool:
        options = self._wishes.stream_options
        return self._wants_usage and options is not None and bool(options.continuous_usage_stats)

    @property
    def _exact(self) -> bool:
        """Whether its tokens are known, not only its text."""
        given = bytes(self._fields.get("prompt", b""))
        return not self._chat and self._said.ids is not None and given.startswith(b"[")

    def _most(self) -> int | None:
        wishes = self._wishes
        if not self._chat:
            return COMPLETION_TOKENS if wishes.max_tokens is None else wishes.max_tokens
        return wishes.max_tokens if wishes.max_completion_tokens is None else wishes.max_completion_tokens

    def _prompt(self) -> RawFields:
        """The request's fields with what was said in them."""
        text, fields = self._said.text, dict(self._fields)
        if not text:
            return fields
        if self._chat:
            message = msgspec.json.encode({"role": "assistant", "content": text})
            fields["messages"] = joined(fields.get("messages", msgspec.Raw(b"[]")), message)
            fields["add_generation_prompt"] = msgspec.Raw(b"false")
            fields["continue_final_message"] = msgspec.Raw(b"true")
            return fields
        prompt = msgspec.json.decode(fields.get("prompt", b"null"))
        if isinstance(prompt, str):
            fields["prompt"] = msgspec.Raw(msgspec.json.encode(prompt + text))
        elif isinstance(prompt, list) and all(type(item) is int for item in prompt) and self._said.ids:
            fields["prompt"] = msgspec.Raw(msgspec.json.encode([*prompt, *self._said.ids]))
        else:
            raise Unable("its prompt is neither a text nor token ids with `return_token_ids`")
        return fields

    def _chunk(self, said: Json) -> bytes:
        before, choices = self._said, said["choices"]
        self._count(said)
        if before.id:
            said |= {"id": before.id, "created": before.created}
        repeats = self._ended or (before.opened and _opens(choices[0])) if choices else not self._wants_usage
        if repeats:
            return b""
        self._spoken.note(_data(said))
        if choices and not self._wants_continuous_usage:
            said.pop("usage", None)
        return _data(said) + b"\n\n"

    def _count(self, said: Json) -> None:
        """Its usage, as the usage of the whole."""
        counts: Any = said.get("usage")
        usage = whole_usage(counts, self._counted, more=not self._ended)
        if usage is None:
            return
        self.usage = usage
        prompt, output = usage.prompt_tokens, usage.output_tokens
        counts |= {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        details = counts.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens"):
            details["cached_tokens"] = usage.cached_tokens


def _data(said: Json) -> bytes:
    return b"data: " + msgspec.json.encode(said)


def _opens(choice: Json) -> bool:
    """Whether it only names the role."""
    delta = choice.get("delta")
    return isinstance(delta, dict) and "role" in delta and not delta.get("content")
