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


def late_event(body: bytes, api: str) -> bytes:
    """A worker's error body as an event, where its status came too late to be sent."""
    line = b"" if api in {"/v1/chat/completions", "/v1/completions"} else b"event: error\n"
    return line + b"data: " + body.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"
