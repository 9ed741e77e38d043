"""Asking a worker how many tokens a text is for it, before it is asked to go on with it."""

import asyncio

import msgspec

from saga_head.gateway.port import Target
from saga_head.gateway.relay import Relay, ReplyHead
from saga_head.gateway.upstream import Pool, WorkerLink

_HEAD_BYTES = 65536
_TIMEOUT_S = 10.0


class _Asked(msgspec.Struct):
    model: str
    prompt: str
    add_special_tokens: bool = False


class _Count(msgspec.Struct):
    count: int


class _Reply:
    """Waits for one small reply (`relay.Asker`)."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.body = bytearray()

    def on_head(self, head: ReplyHead) -> bytes:
        self.status = head.status
        return b""

    def on_first_byte(self) -> None:
        pass

    def on_complete(self) -> None:
        self.whole.set_result(None)

    def on_broken(self, detail: str) -> None:
        if not self.whole.done():
            self.whole.set_exception(ConnectionError(detail))


async def count_tokens(pool: Pool, target: Target, model: str, text: str) -> tuple[WorkerLink, int | None]:
    """A connection to the worker, and how many tokens `text` is there (vLLM's /tokenize); None: it does not say.

    Raises OSError (TimeoutError is one) where the worker does not answer.
    """
    address = (target.host, target.port)
    link = await pool.connect(address)
    if not text:
        return link, 0
    try:
        reply = _Reply()
        relay = Relay(reply, reply.body.extend, _HEAD_BYTES, decode=True)
        body = msgspec.json.encode(_Asked(model, text))
        head = (
            f"POST /tokenize HTTP/1.1\r\nhost: {target.host}:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        link.send(relay, head.encode("latin-1"), body)
        async with asyncio.timeout(_TIMEOUT_S):
            await reply.whole
        link.relay = None
        relay.drop()
        if not relay.reusable:
            link.transport.abort()
            link = await pool.connect(address)
    except BaseException:
        link.relay = None
        link.transport.abort()
        raise
    return link, _count(reply) if reply.status == 200 else None


def _count(reply: _Reply) -> int | None:
    try:
        return msgspec.json.decode(reply.body, type=_Count).count
    except msgspec.DecodeError:
        return None
