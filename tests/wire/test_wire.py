"""The wire: every message there and back, garbage, damage, older and newer peers, the document."""

from __future__ import annotations

import contextlib
import re
import typing
from pathlib import Path
from random import Random

import msgspec
import pytest

from saga_core import wire
from saga_core.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from saga_core.states import WorkerState

DOC = Path(__file__).parents[2] / "docs" / "protocol.md"
WORKER = wire.WorkerFact(
    worker="n1/0", incarnation=3, state=WorkerState.READY, model="m", host="h", port=9, key="k",
    capacity_tokens=1, max_model_len=2, max_seqs=3, running=4, waiting=5, kv_usage=0.5, reason="r",
)  # fmt: skip
TO_HEAD = [
    wire.Hello(protocol=1, version="1", node="n1", incarnation=5, host="h", ends_in_s=1.5, program_slots=3),
    wire.Report(
        node="n1", incarnation=5, seq=7, since=6, workers=[WORKER],
        programs=[wire.ProgramFact(workflow=1, attempt=2, exited=True, exit_code=-9, reason="r")],
        resident=[wire.ResidentFact("n1/0", "1.main", 64)], ends_in_s=9.5,
    ),
    wire.Goodbye(node="n1", incarnation=5, reason="r"),
    wire.Valued(node="n1", incarnation=5, head=2, worker="n1/0", version=7),
    wire.HalfMoved(
        node="n1", incarnation=5, head=2, move=7, half=wire.Half.ADOPT, tokens=64, copied_bytes=9, reason="r"
    ),
]  # fmt: skip
TO_NODE = [
    wire.Welcome(protocol=1, cluster="c", incarnation=5, head=2, report_every_s=0.5),
    wire.Refused(reason="r"),
    wire.Ack(incarnation=5, head=2, seq=7),
    wire.WhoAreYou(),
    wire.RunProgram(workflow=1, attempt=2, incarnation=5, argv=["a"], cwd="/", env={"X": "1"}, log="l"),
    wire.StopProgram(workflow=1, attempt=2, grace_s=1.5),
    wire.ForgetProgram(workflow=1, attempt=2),
    wire.Worths(
        head=2, worker="n1/0", incarnation=3, since=4, version=5, worths={"1.main": (3, 0.5), "2.main": None}
    ),
    wire.RestartWorker(worker="n1/0", incarnation=3, reason="r"),
    wire.MoveHalf(
        head=2, move=7, half=wire.Half.EXPORT, worker="n1/0", incarnation=3, session="1.main", other="n2"
    ),
    wire.EndMove(head=2, move=7),
    wire.Shutdown(reason="r"),
]
READERS = [wire.decode_to_head, wire.decode_to_node]


def reader(message):
    return READERS[message in TO_NODE]


def test_every_message_has_an_example_here():
    assert {type(m) for m in TO_HEAD} == set(typing.get_args(wire.ToHead))
    assert {type(m) for m in TO_NODE} == set(typing.get_args(wire.ToNode))


@pytest.mark.parametrize("message", TO_HEAD + TO_NODE, ids=lambda m: type(m).__name__)
def test_there_and_back(message):
    assert reader(message)(wire.encode(message)) == message


@pytest.mark.parametrize("message", TO_HEAD + TO_NODE, ids=lambda m: type(m).__name__)
def test_a_message_is_not_taken_for_one_of_the_other_direction(message):
    other = READERS[message not in TO_NODE]
    with pytest.raises(RemoteProtocolError):
        other(wire.encode(message))


@pytest.mark.parametrize("message", TO_HEAD + TO_NODE, ids=lambda m: type(m).__name__)
def test_every_cut_and_every_flipped_bit_is_refused_or_read_as_a_message(message):
    frame = wire.encode(message)
    for end in range(len(frame)):
        with pytest.raises(RemoteProtocolError):
            reader(message)(frame[:end])
    for place in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[place // 8] ^= 1 << place % 8
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(reader(message)(bytes(damaged)), wire.Message)


@pytest.mark.parametrize("decode", READERS)
def test_garbage_is_a_remote_protocol_error_and_nothing_else(decode):
    rng = Random(7)
    for _ in range(5000):
        with pytest.raises(RemoteProtocolError):
            decode(rng.randbytes(rng.randrange(60)))


@pytest.mark.parametrize(
    "what",
    [
        None, 5, "Hello", [], {}, {"type": "Hello"}, {"type": "Nobody"}, {"type": 5}, {"type": ["Ack"]},
        {"type": "Goodbye", "node": 5, "incarnation": 1}, {"type": "Goodbye", "node": "n", "incarnation": 1.5},
        {"type": "Report", "node": "n", "incarnation": 1, "seq": 2**64 - 1, "resident": [["w", "s"]]},
        {"type": "Report", "node": "n", "incarnation": 1, "seq": 1, "workers": [{"state": "flying"}]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("decode", READERS)
def test_well_formed_nonsense_is_refused(decode, what):
    with pytest.raises(RemoteProtocolError, match="not a saga message"):
        decode(msgspec.msgpack.encode(what))


@pytest.mark.parametrize("decode", READERS)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x"])
def test_deep_nesting_is_refused(decode, opening):
    for head in (b"", b"\x82\xa4type\xa7Goodbye\xa3new", b"\x82\xa4type\xa7Refused\xa3new"):
        with pytest.raises(RemoteProtocolError):
            decode(head + opening * 200_000 + b"\xc0")


@pytest.mark.parametrize("decode", READERS)
def test_a_frame_over_the_limit_is_refused_before_it_is_read(decode, monkeypatch):
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(RemoteProtocolError, match="101 bytes is over the limit of 100"):
        decode(b"\xc1" * 101)
    with pytest.raises(RemoteProtocolError, match="not a saga message"):
        decode(b"\xc1" * 100)


def test_we_do_not_send_what_is_over_the_limit():
    with pytest.raises(LocalProtocolError, match=r"Goodbye of .* is over the limit"):
        wire.encode(wire.Goodbye(node="n", incarnation=1, reason="x" * wire.MAX_MESSAGE_BYTES))
    assert issubclass(LocalProtocolError, ProtocolError)


def test_the_largest_report_fits():
    many = [wire.ResidentFact("a-node-name/12", f"{i + 10**6}.a-session-name", 10**6) for i in range(10_000)]
    assert len(wire.encode(wire.Report(node="n", incarnation=1, seq=1, resident=many))) < 1_000_000


@pytest.mark.parametrize("message", TO_HEAD + TO_NODE, ids=lambda m: type(m).__name__)
def test_an_older_reader_ignores_fields_of_a_newer_writer(message):
    raw = msgspec.msgpack.decode(wire.encode(message)) | {"from_the_future": {"deep": [1, 2, {"x": None}]}}
    assert reader(message)(msgspec.msgpack.encode(raw)) == message


@pytest.mark.parametrize("message", TO_HEAD + TO_NODE, ids=lambda m: type(m).__name__)
def test_a_newer_reader_fills_in_what_an_older_writer_did_not_know(message):
    """Every field with a default may be absent; those without are there since protocol 1."""
    fields = msgspec.structs.fields(message)
    optional = {f.encode_name for f in fields if not f.required}
    raw = {k: v for k, v in msgspec.msgpack.decode(wire.encode(message)).items() if k not in optional}
    read = reader(message)(msgspec.msgpack.encode(raw))
    assert type(read) is type(message)
    for field in fields:
        assert field.required == (field.encode_name not in optional)


def test_facts_and_wants_older_readers_know_by_heart():
    """The required fields of protocol 1. A change here is a new `PROTOCOL`."""
    required = {
        cls.__name__: [f.name for f in msgspec.structs.fields(cls) if f.required]
        for cls in (*typing.get_args(wire.ToHead), *typing.get_args(wire.ToNode), wire.WorkerFact,
                    wire.ProgramFact, wire.ResidentFact)
    }  # fmt: skip
    assert wire.PROTOCOL == 1
    assert required == {
        "Hello": ["protocol", "version", "node", "incarnation", "host"],
        "Report": ["node", "incarnation", "seq"],
        "Goodbye": ["node", "incarnation"],
        "Valued": ["node", "incarnation", "head", "worker", "version"],
        "Welcome": ["protocol", "cluster", "incarnation", "head", "report_every_s"],
        "Refused": ["reason"],
        "Ack": ["incarnation", "head", "seq"],
        "WhoAreYou": [],
        "RunProgram": ["workflow", "attempt", "incarnation", "argv", "cwd", "env", "log"],
        "StopProgram": ["workflow", "attempt", "grace_s"],
        "ForgetProgram": ["workflow", "attempt"],
        "Worths": ["head", "worker", "incarnation", "since", "version", "worths"],
        "RestartWorker": ["worker", "incarnation", "reason"],
        "HalfMoved": ["node", "incarnation", "head", "move", "half"],
        "MoveHalf": ["head", "move", "half", "worker", "incarnation", "session", "other"],
        "EndMove": ["head", "move"],
        "Shutdown": ["reason"],
        "WorkerFact": ["worker", "incarnation", "state", "model"],
        "ProgramFact": ["workflow", "attempt"],
        "ResidentFact": ["worker", "session", "tokens"],
    }


def test_no_secret_shows_in_a_report_of_workers_without_one():
    assert b"key" not in wire.encode(
        wire.Report(
            node="n",
            incarnation=1,
            seq=1,
            workers=[wire.WorkerFact(worker="n/0", incarnation=1, state=WorkerState.LOST, model="m")],
        )
    )


def test_the_document_names_every_message_with_its_fields():
    text = DOC.read_text()
    for cls in (*typing.get_args(wire.ToHead), *typing.get_args(wire.ToNode)):
        row = re.search(rf"^\| `{cls.__name__}` \|(.*)\|$", text, re.MULTILINE)
        assert row is not None, f"docs/protocol.md has no row of {cls.__name__}"
        told = re.findall(r"`(\w+)`", row[1].split("|")[0])
        assert told == [f.name for f in msgspec.structs.fields(cls)], cls.__name__
    assert f"protocol is number {wire.PROTOCOL}" in text
    assert f"{wire.MAX_MESSAGE_BYTES // 2**20} MiB" in text
