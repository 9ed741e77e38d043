"""Hostile bytes into the client's side of the gateway, cut anywhere, over a transport that only records.

Held against: at most one answer per request, every answer well formed, nothing after `connection: close`,
and a request reaches the scheduler only if a second parser, written on its own here, reads the same one.
"""

import asyncio
import re
from contextlib import suppress
from typing import Any

import httptools
from gateway_rig import BODY, FakeScheduler, chunk, post
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from saga_head.gateway.client import ClientLink
from saga_head.gateway.head import (
    FRAMING,
    HOT,
    IDENTITY_NAMES,
    IDENTITY_PREFIXES,
    HeadReader,
    RequestHead,
    _frame,
    parse_head,
)
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Call, Exchange, Refusal, Target
from saga_head.gateway.relay import Relay, ReplyHead
from saga_head.gateway.reply import TAIL_BYTES
from saga_head.gateway.server import Gateway
from saga_head.gateway.upstream import WorkerLink

LIMITS = Limits(body_bytes=5000, head_bytes=2000, headers=20, pipelined_bytes=4000)
ACCEPTED = Refusal(429, "rate_limit_error", "accepted", "the fuzz test refuses what it accepts")


class Recorder(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.ended = False
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.ended, "a write after the end"
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Swallow(asyncio.Protocol):
    """Stands for the fallback server."""


class Keeper(FakeScheduler):
    """Refuses every step, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def arrive(self, call: Call, exchange: Exchange) -> None:
        self.calls.append(call)
        self.bodies.append(bytes(call.body))
        exchange.refuse(ACCEPTED)


def play(pieces: list[bytes]) -> tuple[Keeper, Recorder, ClientLink]:
    scheduler = Keeper()
    gateway = Gateway(scheduler, Swallow, LIMITS, lambda: 0.0)
    link, transport = ClientLink(gateway), Recorder()
    link.connection_made(transport)
    for piece in pieces:
        deliver(link, transport, piece)
    link.connection_lost(None)
    assert gateway.ledger.held_bytes == 0
    assert gateway.exchanges == 0
    assert not gateway.links
    assert len(scheduler.results) == len(scheduler.calls)
    return scheduler, transport, link


def deliver(link: ClientLink, transport: Recorder, piece: bytes) -> None:
    while piece and not transport.closed:
        buffer = link.get_buffer(-1)
        count = min(len(buffer), len(piece))
        assert count > 0
        buffer[:count] = piece[:count]
        link.buffer_updated(count)
        piece = piece[count:]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[a-z-]+: [^\r\n]*\r\n)*)\r\n")


def answers(sent: bytes) -> list[int]:
    """Parse everything we sent: whole answers only, none after the last word."""
    statuses, at, closed = [], 0, False
    while at < len(sent):
        match = ANSWER.match(sent, at)
        assert match, sent[at : at + 200]
        assert not closed, "an answer after connection: close"
        at = match.end()
        if match[1] == b"100":
            continue
        length = re.search(rb"content-length: (\d+)", match[2])
        assert length
        assert b"x-request-id: saga-" in match[2]
        at += int(length[1])
        closed = b"connection: close" in match[2]
        statuses.append(int(match[1]))
    assert at == len(sent)
    return statuses


def reference(data: bytes) -> list[bytes]:
    """The bodies of a run of requests, by the plainest reading, up to the first whose framing is doubtful."""
    bodies = []
    while data := re.sub(rb"^(\r\n)+", b"", data):
        head, gap, data = data.partition(b"\r\n\r\n")
        if not gap:
            return bodies
        lines = head.split(b"\r\n")
        names = [line.partition(b":")[0].strip().lower() for line in lines[1:]]
        values = dict(zip(names, (line.partition(b":")[2].strip() for line in lines[1:]), strict=True))
        doubtful = names.count(b"content-length") + names.count(b"transfer-encoding") > 1
        if (
            doubtful
            or re.search(rb"[\r\n\0]", b"".join(lines))
            or any(line[:1] in b" \t" for line in lines if line)
        ):
            return bodies
        if b"transfer-encoding" in values:
            body, rest = reference_chunks(data)
            if body is None:
                return bodies
            data = rest
        else:
            size = values.get(b"content-length", b"0")
            if not size.isdigit():
                return bodies
            if len(data) < int(size):
                return bodies
            body, data = data[: int(size)], data[int(size) :]
        bodies.append(body)
    return bodies


def reference_chunks(data: bytes) -> tuple[bytes | None, bytes]:
    body = b""
    while match := re.match(rb"([0-9a-fA-F]+)[^\r\n]*\r\n", data):
        size = int(match[1], 16)
        data = data[match.end() :]
        if size == 0:
            end = re.match(rb"([^\r\n]+\r\n)*\r\n", data)
            return (body, data[end.end() :]) if end else (None, b"")
        if data[size : size + 2] != b"\r\n":
            return None, b""
        body, data = body + data[:size], data[size + 2 :]
    return None, b""


CHUNKED = post(
    chunk(BODY[:9]) + chunk(BODY[9:]) + b"0\r\nt: r\r\n\r\n",
    length=False,
    headers="transfer-encoding: chunked\r\n",
)
SEEDS = [
    post(),
    CHUNKED,
    post(headers="expect: 100-continue\r\n"),
    post(b"{"),
    post(path="/s/tok/v1/completions?x=1"),
    post(length=False, headers="content-length: 70\r\ntransfer-encoding: chunked\r\n"),
    b"GET / HTTP/1.1\r\nhost: h\r\n\r\n",
    b"\r\n",
]
NOISE = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b"0", b"5", b"a", b"\xff", b"content-length: 3\r\n",
         b"transfer-encoding: chunked\r\n", b"content-length: ", b"HTTP/1.0", b"POST /v1/", b"x" * 2100, b"0\r\n\r\n", b";"]  # fmt: skip


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 1, 2, 5]))
        data = data[:at] + draw(st.sampled_from(NOISE) | st.binary(max_size=4)) + data[at + gone :]
    return data


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hostile() | st.binary(max_size=300), st.lists(st.integers(0, 4000), max_size=8))
@example(post() + post(), [])
@example(CHUNKED + post(), [40, 150, 190])
@example(CHUNKED.replace(b"0\r\nt: r", b"0\r\n\rt: r"), [])
@example(CHUNKED.replace(b"0\r\nt: r", b"0\r\n\nt: r"), [])  # a bare LF is no empty line
def test_hostile_bytes(data: bytes, places: list[int]) -> None:
    scheduler, transport, _ = play(cut(data, places))
    statuses = answers(bytes(transport.sent))
    assert statuses.count(ACCEPTED.status) == len(scheduler.calls)
    expected = iter(reference(data))
    assert all(body in expected for body in scheduler.bodies), "a request that a plain reader does not see"
    whole, once, _ = play([data])
    assert (whole.bodies, answers(bytes(once.sent))) == (scheduler.bodies, statuses), (
        "where it is cut changes nothing"
    )


class Heard:
    """What httptools, the second reader, makes of a head."""

    def __init__(self, head: bytes) -> None:
        self.url = b""
        self.framing: dict[bytes, bytes] = {}
        self.identity: dict[bytes, bytes] = {}
        self.parser = httptools.HttpRequestParser(self)
        with suppress(httptools.HttpParserUpgrade):
            self.parser.feed_data(head)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in FRAMING:
            assert name not in self.framing
            self.framing[name] = value.strip()
        elif name in IDENTITY_NAMES or name.startswith(IDENTITY_PREFIXES):
            self.identity[name] = value.strip(b" \t")


HEAD_LINES = [b"host: h", b"Content-Length: 3", b"content-length:03 ", b"Transfer-Encoding:  Chunked\t", b"transfer-encoding: chunked",
              b"transfer-encoding: gzip, chunked", b"expect: 100-continue", b"Connection: Keep-Alive, Upgrade", b"connection: close",
              b"upgrade: h2c", b"X-Session-Id:  s 1 ", b"x-saga-a:\xff", b"x-empty:", b" folded", b"authorization: Bearer k"]  # fmt: skip
FIRST_LINES = [
    b"POST /v1/completions HTTP/1.1",
    b"POST /s/tok/v1/messages?x=1&y HTTP/1.1",
    b"POST /v1/a/s/b/v1/? HTTP/1.0",
]


@st.composite
def hostile_head(draw: st.DrawFn) -> bytes:
    lines = [
        draw(st.sampled_from(FIRST_LINES)),
        b"host: h",
        *draw(st.lists(st.sampled_from(HEAD_LINES), max_size=6)),
    ]
    data = b"\r\n".join(lines)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 1, 2]))
        data = data[:at] + draw(st.sampled_from(NOISE[4:]) | st.binary(max_size=2)) + data[at + gone :]
    return data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@settings(max_examples=500, deadline=None)
@given(hostile_head())
@example(b"POST /v1/completions HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\t\r\n\r\n")
@example(b"POST /s/a/v1/b#/v1/ HTTP/1.1\r\nhost: h\r\n\r\n")
def test_a_head_that_is_taken_reads_the_same_in_httptools(data: bytes) -> None:
    head = parse_head(data, LIMITS)
    if not HOT.match(data) or isinstance(head, Refusal):
        return
    heard = Heard(data)  # raises where httptools refuses it
    url = b"" if head.token is None else b"/s/" + head.token.encode()
    assert heard.url == url + head.url
    assert head.url.partition(b"?")[0] == head.api.encode()
    assert head.chunked == (b"transfer-encoding" in heard.framing)
    assert head.length == int(heard.framing.get(b"content-length", b"0"))
    assert head.expects_continue == (b"expect" in heard.framing and not head.http10)
    assert heard.parser.get_http_version() == ("1.0" if head.http10 else "1.1")
    assert heard.parser.should_keep_alive() or not head.keep_alive
    assert head.identity == heard.identity


@settings(max_examples=300, deadline=None)
@example(
    [
        b"POST /v1/completions HTTP/1.1\r\nhost: h\r\nContent-Length: 3\r\nx-session-id: %b\r\n\r\n" % sid
        for sid in (b"a", b"b")
    ],
    b"7",
)
@given(st.lists(hostile_head(), min_size=1, max_size=3), st.sampled_from([b"0", b"7", b"0012345678901234"]))
def test_a_head_read_after_others_is_the_same_head(heads: list[bytes], length: bytes) -> None:
    reader = HeadReader()
    for data in heads:
        for head in (data, data.replace(b"Length: 3", b"Length: " + length), data):
            assert reader.read(head, LIMITS) == parse_head(head, LIMITS)


def upstream_bytes(pieces: list[bytes]) -> bytes:
    """What a worker is sent when a client sends these pieces."""
    scheduler = FakeScheduler()
    scheduler.target = Target("w", "h", 1, "key", "s")
    gateway = Gateway(scheduler, Swallow, LIMITS, lambda: 100.0)
    worker, client, link = WorkerLink(gateway.pool, ("h", 1)), Recorder(), ClientLink(gateway)
    worker.connection_made(up := Recorder())
    gateway.pool.give(worker, reusable=True)
    link.connection_made(client)
    for piece in pieces:
        deliver(link, client, piece)
    link.connection_lost(None)
    assert len(scheduler.calls) == 1
    return bytes(up.sent)


def test_a_request_cut_anywhere_is_the_same_request() -> None:
    for data in (post(path="/s/t/v1/completions", headers="x-session-id: a\r\nuser-agent: b\r\n"), CHUNKED):
        whole = upstream_bytes([data])
        assert whole.endswith(b"\r\n\r\n" + BODY)
        for at in range(1, len(data)):
            assert upstream_bytes([data[:at], data[at:]]) == whole, at
        assert upstream_bytes([data[at : at + 1] for at in range(len(data))]) == whole


PIECES = st.lists(
    st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"content-length: 5\r\n", b"hello", b"\r\n", b"0\r\n\r\n",
                     b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n", b"content-type: text/event-stream\r\n"])
    | st.binary(max_size=6),
    max_size=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(PIECES, st.booleans())
def test_a_mad_worker_never_breaks_the_gateway(pieces: list[bytes], http10: bool) -> None:
    scheduler = FakeScheduler()
    scheduler.target = Target("w", "h", 1, "key", None)
    gateway = Gateway(scheduler, Swallow, LIMITS, lambda: 100.0)
    worker, client, link = WorkerLink(gateway.pool, ("h", 1)), Recorder(), ClientLink(gateway)
    worker.connection_made(Recorder())
    gateway.pool.give(worker, reusable=True)
    link.connection_made(client)
    deliver(link, client, post(version="1.0" if http10 else "1.1"))
    for piece in pieces:
        if piece and not worker.transport.is_closing():
            worker.data_received(piece)
    if scheduler.results == {}:
        worker.reused = False
        worker.connection_lost(None)
    assert len(scheduler.results) == 1
    assert gateway.exchanges == 0
    assert (
        bytes(client.sent).count(b"HTTP/1.1 200 OK\r\n") <= 1
        or b"HTTP/1.1 200 OK" in b"".join(pieces).partition(b"\r\n\r\n")[2]
    )
    link.connection_lost(None)


class Nobody:
    """Asks for a reply and does nothing with it."""

    def on_head(self, head: ReplyHead) -> bytes:
        return head.raw

    def on_first_byte(self) -> None: ...
    def on_complete(self) -> None: ...
    def on_broken(self, detail: str) -> None:
        raise AssertionError(detail)


def test_the_tail_of_a_reply_is_bounded() -> None:
    for size in (100, 3000, 100_000):
        relay = Relay(Nobody(), lambda _: None, head_limit=1000)
        relay.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        sent = b""
        for _ in range(100):
            relay.feed(piece := chunk(b"x" * size))
            sent += piece
        assert TAIL_BYTES <= len(relay.tail) <= 2 * TAIL_BYTES
        assert sent.endswith(relay.tail)


def test_framing_is_checked_here_as_well_as_in_the_parser() -> None:
    host = {b"host": b"h"}
    for framing in (
        {b"content-length": b"3", b"transfer-encoding": b"chunked"},
        {b"content-length": b"+3"},
        {b"content-length": b"3,3"},
        {b"content-length": b""},
        {b"transfer-encoding": b"identity"},
    ):
        assert isinstance(_frame(RequestHead(), host | framing), Refusal), framing
