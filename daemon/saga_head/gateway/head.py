"""Request heads: strict framing, what may be passed on, and who says to be calling.

Read in one pass and by the letter of the grammar (RFC 9110 section 5, RFC 9112 sections 2 to 6): what is not
plainly one reading is refused, because a head that two parsers read differently is how requests are smuggled
(RFC 9112, section 11.2).
"""

import re
import string
from enum import Enum, auto
from functools import lru_cache

import msgspec

from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Refusal
from saga_head.gateway.refusals import bad

HOT = re.compile(rb"POST (?:/s/[^/?#\s]{1,256})?/v1/")
# Method, token, path, query, version; a target of visible ASCII (RFC 9112, section 3.2.1).
REQUEST_LINE = re.compile(
    rb"POST (?:/s/([!\"$-.0->@-~]{1,256}))?(/v1/[!\"$->@-~]*)((?:\?[!\"$-~]*)?) HTTP/([0-9]\.[0-9])"
)
FIELD_BYTES = bytes(byte for byte in range(256) if (byte >= 32 and byte != 127) or byte == 9)
LENGTH_DIGITS = 15
VERSIONS = (b"1.1", b"1.0")
TOKEN_BYTES = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()


class Role(Enum):
    """What a request header is for; a header without a role goes nowhere."""

    FRAMING = auto()
    CONNECTION = auto()
    KEY = auto()
    FORWARDED = auto()
    IDENTITY = auto()


_FRAMING, _CONNECTION, _KEY, _FORWARDED, _IDENTITY = (
    Role  # an enum member costs 80 ns to reach in Python 3.11
)

FRAMING = (b"content-length", b"expect", b"host", b"transfer-encoding")
KEYS = (b"authorization", b"x-api-key")
# Passed on to the worker. An allow-list: hop-by-hop headers, cookies, the client's key, its x-request-id,
# x-data-parallel-rank and every priority header stay out without being named. accept-encoding stays out so
# that the reply's usage can be read.
FORWARDED = (
    b"accept",
    b"anthropic-beta",
    b"anthropic-version",
    b"content-type",
    b"traceparent",
    b"tracestate",
    b"user-agent",
)

# Shown to the scheduler, which decides by them who is calling.
IDENTITY_PREFIXES = (b"x-saga-", b"x-dynamo-", b"x-claude-code-", b"x-llm-d-")
IDENTITY_NAMES = (
    b"baggage",
    b"session-id",
    b"session_id",
    b"thread-id",
    b"x-gateway-inference-fairness-id",
    b"x-litellm-session-id",
    b"x-opencode-session",
    b"x-parent-session-id",
    b"x-request-id",
    b"x-session-affinity",
    b"x-session-id",
    b"x-smg-routing-key",
)
ROLES: dict[bytes, Role] = {
    **dict.fromkeys(FRAMING, Role.FRAMING),
    b"connection": Role.CONNECTION,
    **dict.fromkeys(KEYS, Role.KEY),
    **dict.fromkeys(FORWARDED, Role.FORWARDED),
    **dict.fromkeys(IDENTITY_NAMES, Role.IDENTITY),
}


class RequestHead(msgspec.Struct):
    """One parsed request head of the hot path."""

    api: str = ""
    url: bytes = b""  # path and query for the worker, token stripped
    token: str | None = None
    bearer: str | None = None
    keep_alive: bool = True
    http10: bool = False
    expects_continue: bool = False
    chunked: bool = False
    length: int = 0
    forwarded: bytes = b""  # header lines, ready to send
    identity: dict[bytes, bytes] = {}


def parse_head(raw: bytes, limits: Limits) -> RequestHead | Refusal:
    """Read a whole head, the empty line included; a `Refusal` where its meaning is not beyond doubt."""
    first, *lines = raw[:-4].split(b"\r\n")
    if len(lines) > limits.headers:
        return Refusal(
            431,
            "invalid_request_error",
            "too_many_headers",
            f"the request has {len(lines)} headers; at most {limits.headers} are taken",
        )
    request = REQUEST_LINE.fullmatch(first)
    if request is None:
        return bad("the request line is not POST, a plain path (/v1/... or /s/<token>/v1/...) and HTTP/1.1")
    token, path, query, version = request.groups()
    if version not in VERSIONS:
        return Refusal(
            505,
            "invalid_request_error",
            "http_version",
            f"HTTP/{version.decode()} is not served; use HTTP/1.1",
        )
    http11 = version == b"1.1"
    head = RequestHead(
        api=path.decode(),
        url=path + query,
        token=None if token is None else token.decode(),
        keep_alive=http11,
        http10=not http11,
    )
    try:
        return _sort(head, lines) or head
    except ValueError as error:
        return bad(str(error))


Header = tuple[Role | None, bytes, bytes]  # role, lower-case name, value


def read_line(line: bytes) -> Header:
    """Read one header line; the value as its role needs it. ValueError where it is not `name: value`."""
    name, colon, value = line.partition(b":")
    if line.translate(None, FIELD_BYTES):
        raise ValueError("the head has a control character, or a CR or LF alone; lines end with CRLF")
    if not colon or not name or name.translate(None, TOKEN_BYTES):
        raise ValueError("a header line does not begin with a name and a colon, or is folded (obs-fold)")
    name = name.lower()
    role = ROLES.get(name, _IDENTITY if name.startswith(IDENTITY_PREFIXES) else None)
    if role is _FORWARDED:
        return role, name, b"%b:%b\r\n" % (name, value)
    if role is _FRAMING:  # a tab is left to be refused: it can hide a coding from one of two parsers
        return role, name, value.strip(b" ")
    return role, name, value.strip(b" \t")


# A client sends nearly the same lines with every request, so they are read once. Bounded: 1,024 lines of 256 bytes.
_read_again = lru_cache(maxsize=1024)(read_line)
KEPT_BYTES = 256


def _sort(head: RequestHead, lines: list[bytes]) -> Refusal | None:
    """Put each header where it belongs: framing, credentials, identity, or the worker. ValueError: a bad line."""
    passed: list[bytes] = []
    framing: dict[bytes, bytes] = {}
    for line in lines:
        role, name, value = _read_again(line) if len(line) <= KEPT_BYTES else read_line(line)
        if role is None:
            continue
        if role is _FORWARDED:
            passed.append(value)
        elif role is _FRAMING:
            if name in framing:
                return bad(f"the header {name.decode()} stands twice")
            framing[name] = value
        elif role is _IDENTITY:
            head.identity[name] = value
        elif role is _KEY:
            head.bearer = head.bearer or _key(name, value)
        elif b"close" in value.lower():
            head.keep_alive = False
    head.forwarded = b"".join(passed)
    return _frame(head, framing)


def _frame(head: RequestHead, framing: dict[bytes, bytes]) -> Refusal | None:
    """Say where the body ends, or why that is not certain (RFC 9112, section 6.3)."""
    length, coding = framing.get(b"content-length"), framing.get(b"transfer-encoding")
    if b"host" not in framing and not head.http10:
        return bad("the header host is missing")
    if length is not None and coding is not None:
        return bad("both content-length and transfer-encoding are set; send one of them")
    if coding is not None:
        if head.http10:
            return bad("transfer-encoding does not exist in HTTP/1.0; send content-length")
        *before, last = [coding.strip(b" ") for coding in coding.lower().split(b",")]
        if b"chunked" in before:
            return bad("transfer-encoding does not end with the one chunked in it")
        if before or last != b"chunked":
            return Refusal(
                501,
                "invalid_request_error",
                "transfer_encoding",
                "the only transfer-encoding taken is chunked",
            )
        head.chunked = True
    if length is not None:
        if not (length.isdigit() and len(length) <= LENGTH_DIGITS):
            return bad("content-length is not one plain decimal number")
        head.length = int(length)
    return _expect(head, framing.get(b"expect"))


def _expect(head: RequestHead, value: bytes | None) -> Refusal | None:
    if value is None or head.http10:  # HTTP/1.0 has no interim replies: ignored, RFC 9110 section 10.1.1
        return None
    if value.lower() != b"100-continue":
        return Refusal(417, "invalid_request_error", "expect", "the only expectation met is 100-continue")
    head.expects_continue = True
    return None


def _key(name: bytes, value: bytes) -> str | None:
    if name == b"authorization":
        scheme, _, value = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
    return value.strip().decode("latin-1")
