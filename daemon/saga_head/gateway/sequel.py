"""A stream that another worker goes on with, told so that its client reads one stream."""

from collections.abc import Callable
from typing import Any

import msgspec

from saga_head.gateway.held import LAST_CHUNK, chunk
from saga_head.gateway.port import Usage
from saga_head.gateway.reply import read_usage
from saga_head.gateway.resuming import Continuation
from saga_head.gateway.spoken import Spoken

Json = dict[str, Any]
STREAM_END = chunk(b"data: [DONE]\n\n") + LAST_CHUNK


class Sequel:
    """Takes the next worker's events. Its ids become those of the first, its usage the sum of all."""

    def __init__(
        self, asked: Continuation, spoken: Spoken, write: Callable[[bytes], None], usage: Usage | None
    ) -> None:
        """`usage`: as far as the worker that is lost has told it."""
        self._asked, self._spoken, self._write = asked, spoken, write
        self._rest = b""
        self._said = 0
        self._ended = spoken.finished
        """Only its usage is missing."""
        self.refused = ""
        """How the worker refused to go on."""
        self.usage = usage

    @property
    def text(self) -> str:
        """Whose tokens are to be counted; empty where their number is known."""
        return "" if self._asked.exact else self._spoken.text

    @property
    def over(self) -> bool:
        """Whether nothing is missing but the end."""
        return self._ended and (self._spoken.used or not self._asked.wants_usage)

    def body(self, counted: int | None) -> bytes:
        """The request to send; `counted`: tokens that the text is for the worker, if it said."""
        spoken = self._spoken
        if self._asked.exact:
            counted = len(spoken.ids or ())
        self._said = spoken.tokens if counted is None else counted
        return self._asked.body(self._said)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the reply's body."""
        if self.refused:
            return
        *events, self._rest = (self._rest + data).split(b"\n\n")
        told = b"".join([line + b"\n\n" for event in events if (line := self._told(event))])
        if told:
            self._write(chunk(told))

    def close(self) -> None:
        """The reply is whole."""
        if not self.refused:
            self._write(LAST_CHUNK)

    def _told(self, event: bytes) -> bytes:
        """An event as the client is told it; empty where it is not."""
        if not event.startswith(b"data: {"):
            return event
        try:
            said = msgspec.json.decode(event[6:])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event
        if not isinstance(said.get("choices"), list):
            return event
        return self._chunk(event, said)

    def _chunk(self, event: bytes, said: Json) -> bytes:
        spoken, choices = self._spoken, said["choices"]
        self._count(event, said)
        if spoken.id:
            said |= {"id": spoken.id, "created": spoken.created}
        if not choices:
            return _data(said) if self._asked.wants_usage else b""
        if self._ended or (spoken.opened and _opens(choices[0])):
            return b""
        spoken.note(_data(said))
        if not self._asked.wants_continuous_usage:
            said.pop("usage", None)
        return _data(said)

    def _count(self, event: bytes, said: Json) -> None:
        """Its usage, as the usage of the whole."""
        found = read_usage(event)
        counts = said.get("usage")
        if found is None or not isinstance(counts, dict):
            return
        prompt = max(0, found.prompt_tokens - self._said)
        output = self._said + (0 if self._ended else found.output_tokens)
        self.usage = Usage(prompt, min(found.cached_tokens, prompt), output)
        counts |= {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        details = counts.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens"):
            details["cached_tokens"] = self.usage.cached_tokens


def _data(said: Json) -> bytes:
    return b"data: " + msgspec.json.encode(said)


def _opens(choice: Json) -> bool:
    """Whether it only names the role."""
    delta = choice.get("delta")
    return isinstance(delta, dict) and "role" in delta and not delta.get("content")
