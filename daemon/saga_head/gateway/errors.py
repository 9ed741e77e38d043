"""Our own errors in the shape of the API that the client speaks."""

import msgspec

from saga_head.gateway.port import Refusal

MESSAGES = "/v1/messages"
# The types of the Messages API by status (Anthropic's API reference, "Errors"); others are `api_error`.
_MESSAGES_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    410: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class _Envelope(msgspec.Struct):
    error: _Error


class _MessagesError(msgspec.Struct):
    type: str
    message: str
    code: str  # not of the API, which lets more fields be


class _MessagesEnvelope(msgspec.Struct):
    error: _MessagesError
    type: str = "error"


class _ResponsesEvent(msgspec.Struct):
    code: str
    message: str
    param: str | None
    error: _Error  # not of the API: the openai SDK raises events that have one, and yields others
    type: str = "error"
    sequence_number: int = 0


def error_json(refusal: Refusal, api: str = "") -> bytes:
    """The body of an error answer."""
    if api.startswith(MESSAGES):
        kind = _MESSAGES_TYPES.get(refusal.status, "api_error")
        return msgspec.json.encode(_MessagesEnvelope(_MessagesError(kind, refusal.message, refusal.code)))
    return msgspec.json.encode(_Envelope(_error(refusal)))


def _error(refusal: Refusal) -> _Error:
    return _Error(refusal.message, refusal.type, refusal.param, refusal.code)


def error_event(refusal: Refusal, api: str) -> bytes:
    """An error inside a stream that has begun; the SDKs of all APIs raise it."""
    if api.startswith(MESSAGES):
        return b"event: error\ndata: " + error_json(refusal, api) + b"\n\n"
    if api == "/v1/responses":
        event = _ResponsesEvent(refusal.code, refusal.message, refusal.param, _error(refusal))
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
    return b"data: " + error_json(refusal) + b"\n\n"


class _Told(msgspec.Struct):
    """What a worker's error says: vLLM's own shape, or FastAPI's."""

    error: msgspec.Raw = msgspec.Raw()
    detail: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    message: str = ""


def shaped(body: bytes, status: int, api: str) -> bytes:
    """A worker's error body in the shape of `api`: vLLM has one shape for Messages' own errors, and two for the rest."""
    try:
        told = msgspec.json.decode(body, type=_Told)
        if told.error and not api.startswith(MESSAGES):
            return body
        said = msgspec.json.decode(told.error, type=_Message).message if told.error else _text(told.detail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = ""
    message = said or body.decode("utf-8", "replace")[:2000] or "the worker gave no reason"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return error_json(Refusal(status, kind, "worker_error", message), api)


def _text(detail: msgspec.Raw) -> str:
    """A text as it is; anything else as JSON."""
    raw = bytes(detail)
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode("utf-8", "replace")


def late_event(body: bytes, api: str) -> bytes:
    """A worker's error body, shaped, as an event, where its status came too late to be sent."""
    line = b"" if api in {"/v1/chat/completions", "/v1/completions"} else b"event: error\n"
    return line + b"data: " + body.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"
