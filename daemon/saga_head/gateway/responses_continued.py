"""Streams of OpenAI's Responses API: how another worker goes on with them.

Rules of this file
  1. It is asked with what was said as the last item of the input, a message whose status is `incomplete`: vLLM 0.32
     leaves such a one open in the prompt.
  2. Items keep their numbers and ids: a text that was begun is gone on with in its item; what else comes, comes behind
     it. What tells a text whole tells all of it, and so does the response that ends the stream.
  3. Every event has the next number of this stream.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from saga_head.gateway.enquiry import Enquiry, Found
from saga_head.gateway.port import Usage
from saga_head.gateway.responses import TEXT, ResponsesSaid, Stage
from saga_head.gateway.resuming import (
    Json,
    RawFields,
    Unable,
    joined,
    number,
    read_event,
    read_request,
    refuse_harmony,
    refuse_thoughts,
    told,
    whole_usage,
)
from saga_head.gateway.spoken import Spoken
from saga_head.gateway.stored import input_items

PLAIN = "text"


class _Format(msgspec.Struct):
    type: str = PLAIN


class _Text(msgspec.Struct):
    format: _Format | None = None


class Wishes(msgspec.Struct):
    """What of a request decides whether and how it can be gone on with."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    include: list[str] | None = None
    top_logprobs: int | None = 0
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    text: _Text | None = None
    structured_outputs: Any = None
    tool_choice: Any = None
    include_reasoning: bool = True
    truncation: str | None = None
    background: bool | None = False
    enable_response_messages: bool = False
    previous_input_messages: Any = None
    kv_transfer_params: Any = None


_FORBIDS: dict[str, Callable[[Wishes], object]] = {
    "logprobs": lambda w: "message.output_text.logprobs" in (w.include or ()) or w.top_logprobs,
    "seed": lambda w: w.seed is not None and w.temperature != 0,
    "presence_penalty or frequency_penalty": lambda w: w.presence_penalty or w.frequency_penalty,
    "include_stop_str_in_output": lambda w: w.include_stop_str_in_output and w.stop,
    "text.format": lambda w: w.text is not None and w.text.format is not None and w.text.format.type != PLAIN,
    "structured_outputs": lambda w: w.structured_outputs,
    "tool_choice": lambda w: w.tool_choice not in (None, "auto", "none"),
    "include_reasoning": lambda w: not w.include_reasoning,
    "truncation": lambda w: w.truncation not in (None, "disabled"),
    "background": lambda w: w.background,
    "enable_response_messages": lambda w: w.enable_response_messages,
    "previous_input_messages": lambda w: w.previous_input_messages is not None,
    "kv_transfer_params": lambda w: w.kv_transfer_params is not None,
}


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    status: str | None = None


class ResponsesContinuation:
    """How one of them goes on (`continuation.Continuation`)."""

    def __init__(self, spoken: Spoken[ResponsesSaid], usage: Usage | None) -> None:
        said = spoken.said
        self._spoken, self._said, self._text = spoken, said, said.text
        self._fields, self._wishes = read_request(spoken.body, Wishes, _FORBIDS)
        refuse_thoughts(self._text)
        self._asked = self._prompt()
        self.usage = usage
        self._counted = 0
        self._full = False  # all that may be said has been
        self._began, self._opened, self._sequence = said.began, said.opened, said.sequence
        self._done = [msgspec.json.decode(item) for item in said.items]
        self._stage, self._item_id = said.stage, said.item_id
        self._words = [said.item_text]
        self._shift: int | None = None  # what is added to the numbers of its items
        self._join: int | None = None  # its item that is ours

    @property
    def over(self) -> bool:
        """Whether nothing is missing but the end."""
        return self._said.finished

    @property
    def end(self) -> bytes:
        """The events that then are missing: none, the last one has all."""
        return b""

    def enquiry(self) -> Enquiry:
        """What is to be asked before the rest is."""
        return Enquiry(self._text, harmony=True)

    def body(self, found: Found) -> bytes:
        """The request to send."""
        refuse_harmony(found)
        self._counted = self._said.tokens if found.ids is None else len(found.ids)
        fields, most = dict(self._asked), self._wishes.max_output_tokens
        if most is not None:
            self._full = bool(self._text) and self._counted >= most
            fields["max_output_tokens"] = number(max(1, most - self._counted))
        return msgspec.json.encode(fields)

    def _prompt(self) -> RawFields:
        """The request's fields with what was said in them."""
        fields = dict(self._fields)
        if not self._text:
            return fields
        items = msgspec.Raw(b"[" + input_items(fields.get("input", msgspec.Raw(b"[]"))) + b"]")
        _refuse_own_words(items)
        part = {"type": TEXT, "text": self._text, "annotations": []}
        item = {
            "type": "message",
            "id": self._said.item_id or "msg_0",
            "role": "assistant",
            "status": "incomplete",
        }
        fields["input"] = joined(items, msgspec.json.encode(item | {"content": [part]}))
        return fields

    def tell(self, event: bytes) -> bytes:
        """An event as the client is told it."""
        said = read_event(event)
        if said is None:
            return event + b"\n\n"
        return b"".join([self._noted(one) for one in self._retold(said)])

    def _noted(self, said: Json) -> bytes:
        if "sequence_number" in said:
            said["sequence_number"] = self._sequence
            self._sequence += 1
        event = told(said)
        self._spoken.note(event)
        return event + b"\n\n"

    def _retold(self, said: Json) -> list[Json]:
        match said["type"]:
            case "response.created" | "response.in_progress":
                return self._start(said)
            case "response.output_item.added":
                return self._begin(said)
            case "response.completed" | "response.incomplete" | "response.failed":
                return [*self._close(), self._finish(said)]
            case _ if "output_index" in said:
                return self._go_on(said)
            case _:
                return [said]

    def _start(self, said: Json) -> list[Json]:
        """The first worker's word on what response this is, if it is there."""
        if not self._began:
            return [said]
        if self._opened > (said["type"] == "response.in_progress"):
            return []
        said["response"] |= self._began
        return [said]

    def _begin(self, said: Json) -> list[Json]:
        if self._full:
            return []
        index = said["output_index"]
        if (
            self._shift is None
            and self._stage in (Stage.ITEM, Stage.PART)
            and said["item"]["type"] == "message"
        ):
            self._shift, self._join = len(self._done) - index, index
            return []
        closed = self._close()
        if self._shift is None:
            self._shift = len(self._done) - index
        return [*closed, said | {"output_index": index + self._shift}]

    def _go_on(self, said: Json) -> list[Json]:
        if self._full or self._shift is None:
            return []
        index = said["output_index"]
        said["output_index"] = index + self._shift
        kind = said["type"].removeprefix("response.")
        if index == self._join and not self._whole(kind, said):
            return []
        if kind == "output_item.done":
            self._done.append(said["item"])
        return [said]

    def _whole(self, kind: str, said: Json) -> bool:
        """Make an event of the item that was begun speak of all of it; False: it has been said."""
        if "item_id" in said:
            said["item_id"] = self._item_id
        match kind:
            case "content_part.added":
                begun, self._stage = self._stage, Stage.PART
                return begun is Stage.ITEM
            case "output_text.delta":
                self._words.append(said["delta"])
            case "output_text.done":
                said["text"], self._stage = "".join(self._words), Stage.TEXT_DONE
            case "content_part.done":
                said["part"]["text"], self._stage = "".join(self._words), Stage.PART_DONE
            case "output_item.done":
                said["item"]["id"], self._stage = self._item_id, Stage.NONE
                for part in said["item"]["content"]:
                    part["text"] = "".join(self._words)
        return True

    def _close(self) -> list[Json]:
        """The end of the text that was begun, as far as it has not come."""
        stage, self._stage = self._stage, Stage.NONE
        if stage is Stage.NONE:
            return []
        text = "".join(self._words)
        part: Json = {"type": TEXT, "text": text, "annotations": [], "logprobs": []}
        item: Json = {
            "type": "message",
            "id": self._item_id,
            "role": "assistant",
            "status": "completed",
            "content": [],
        }
        about = {"sequence_number": 0, "output_index": len(self._done)}
        within = about | {"item_id": self._item_id, "content_index": 0}
        events: list[Json] = []
        if stage is Stage.PART:
            events.append({"type": "response.output_text.done"} | within | {"text": text, "logprobs": []})
        if stage in (Stage.PART, Stage.TEXT_DONE):
            events.append({"type": "response.content_part.done"} | within | {"part": part})
        if stage is not Stage.ITEM:
            item["content"] = [part]
        self._done.append(item)
        return [*events, {"type": "response.output_item.done"} | about | {"item": item}]

    def _finish(self, said: Json) -> Json:
        """The response with all that was said, and the usage of the whole."""
        response = said["response"]
        response |= self._began | {"output": self._done}
        if self._full:
            response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        counts = response.get("usage")
        usage = whole_usage(counts, self._counted, more=not self._full)
        if usage is not None:
            self.usage = usage
            _count(counts, usage)
        return said


def _count(counts: Json, usage: Usage) -> None:
    """Put it in: cached tokens are part of `input_tokens`, and each count also stands by turns, of which this is one."""
    prompt, output = usage.prompt_tokens, usage.output_tokens
    counts |= {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}
    for name, values in (
        ("input_tokens_details", {"cached_tokens": usage.cached_tokens, "input_tokens_per_turn": prompt,
                                  "cached_tokens_per_turn": usage.cached_tokens}),
        ("output_tokens_details", {"output_tokens_per_turn": output}),
    ):  # fmt: skip
        details = counts.get(name)
        if isinstance(details, dict):
            for key, value in values.items():
                if details.get(key):
                    details[key] = [value] if key.endswith("_per_turn") else value


def _refuse_own_words(items: msgspec.Raw) -> None:
    """`Unable` where the input ends with what an assistant said: vLLM would join what was said to it."""
    try:
        found = msgspec.json.decode(items, type=list[_Item])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unable(f"its request has a field that is odd: {error}") from error
    last = found[-1] if found else _Item()
    ours = last.role in ("assistant", "") and not last.type.endswith("_output")
    if ours or last.status in ("in_progress", "incomplete"):
        raise Unable("its input ends with words of the assistant's own")
