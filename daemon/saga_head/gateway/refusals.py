"""The gateway's own refusals: each says what is wrong, where, and what is valid."""

from saga_head.gateway.port import Refusal

# What a tenant may ask a worker for. vLLM has other things under /v1 (loading adapters, for one).
APIS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
)

INVALID = "invalid_request_error"
RETRY_AFTER_S = 1
# 410: the SDKs repeat 409, 429 and 5xx by themselves, and a cancelled workflow must not come back.
CANCELLED = Refusal(410, INVALID, "workflow_cancelled", "the workflow of this request was cancelled")
INTERNAL = Refusal(500, "server_error", "internal_error", "the head failed on this request; its log says why")


def bad(message: str) -> Refusal:
    """A 400 about the request itself."""
    return Refusal(400, INVALID, "bad_request", message)


def too_large(limit_bytes: int) -> Refusal:
    """413: says the limit."""
    message = f"the request body is larger than {limit_bytes} bytes, the most this gateway takes"
    return Refusal(413, INVALID, "body_too_large", message)


def head_too_large(limit_bytes: int) -> Refusal:
    """431: says the limit."""
    message = f"the request head is larger than {limit_bytes} bytes, the most this gateway takes"
    return Refusal(431, INVALID, "head_too_large", message)


def too_slow(part: str, limit_s: float) -> Refusal:
    """408: says which part and the limit."""
    return Refusal(408, INVALID, "timeout", f"the request {part} did not come within {limit_s:g} s")


def too_busy(what: str, limit: int) -> Refusal:
    """503: names the limit."""
    message = f"the gateway is at its limit of {limit} {what}"
    return Refusal(503, "server_error", "overloaded", message, RETRY_AFTER_S)


def unknown_api(path: str) -> Refusal:
    """404: lists what there is."""
    message = f"POST {path} is not served here; valid are {', '.join(APIS)}"
    return Refusal(404, INVALID, "unknown_url", message)


def worker_lost(worker: str, detail: str) -> Refusal:
    """502: the worker and what was seen of its end."""
    message = f"worker {worker} was lost while it ran this request: {detail}"
    return Refusal(502, "server_error", "worker_lost", message)
