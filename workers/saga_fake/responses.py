"""OpenAI's Responses API as vLLM 0.32 serves it without its store (`vllm/entrypoints/openai/responses`)."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from saga_fake.answers import Answer, Json, named_event
from saga_fake.reply import CallDelta
from saga_fake.requests import FinishReason, Output
from saga_fake.tokens import content_text
from saga_fake.wire import ChatRequest, GenerationRequest, RequestRefused


class ResponsesRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = "auto"
    store: bool | None = True
    metadata: dict[str, str] | None = None

    @property
    def usage_wanted(self) -> bool:
        return True

    def as_chat(self) -> ChatRequest:
        """The same question to the chat API. RequestRefused for a response that came before: there is no store."""
        if self.previous_response_id is not None:
            message = f"Response with id '{self.previous_response_id}' not found."
            raise RequestRefused(message, status=404, kind="invalid_request_error", param="response_id")
        return ChatRequest(
            model=self.model,
            messages=chat_messages(self.input, self.instructions),
            tools=self.tools,
            max_tokens=self.max_output_tokens,
            stop=self.stop,
            stream=self.stream,
            cache_salt=self.cache_salt,
            priority=self.priority,
            session_id=self.session_id,
            vllm_xargs=self.vllm_xargs,
            add_generation_prompt=not self._goes_on,
            continue_final_message=self._goes_on,
        )

    @property
    def _goes_on(self) -> bool:
        """The last item is left open: vLLM's `should_continue_final_message`."""
        last = self.input[-1] if isinstance(self.input, list) and self.input else {}
        return last.get("type", "message") == "message" and last.get("status") in (
            "in_progress",
            "incomplete",
        )


def chat_messages(items: str | list[Json], instructions: str | None) -> list[Json]:
    """Input items as chat messages."""
    found: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(items, str):
        return [*found, {"role": "user", "content": items}]
    for item in items:
        match item.get("type", "message"):
            case "message":
                found.append({"role": item.get("role"), "content": content_text(item.get("content"))})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                found.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "function_call_output":
                content = content_text(item.get("output"))
                found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
            case _:
                pass  # reasoning: templates drop it
    return found


@dataclass(slots=True, kw_only=True)
class ResponsesAnswer(Answer):
    """A response with its items."""

    asked: ResponsesRequest
    items: list[Json] = field(default_factory=list)
    frames: int = 0

    def opening(self) -> list[bytes]:
        started = self._response("in_progress")
        return [self._event(f"response.{name}", response=started) for name in ("created", "in_progress")]

    def events(self, output: Output) -> list[bytes]:
        frames: list[bytes] = []
        match output.piece.call:
            case CallDelta(name=str(name)):
                call_id = f"call_{uuid.uuid4().hex[:16]}"
                item = {
                    "type": "function_call",
                    "id": f"fc_{uuid.uuid4().hex[:16]}",
                    "call_id": call_id,
                    "name": name,
                }
                frames += self._begin(item | {"arguments": "", "status": "in_progress"})
            case CallDelta(arguments=arguments):
                self.items[-1]["arguments"] += arguments
                frames.append(self._about("response.function_call_arguments.delta", delta=arguments))
            case None if output.text:
                if not self.items or self.items[-1]["type"] != "message":
                    frames += self._begin_message()
                self.items[-1]["content"][0]["text"] += output.text
                frames.append(self._text("response.output_text.delta", delta=output.text, logprobs=[]))
        return frames

    def closing(self, *, usage: bool) -> list[bytes]:
        del usage
        status = self._status()
        done = self._end()
        return [*done, self._event(f"response.{status}", response=self._response(status))]

    def whole(self) -> Json:
        """The unstreamed reply."""
        self._end()
        return self._response(self._status())

    def _begin(self, item: Json) -> list[bytes]:
        done = self._end()
        self.items.append(item)
        added = self._event("response.output_item.added", output_index=len(self.items) - 1, item=item)
        return [*done, added]

    def _begin_message(self) -> list[bytes]:
        message = {
            "type": "message",
            "id": f"msg_{uuid.uuid4().hex[:16]}",
            "role": "assistant",
            "content": [],
        }
        frames = self._begin(message | {"status": "in_progress"})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.items[-1]["content"] = [part]
        return [*frames, self._text("response.content_part.added", part=part)]

    def _end(self) -> list[bytes]:
        if not self.items or self.items[-1]["status"] != "in_progress":
            return []
        item = self.items[-1]
        item["status"] = "completed"
        if item["type"] == "function_call":
            frames = [
                self._about(
                    "response.function_call_arguments.done", arguments=item["arguments"], name=item["name"]
                )
            ]
        else:
            part = item["content"][0]
            frames = [
                self._text("response.output_text.done", text=part["text"], logprobs=[]),
                self._text("response.content_part.done", part=part),
            ]
        done = self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)
        return [*frames, done]

    def _text(self, kind: str, **more: Any) -> bytes:
        return self._about(kind, content_index=0, **more)

    def _about(self, kind: str, **more: Any) -> bytes:
        return self._event(kind, output_index=len(self.items) - 1, item_id=self.items[-1]["id"], **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        self.frames += 1
        return named_event(kind, {"type": kind, "sequence_number": self.frames - 1} | more)

    def _status(self) -> str:
        assert self.last is not None
        return "incomplete" if self.last.finish is FinishReason.LENGTH else "completed"

    def _response(self, status: str) -> Json:
        asked = self.asked
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "metadata": asked.metadata,
            "model": self.model,
            "output": list(self.items),
            "parallel_tool_calls": True,
            "previous_response_id": asked.previous_response_id,
            "temperature": 1.0,
            "tool_choice": asked.tool_choice,
            "tools": asked.tools or [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self.request.max_tokens,
            "service_tier": "auto",
            "truncation": "disabled",
            "usage": self._usage() if status != "in_progress" else None,
        }

    def _usage(self) -> Json:
        prompt, output = self.request.prompt_tokens, len(self.generated)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": self.request.cached_tokens or 0,
                "cache_write_tokens": 0,
            },
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + output,
        }
