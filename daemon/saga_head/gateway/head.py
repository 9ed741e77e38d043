"""Request heads: strict framing, what may be passed on, and who says to be calling.

Read in one pass and by the letter of the grammar (RFC 9110 section 5, RFC 9112 sections 2 to 6): what is not
plainly one reading is refused, because a head that two parsers read differently is how requests are smuggled
(RFC 9112, section 11.2).
"""

import re
import string
from enum import Enum, auto

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
    TRACE = auto()


_FRAMING, _CONNECTION, _KEY, _FORWARDED, _IDENTITY, _TRACE = (
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
    b"user-agent",
)
# W3C Trace Context: shown to the scheduler, and passed on unless it puts a span of its own in between.
TRACE = (b"traceparent", b"tracestate")

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
    **dict.fromkeys(TRACE, Role.TRACE),
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
    trace: bytes = b""  # the same of TRACE
    identity: dict[bytes, bytes] = {}


def parse_head(raw: bytes, limits: Limits) -> RequestHead | Refusal:
    """Read a whole head, the empty line included; a `Refusal` where its meaning is not beyond doubt."""
    first, *lines = raw[:-4].split(b"\r\n")
    if raw.translate(None, FIELD_BYTES) != b"\r\n" * (len(lines) + 2):
        return bad("the head has a control character, or a CR or LF that stands alone; lines end with CRLF")
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
    return _sort(head, lines) or head


LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")
KEPT_BYTES = 2048  # of a connection's last head: most are below 1 KB


class HeadReader:
    """Reads the heads of one connection. Those of an agent differ in their length only, and are read once."""

    __slots__ = ("_head", "_last")

    def __init__(self) -> None:
        self._last = b""  # the last good head, with 0 for its length
        self._head = RequestHead()

    def read(self, raw: bytes, limits: Limits) -> RequestHead | Refusal:
        """Return what `parse_head` says of `raw`; good until the next one, of which it may be part."""
        length = LENGTH.search(raw)
        if length is None or len(raw) > KEPT_BYTES:
            return parse_head(raw, limits)
        start, end = length.span(1)
        plain = raw[:start] + b"0" + raw[end:]
        if plain != self._last:
            head = parse_head(plain, limits)
            if isinstance(head, Refusal):
                return head
            self._last, self._head = plain, head
        self._head.length = int(length[1])
        return self._head


def _sort(head: RequestHead, lines: list[bytes]) -> Refusal | None:
    """Put each header where it belongs: framing, credentials, identity, or the worker."""
    passed: list[bytes] = []
    framing: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        role = ROLES.get(name)
        if not colon or (role is None and not _is_token(name)):
            return bad("a header line does not begin with a name and a colon, or is folded (obs-fold)")
        if role is _FORWARDED:
            passed += (name, b":", value, b"\r\n")
        elif role is _IDENTITY or (role is None and name.startswith(IDENTITY_PREFIXES)):
            head.identity[name] = value.strip(b" \t")
        elif role is _TRACE:
            head.identity[name] = value.strip(b" \t")
            head.trace += b"%b:%b\r\n" % (name, value)
        elif role is _FRAMING:
            if name in framing:
                return bad(f"the header {name.decode()} stands twice")
            framing[name] = value.strip(b" ")  # a tab here is how a coding is hidden from one of two parsers
        elif role is _CONNECTION:
            head.keep_alive = head.keep_alive and b"close" not in value.lower()
        elif role is _KEY:
            head.bearer = head.bearer or _key(name, value.strip(b" \t"))
    head.forwarded = b"".join(passed)
    return _frame(head, framing)


def _is_token(name: bytes) -> bool:
    return bool(name) and not name.translate(None, TOKEN_BYTES)


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
