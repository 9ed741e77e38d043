"""The request as a worker gets it: our head, the client's body, and what is ours put before its last brace."""

import re
from urllib.parse import quote

from saga_head.gateway.body import Body
from saga_head.gateway.head import RequestHead
from saga_head.gateway.port import Call, Target

SESSION = re.compile(r"[\x21-\x7e]+")
GENERATING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
# The APIs whose bodies vLLM 0.32 reads a priority in; a Messages request has it in a header only.
ORDERED_BY_BODY = GENERATING - {"/v1/messages"}
PRIORITY_HEADER = "x-vllm-priority"


def outgoing(call: Call, head: RequestHead, target: Target) -> tuple[bytes, Body | memoryview, bytes]:
    """Head, body and the body's end, to be sent in this order."""
    sent, end = _with_ours(call.body, call.api, target)
    session = "" if target.session is None else f"x-session-id: {_one_word(target.session)}\r\n"
    if target.priority is not None and call.api == "/v1/messages":
        session += f"{PRIORITY_HEADER}: {target.priority}\r\n"
    ours = (
        f" HTTP/1.1\r\nhost: {target.host}:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
        f"x-request-id: saga-{call.step}\r\n{session}content-length: {len(sent) + len(end)}\r\n"
    )
    lines = ours.encode("latin-1") + head.forwarded + (target.trace or head.trace)
    return b"POST %b%b\r\n" % (head.url, lines), sent, end


def _with_ours(body: Body, api: str, target: Target) -> tuple[Body | memoryview, bytes]:
    """A JSON object with our fields in it, in two parts: of a name that stands twice, the last one counts."""
    if target.priority is None and target.cache_salt is None:
        return body, b""
    ours = b""
    if target.priority is not None and api in ORDERED_BY_BODY:
        ours += b',"priority":%d' % target.priority
    if target.cache_salt is not None and api in GENERATING:
        ours += b',"cache_salt":"%b"' % target.cache_salt
    return (memoryview(body)[: body.rindex(b"}")], ours + b"}") if ours else (body, b"")


def _one_word(session: str) -> str:
    """A session id that cannot end its header line; percent-encoded where it is not visible ASCII."""
    return session if SESSION.fullmatch(session) else quote(session, safe="")
