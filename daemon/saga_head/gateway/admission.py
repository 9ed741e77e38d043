"""How a request gets in: its head found among the bytes, its caller known, its fields read, its step made."""

import re
from typing import TYPE_CHECKING

from saga_head.gateway.body import Body, decode_fields
from saga_head.gateway.exchange import WorkerExchange
from saga_head.gateway.head import RequestHead
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Call, Caller, Refusal
from saga_head.gateway.refusals import APIS, head_too_large, unknown_api
from saga_head.gateway.relay import Client
from saga_head.gateway.stored import prepare

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway

EMPTY_LINES = re.compile(rb"(?:\r\n)+")  # to be ignored before a request, RFC 9112 section 2.2


def without_empty_lines(data: bytes) -> bytes:
    """What comes behind empty lines."""
    empty = EMPTY_LINES.match(data)
    return data[empty.end() :] if empty else data


def find_head(data: bytes, limits: Limits) -> int | Refusal | None:
    """Where the head ends that `data` begins with; None where it is not complete."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4 and len(data) <= limits.head_bytes:
        return None
    return head_too_large(limits.head_bytes) if end < 4 or end > limits.head_bytes else end


def admit(gateway: "Gateway", head: RequestHead) -> Caller | Refusal:
    """Ask who it is, before a stranger may send a body."""
    if head.api not in APIS:
        return unknown_api(head.api)
    return gateway.scheduler.authenticate(head.token, head.bearer)


def make_step(
    gateway: "Gateway", client: Client, head: RequestHead, who: Caller, body: Body
) -> WorkerExchange | Refusal:
    """A whole request as a step that has its number, and is not with the scheduler yet."""
    fields = decode_fields(body)
    if isinstance(fields, Refusal):
        return fields
    limit_bytes = gateway.limits.body_bytes
    ready = prepare(gateway.responses, head.api, who.tenant, body, fields, limit_bytes)
    if isinstance(ready, Refusal):
        return ready
    body, keeper = ready
    call = Call(gateway.scheduler.next_step(), who, head.api, fields, head.identity, len(body), body)
    return WorkerExchange(call, head, client, gateway, keeper)
