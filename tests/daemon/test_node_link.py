"""The node's link: nothing waits, nothing read from outside breaks it."""

import asyncio

import pytest
from node_kit import StrawHead, until

from saga_core import access, wire
from saga_node.transport import Link


def goodbye(reason: str) -> wire.Goodbye:
    return wire.Goodbye(node="n1", incarnation=1, reason=reason)


@pytest.fixture
async def head(tmp_path):
    async with StrawHead(tmp_path / "c") as head:
        head.write()
        yield head


def connect(head, heard, refused=lambda: None):
    data = access.decode((head.folder / "access.json").read_bytes(), "here")
    return Link("n1", data, hear=heard.append, refused=refused)


async def test_garbage_is_counted_and_the_next_message_is_read(head):
    heard = []
    link = connect(head, heard)
    await until(lambda: link.connected, "connection")
    ack = wire.Ack(incarnation=1, head=1, seq=1)
    for frames in ([b""], [b"\xc1garbage"], [b"\x81"], [wire.encode(ack), wire.encode(ack)]):
        await head.send("n1", *frames)
    await head.send("n1", ack)
    await until(lambda: heard, "a message")
    assert heard == [ack]
    assert link.garbage == 4
    await link.close()


async def test_without_a_head_the_newest_message_is_kept_and_others_counted(head):
    heard = []
    link = connect(head, heard)
    for number in range(1000):
        link.send(goodbye(str(number)))
    assert link.dropped >= 990  # none or a few may be sent before the connection is noticed
    await until(lambda: head.heard, "the newest")
    assert head.heard == [goodbye("999")]
    await link.close()


async def test_the_last_message_is_sent_before_the_end(head):
    link = connect(head, [])
    await until(lambda: link.connected, "connection")
    for _ in range(5):
        link.send(goodbye("x" * 1_000_000))  # more than the system's buffers take at once
    link.send(goodbye("last"))
    await link.close()
    await until(lambda: goodbye("last") in head.heard, "the goodbye")


async def test_a_message_over_the_limit_is_an_error_of_ours_and_not_sent(head):
    link = connect(head, [])
    await until(lambda: link.connected, "connection")
    link.send(goodbye("x" * (wire.MAX_MESSAGE_BYTES + 1)))
    link.send(goodbye("next"))
    await until(lambda: head.heard, "the next")
    assert head.heard == [goodbye("next")]
    await link.close()


async def test_an_end_without_a_head_does_not_wait(tmp_path):
    async with StrawHead(tmp_path / "c") as head:
        head.write()
    link = connect(head, [])
    link.send(goodbye("nobody hears"))
    async with asyncio.timeout(2):  # in this task: it ends before its tasks have begun
        await link.close()
