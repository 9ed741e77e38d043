"""The node daemon's side of an engine's session control: orders over HTTP, one after the other."""

from __future__ import annotations

from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from saga_core.errors import ClusterError, RemoteProtocolError
from saga_core.kv import commands
from saga_core.kv.commands import MAX_ANSWER_BYTES, PATH, Answer, Command, Order

ANSWER_S = 35.0
"""More than the engine's own HTTP server waits for it (`saga_vllm.plugin.front`)."""


class NoControl(ClusterError):  # noqa: N818 - the condition
    """The engine did not do it: it has no session control, or is gone, or does not answer."""


class NotYet(NoControl):
    """The engine would do it in a moment: ask again."""


class Control:
    """Session control of one incarnation of a worker: `async with Control(url, key, 7) as control`."""

    def __init__(self, url: str, key: str, incarnation: int, answer_s: float = ANSWER_S) -> None:
        self.incarnation = incarnation
        self._url, self._key, self._answer_s = url, key, answer_s

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            self._url,
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/msgpack"},
            timeout=aiohttp.ClientTimeout(total=self._answer_s),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def ask(self, command: Command) -> Answer:
        """Have `command` done. NotYet: it was not, but may be in a moment; NoControl: it was not, or nobody knows."""
        frame = commands.encode(Order(incarnation=self.incarnation, command=command))
        try:
            async with self._http.post(PATH, data=frame, allow_redirects=False) as response:
                body = await _read(response)
        except TimeoutError:
            raise NoControl(f"session control: no answer within {self._answer_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoControl(f"session control: {error}") from None
        if response.status != HTTPStatus.OK:
            raise NoControl(f"session control: {response.status} {body[:200].decode('utf-8', 'replace')}")
        try:
            answer = commands.decode_answer(body)
        except RemoteProtocolError as error:
            raise NoControl(f"session control: {error}") from None
        match answer:
            case commands.Failed():
                raise (NotYet if answer.again else NoControl)(f"session control: {answer.reason}")
            case commands.Stale():
                raise NoControl(
                    f"session control: this is incarnation {answer.incarnation}, not {self.incarnation}"
                )
            case _:
                return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
