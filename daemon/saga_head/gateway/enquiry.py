"""What a worker is asked before it is asked to go on with a stream: what its prompt is, how many tokens were said."""

import asyncio
from typing import Any, TypeVar

import msgspec

from saga_head.gateway.body import Body
from saga_head.gateway.port import Target
from saga_head.gateway.relay import Relay, ReplyHead
from saga_head.gateway.upstream import Pool, WorkerLink

_HEAD_BYTES = 65536
_TIMEOUT_S = 10.0
HARMONY = "<|channel|>"
"""One token for the models that speak Harmony (gpt-oss), whose prompts vLLM makes without a template."""


class Enquiry(msgspec.Struct, frozen=True):
    """What is to be found out; empty: nothing."""

    text: str = ""
    """Whose tokens are asked for (vLLM's /tokenize)."""
    harmony: bool = False
    """Whether the model speaks Harmony is, too."""
    path: str = ""
    """Where it says what prompt `request` is (vLLM's /render behind an API's path; with --enable-scale-out)."""
    request: Body = b""


class _Sampling(msgspec.Struct):
    structured_outputs: Any = None


class Prompt(msgspec.Struct):
    """What vLLM's /render says (`GenerateRequest`), as far as it matters here."""

    token_ids: list[int]
    sampling_params: _Sampling = msgspec.field(default_factory=_Sampling)
    features: Any = None
    """Of pictures and the like."""
    reasoning_ended: bool | None = None
    """The answer begins behind the model's thoughts."""
    reasoning_parser_kwargs: Any = None
    """There where thoughts are told apart from answers."""


class Found(msgspec.Struct):
    """What the worker says; None: it does not."""

    ids: list[int] | None = None
    prompt: Prompt | None = None
    harmony: bool = False


class _Text(msgspec.Struct):
    model: str
    prompt: str
    add_special_tokens: bool = False


class _Tokens(msgspec.Struct):
    tokens: list[int]


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


AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Enquirer:
    """Asks one worker. OSError (TimeoutError is one) from every method where it does not answer."""

    def __init__(self, pool: Pool, target: Target, model: str) -> None:
        self._pool, self._target, self._model = pool, target, model

    async def ask(self, enquiry: Enquiry) -> tuple[WorkerLink, Found]:
        """A connection to the worker, and what it says."""
        self._link = await self._pool.connect((self._target.host, self._target.port))
        found = Found()
        try:
            if enquiry.path:
                found.prompt = await self._asked(enquiry.path, bytes(enquiry.request), Prompt)
            found.ids = await self._tokens(enquiry.text) if enquiry.text else []
            if enquiry.harmony and enquiry.text:
                found.harmony = len(await self._tokens(HARMONY) or ()) == 1
        except BaseException:
            self._link.relay = None
            self._link.transport.abort()
            raise
        return self._link, found

    async def _tokens(self, text: str) -> list[int] | None:
        question = msgspec.json.encode(_Text(self._model, text))
        answer = await self._asked("/tokenize", question, _Tokens)
        return None if answer is None else answer.tokens

    async def _asked(self, path: str, body: bytes, kind: type[AnswerT]) -> AnswerT | None:
        """The answer to one question; None where it is refused, or something else."""
        target, link = self._target, self._link
        reply = _Reply()
        relay = Relay(reply, reply.body.extend, _HEAD_BYTES, decode=True)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {target.host}:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        link.send(relay, head.encode("latin-1"), body)
        async with asyncio.timeout(_TIMEOUT_S):
            await reply.whole
        link.relay = None
        relay.drop()
        if not relay.reusable:
            link.transport.abort()
            self._link = await self._pool.connect(link.address)
        try:
            return msgspec.json.decode(reply.body, type=kind) if reply.status == 200 else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
