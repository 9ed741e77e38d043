"""Requests and error bodies of vLLM 0.32's OpenAI server (`vllm/entrypoints/openai/*/protocol.py`)."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from saga_core.errors import SagaError
from saga_fake.tokens import VOCAB_TOKENS, content_text, tokenise


class RequestRefused(SagaError):  # noqa: N818 - an outcome, told to the client in vLLM's words
    """The request gets an error body instead of a reply."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> dict[str, Any]:
        """VLLM's `ErrorResponse`."""
        return error_body(str(self), status=self.status, kind=self.kind, param=self.param)


def error_body(message: str, *, status: int, kind: str, param: str | None = None) -> dict[str, Any]:
    """VLLM's `ErrorResponse` as JSON."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def invalid(message: str, param: str, value: object = None) -> RequestRefused:
    """A `VLLMValidationError`: the parameter stands in the message and beside it."""
    extras = f"parameter={param}" + ("" if value is None else f", value={value}")
    return RequestRefused(f"{message} ({extras})", param=param)


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream carries besides the tokens."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that chat and completions share; unknown ones are ignored, as in vLLM."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int | None = 1
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    request_id: str | None = None
    session_id: str | None = None
    cache_salt: str | None = None
    priority: int = 0
    vllm_xargs: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt as another engine has read it, in the place of messages; empty: none is given."""
        return (self.kv_transfer_params or {}).get("prompt_token_ids") or []

    @property
    def wanted_tokens(self) -> int | None:
        """The client's limit on the reply."""
        return self.max_tokens

    @property
    def limit_name(self) -> str:
        """The field that says it."""
        return "max_tokens"

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_wanted(self) -> bool:
        """A stream ends with a usage event."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def session(self, header: str | None) -> str | None:
        """Whose step this is: body, then header, then vllm_xargs, as in vLLM's `_get_session_id`."""
        named = (self.vllm_xargs or {}).get("session_id")
        return self.session_id or header or (named if isinstance(named, str) and named else None)


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @property
    def said(self) -> str | None:
        """What the assistant has said already of the message that is to be gone on with."""
        return content_text(self.messages[-1].get("content")) if self.continue_final_message else None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_name(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions; lists of prompts are refused by `prompt_tokens`."""

    prompt: str | list[Any] | None = None
    max_tokens: int | None = 16
    echo: bool | None = False


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /tokenize, of a text."""

    prompt: str
    model: str | None = None


RequestT = TypeVar("RequestT", bound=msgspec.Struct)


def read_request(body: bytes, kind: type[RequestT]) -> RequestT:
    """A request from its body. RequestRefused in the shape of FastAPI's validation errors as vLLM reports them."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        param = ".".join(["body", *where.strip("`$.").split(".")]).rstrip(".")
        raise _not_valid({"type": "value_error", "loc": param, "msg": message}) from error
    except msgspec.DecodeError as error:
        broken = {
            "type": "json_invalid",
            "loc": "body",
            "msg": "JSON decode error",
            "ctx": {"error": str(error)},
        }
        raise _not_valid(broken) from error


def _not_valid(error: dict[str, Any]) -> RequestRefused:
    return RequestRefused(f"1 validation error:\n  {error}", kind="Bad Request", param=error["loc"])


def check_model(model: str | None, served: Sequence[str]) -> str:
    """The name to answer with. RequestRefused 404 for a model that is not served."""
    if not model:
        return served[0]
    if model in served:
        return model
    message = f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}."
    raise RequestRefused(message, status=404, kind="NotFoundError", param="model")


def completion_tokens(prompt: str | list[Any] | None) -> list[int]:
    """Token ids of a completion's prompt. RequestRefused for lists of prompts and ids outside the vocabulary."""
    if isinstance(prompt, str):
        return list(tokenise(prompt))
    if not prompt:
        raise invalid("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if not all(type(item) is int for item in prompt):
        raise invalid(
            "prompt: saga_fake takes one string or one list of token ids, not several prompts", "prompt"
        )
    for outside in (min(prompt), max(prompt)):
        if not 0 <= outside < VOCAB_TOKENS:
            raise RequestRefused(
                f"Token id {outside} is out of vocabulary (parameter=prompt)", param="prompt"
            )
    return prompt


def reply_budget(request: GenerationRequest, prompt_tokens: int, max_model_len: int) -> int:
    """The most tokens that the reply may have. RequestRefused when the request cannot be served."""
    wanted, param = request.wanted_tokens, request.limit_name
    if request.n not in (None, 1):
        raise invalid("n: saga_fake gives one choice, n must be 1", "n", request.n)
    if request.stream_options and not request.stream:
        raise invalid("Stream options can only be defined when `stream=True`.", "stream_options")
    if wanted is not None and wanted > max_model_len:
        over = f"{param}={wanted} cannot be greater than max_model_len={max_model_len}. Please request fewer output tokens."
        raise invalid(over, param, wanted)
    if prompt_tokens > max_model_len:
        raise invalid(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{prompt_tokens} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt.",
            "input_tokens",
            prompt_tokens,
        )
    budget = min(max_model_len - prompt_tokens, max_model_len if wanted is None else wanted)
    if budget < 1:
        raise invalid(f"max_tokens must be at least 1, got {budget}.", "max_tokens", budget)
    if not 0 <= request.min_tokens <= budget:
        raise RequestRefused(
            f"min_tokens must be between 0 and max_tokens={budget}, got {request.min_tokens}."
        )
    return budget
