"""POST /v1/embeddings: a vector per input, the same for the same text."""

import base64
import math
import struct
import uuid
from typing import Any

import msgspec

from saga_fake.tokens import tokenise
from saga_fake.wire import invalid

DIMENSIONS = 32
Json = dict[str, Any]


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Texts, or token ids of one or several."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


def embeddings(request: EmbeddingsRequest, model: str) -> Json:
    """The whole answer. RequestRefused for no input."""
    texts = _texts(request.input)
    width = request.dimensions or DIMENSIONS
    data = [
        {
            "object": "embedding",
            "index": at,
            "embedding": _shown(_vector(tokens, width), request.encoding_format),
        }
        for at, tokens in enumerate(texts)
    ]
    total = sum(map(len, texts))
    return {
        "id": f"embd-{uuid.uuid4().hex}",
        "object": "list",
        "model": model,
        "data": data,
        "usage": {
            "prompt_tokens": total,
            "total_tokens": total,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def _texts(given: str | list[Any]) -> list[list[int]]:
    if isinstance(given, str):
        return [list(tokenise(given))]
    if not given:
        raise invalid("input: at least one text is needed", "input")
    if all(type(item) is int for item in given):
        return [given]
    return [list(tokenise(item)) if isinstance(item, str) else list(item) for item in given]


def _vector(tokens: list[int], width: int) -> list[float]:
    """Each token adds to the place that it hashes to; of length 1."""
    sums = [0.0] * width
    for at, token in enumerate(tokens):
        sums[(token * 31 + at) % width] += 1.0
    length = math.sqrt(sum(x * x for x in sums)) or 1.0
    return [x / length for x in sums]


def _shown(vector: list[float], encoding: str) -> list[float] | str:
    return (
        base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        if encoding == "base64"
        else vector
    )
