"""Which requests can be gone on with in mid-answer, and what the next worker is asked.

A model's next token depends on the tokens before it alone, so an answer can be computed in two places if nothing else
is carried along in the engine: what is refused here is what would be (docs/apis.md has the list with reasons). Chat:
vLLM's `continue_final_message` with what was said as the last message; completions: what was said behind the prompt.
"""

from collections.abc import Callable
from typing import Any

import msgspec

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
_THOUGHT = ("<think>", "</think>")
"""What templates take out of earlier messages, or put elsewhere."""


class Unable(Exception):  # noqa: N818 - an answer
    """It cannot be gone on with; says why."""


class Continuation:
    """One request and what was said to it. `Unable` where it cannot be gone on with."""

    def __init__(self, api: str, spoken: Spoken) -> None:
        if spoken.lost:
            raise Unable(spoken.lost)
        self.chat = api == "/v1/chat/completions"
        self._spoken = spoken
        try:
            self._fields = msgspec.json.decode(spoken.body, type=dict[str, msgspec.Raw])
            self.wishes = wishes = msgspec.json.decode(spoken.body, type=Wishes)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unable(f"its request has a field that is odd: {error}") from error
        for name, forbids in _FORBIDS.items():
            if forbids(wishes):
                raise Unable(f"its request asks for `{name}`")
        if self.chat and any(mark in spoken.text for mark in _THOUGHT):
            raise Unable("its answer has thoughts in it, which templates treat apart")
        self._asked = self._prompt()

    @property
    def wants_usage(self) -> bool:
        options = self.wishes.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        options = self.wishes.stream_options
        return self.wants_usage and options is not None and bool(options.continuous_usage_stats)

    @property
    def exact(self) -> bool:
        """Whether its tokens are known, not only its text."""
        given = bytes(self._fields.get("prompt", b""))
        return not self.chat and self._spoken.ids is not None and given.startswith(b"[")

    def body(self, tokens: int) -> bytes:
        """The request to send; `tokens` of its answer are said."""
        fields = dict(self._asked)
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
        name = "max_completion_tokens" if self.wishes.max_completion_tokens is not None else "max_tokens"
        most = self._most()
        if self._spoken.finished:
            most, tokens = 1, 0
        if most is not None:
            fields[name] = msgspec.Raw(b"%d" % max(1, most - tokens))
        if self.wishes.min_tokens:
            least = 0 if self._spoken.finished else max(0, self.wishes.min_tokens - tokens)
            fields["min_tokens"] = msgspec.Raw(b"%d" % least)
        return msgspec.json.encode(fields)

    def _most(self) -> int | None:
        wishes = self.wishes
        if not self.chat:
            return COMPLETION_TOKENS if wishes.max_tokens is None else wishes.max_tokens
        return wishes.max_tokens if wishes.max_completion_tokens is None else wishes.max_completion_tokens

    def _prompt(self) -> dict[str, msgspec.Raw]:
        """The request's fields with what was said in them."""
        text, fields = self._spoken.text, dict(self._fields)
        if not text:
            return fields
        if self.chat:
            message = msgspec.json.encode({"role": "assistant", "content": text})
            fields["messages"] = _joined(fields.get("messages", msgspec.Raw(b"[]")), message)
            fields["add_generation_prompt"] = msgspec.Raw(b"false")
            fields["continue_final_message"] = msgspec.Raw(b"true")
            return fields
        prompt = msgspec.json.decode(fields.get("prompt", b"null"))
        if isinstance(prompt, str):
            fields["prompt"] = msgspec.Raw(msgspec.json.encode(prompt + text))
        elif isinstance(prompt, list) and all(type(item) is int for item in prompt) and self._spoken.ids:
            fields["prompt"] = msgspec.Raw(msgspec.json.encode([*prompt, *self._spoken.ids]))
        else:
            raise Unable("its prompt is neither a text nor token ids with `return_token_ids`")
        return fields


def _joined(items: msgspec.Raw, item: bytes) -> msgspec.Raw:
    inner = bytes(items).strip()[1:-1].strip()
    return msgspec.Raw(b"[%b,%b]" % (inner, item) if inner else b"[%b]" % item)
