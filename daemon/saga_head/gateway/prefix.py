"""What a prompt begins with, as a name: calls of one agent program have the same one."""

import re
from hashlib import blake2b

from saga_head.gateway.port import NO_JSON, Fields

PREFIX_BYTES = 8
# Where the first message ends, or its first part. A quote inside a JSON string is escaped, so no text looks like this.
_END = re.compile(rb"\}\s*(?:,\s*\{\s*\"|\]\s*\Z)")
_SYSTEM = re.compile(rb"\"role\"\s*:\s*\"(?:system|developer)\"")


def prefix_of(fields: Fields) -> str:
    """Name of the model, the tools and the system prompt (their first 4 KiB): 16 hexadecimal digits."""
    name = blake2b(fields.model.encode(), digest_size=PREFIX_BYTES)
    for part in (fields.tools, fields.system, fields.instructions):
        name.update(b"\0")
        name.update(part)
    if fields.messages is not NO_JSON:
        name.update(_system(bytes(fields.messages)))
    return name.hexdigest()


def _system(messages: bytes) -> bytes:
    """The system prompt at the beginning of raw `messages`, if one is there."""
    end = _END.search(messages)
    first = messages[: end.start()] if end is not None else messages
    return first if _SYSTEM.search(first) else b""
