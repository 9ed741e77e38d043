"""Request bodies: chat prompts as an agent sends them, of a given size, the same for every run."""

from __future__ import annotations

import json
import random
from typing import Any

from saga_bench.crowd import MODEL

SEED = 1
TURN_BYTES = 4096
WORDS = (
    "def ", "return ", "the file ", "error: ", "\n", '"quoted" ', "path/to/x.py ",
    "→ unicode é ", "assert x == 1\n", "    ", "import os\n",
)  # fmt: skip


def chat_body(
    size_bytes: int, *, stream: bool = False, events: int = 100, gap_us: int = 0, silence_ms: int = 0
) -> bytes:
    """One chat completion request of about `size_bytes`.

    The rest steers the backend (`native/backend.c`) through fields a real worker takes as well:
    `events` (max_tokens), microseconds between them (seed) and milliseconds before the first (top_k).
    """
    rng = random.Random(SEED)  # noqa: S311 - a workload, not a secret
    turns = max(1, size_bytes // TURN_BYTES)
    messages: list[dict[str, str]] = [{"role": "system", "content": "You are an agent."}]
    messages += [_message(rng, turn, size_bytes // turns - 60) for turn in range(turns)]
    body: dict[str, Any] = {"model": MODEL, "max_tokens": events, "seed": gap_us, "stream": stream}
    if silence_ms:
        body["top_k"] = silence_ms
    return json.dumps(body | {"user": "alice", "temperature": 0.0, "messages": messages}).encode()


def _message(rng: random.Random, turn: int, size: int) -> dict[str, str]:
    role = ("user", "assistant", "tool")[turn % 3]
    message = {"role": role, "content": _text(rng, size)}
    return message | {"tool_call_id": f"call_{turn}"} if role == "tool" else message


def _text(rng: random.Random, size: int) -> str:
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(rng.choice(WORDS) + str(rng.randrange(1000)))
        length += len(parts[-1])
    return "".join(parts)
