"""Responses that may be continued by `previous_response_id`: kept here, because no worker knows what another said.

Rules of this file
  1. Of each response its own input and its answer are kept, and the one before it by name; a request that continues
     one is sent to its worker as the whole conversation. vLLM keeps responses only under an environment variable, in
     one server's memory, without end; and a session may move.
  2. Ids are found under the tenant that got them, by nobody else.
  3. The store is bounded; what is used last goes last, with all that came before it. It does not outlive the head.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from saga_head.gateway.body import Body
from saga_head.gateway.port import Fields, Refusal

STORE_BYTES = 256 << 20
REPLY_BYTES = 8 << 20  # a longer reply is passed on and not kept
_COMPLETED = re.compile(rb"(?:^|\n)data: (\{[^\n]*)")


@dataclass(slots=True)
class Stored:
    """One response."""

    before: str | None
    items: bytes  # its input: JSON items with commas between them
    reply: bytes  # the response as its client got it

    @property
    def size_bytes(self) -> int:
        return len(self.items) + len(self.reply) + 200


class _Asked(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw(b"[]")


class _Reply(msgspec.Struct):
    id: str
    output: msgspec.Raw = msgspec.Raw(b"[]")
    status: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = msgspec.Raw()


class ResponseStore:
    """By tenant and id."""

    def __init__(self, limit_bytes: int = STORE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._all: OrderedDict[tuple[str, str], Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._all)

    def find(self, tenant: str, name: str) -> Stored | None:
        return self._all.get((tenant, name))

    def keep(self, tenant: str, name: str, stored: Stored) -> None:
        """Keep a response; the oldest go where there is no room."""
        self.forget(tenant, name)
        self._all[tenant, name] = stored
        self.held_bytes += stored.size_bytes
        while self.held_bytes > self.limit_bytes:
            _, oldest = self._all.popitem(last=False)
            self.held_bytes -= oldest.size_bytes

    def forget(self, tenant: str, name: str) -> bool:
        found = self._all.pop((tenant, name), None)
        if found is not None:
            self.held_bytes -= found.size_bytes
        return found is not None

    def conversation(self, tenant: str, name: str) -> list[bytes] | None:
        """Items of all that led to response `name` and of its answer; None where a part is kept no more."""
        chain: list[tuple[str, Stored]] = []
        at: str | None = name
        while at is not None:
            found = self._all.get((tenant, at))
            if found is None or len(chain) > len(self._all):
                return None
            chain.append((at, found))
            at = found.before
        parts: list[bytes] = []
        for link, stored in reversed(chain):
            self._all.move_to_end((tenant, link))
            parts += (stored.items, _inner(msgspec.json.decode(stored.reply, type=_Reply).output))
        return [part for part in parts if part]


@dataclass(slots=True)
class Keeper:
    """Listens to one reply and keeps what it says."""

    store: ResponseStore
    tenant: str
    before: str | None
    items: bytes
    stream: bool
    heard: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """Take the next decoded bytes of the reply."""
        if self.heard is None:
            self.heard = bytearray()
        if len(self.heard) + len(data) <= REPLY_BYTES:
            self.heard += data
        else:
            self.store, self.heard = ResponseStore(0), bytearray()  # too long: nothing of it is kept

    def close(self) -> str:
        """The reply is whole: keep it; its id, empty where it is no response that can be continued."""
        reply = self._reply(bytes(self.heard or b""))
        try:
            said = msgspec.json.decode(reply, type=_Reply)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        if not said.id or self.store.limit_bytes == 0 or said.status not in ("completed", "incomplete"):
            return ""
        self.store.keep(self.tenant, said.id, Stored(self.before, self.items, reply))
        return said.id

    def _reply(self, heard: bytes) -> bytes:
        """The response itself: of a stream, what its last event brings."""
        if not self.stream:
            return heard
        at = heard.rfind(b'"response.completed"')
        at = at if at >= 0 else heard.rfind(b'"response.incomplete"')
        found = _COMPLETED.search(heard, heard.rfind(b"\ndata: ", 0, at)) if at >= 0 else None
        if found is None:
            return b""
        try:
            event = msgspec.json.decode(found[1], type=_Event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""
        return bytes(event.response)


def prepare(
    store: ResponseStore, api: str, tenant: str, body: Body, fields: Fields, limit_bytes: int
) -> tuple[Body, Keeper | None] | Refusal:
    """The body to send in place of `body`, and who listens to the reply, if it is to be kept."""
    if api != "/v1/responses":
        return body, None
    keeps = fields.store is not False
    before = fields.previous_response_id
    if not keeps and before is None:
        return body, None
    try:
        own = input_items(msgspec.json.decode(body, type=_Asked).input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None  # its worker says what is wrong with it
    if before is not None:
        earlier = store.conversation(tenant, before)
        if earlier is None:
            return _not_found(before)
        body = _whole(body, [*earlier, own])
        if len(body) > limit_bytes:
            return Refusal(
                413,
                "invalid_request_error",
                "body_too_large",
                f"with the responses before it this request is larger than {limit_bytes} bytes",
            )
    return body, Keeper(store, tenant, before, own, bool(fields.stream)) if keeps else None


def _whole(body: Body, parts: list[bytes]) -> bytes:
    """The request with all items as its input."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields.pop("previous_response_id", None)
    fields["input"] = msgspec.Raw(b"[" + b",".join(part for part in parts if part) + b"]")
    return msgspec.json.encode(fields)


def input_items(given: msgspec.Raw) -> bytes:
    """Items with commas between them; a text is the one message that it stands for."""
    raw = bytes(given).strip()
    return b'{"role":"user","content":%b}' % raw if raw.startswith(b'"') else _inner(given)


def _inner(items: msgspec.Raw) -> bytes:
    raw = bytes(items).strip()
    return raw[1:-1].strip() if raw.startswith(b"[") else b""


def _not_found(name: str) -> Refusal:
    shown = name[:80]
    message = (
        f"previous response {shown!r} is not known here: responses are kept for their own tenant, as long as there is "
        "room and the head runs; send the whole conversation as `input` instead"
    )
    return Refusal(
        400,
        "invalid_request_error",
        "previous_response_not_found",
        message,
        param="previous_response_id",
    )
