"""Settings, the access file, identities, errors: small tables, each with its refusals."""

from __future__ import annotations

import msgspec
import pytest

from saga_core import access, snapshot
from saga_core.book import Book
from saga_core.config import BOUNDS, Config, HeadConfig, WorkersConfig, settings, with_settings
from saga_core.errors import ClusterError, UserError, choose
from saga_core.identity import MAX_NAME, Identity, identify
from saga_head.gateway.port import Fields


def test_every_setting_has_a_dotted_name_and_a_default_in_bounds():
    flat = settings(Config())
    assert flat["head.port"] == 0
    assert flat["profile"] == "saga"
    assert set(BOUNDS) <= set(flat)
    numbers = {
        name for name, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert {name for name in numbers if not name.endswith("_s")} <= set(BOUNDS), "a number without bounds"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("head.port", "8080", 8080),
        ("head.port", 8080, 8080),
        ("node.backoff_s", "0.5", 0.5),
        ("node.backoff_s", 2, 2.0),
        ("workers.extra_args", "--a  --b=1", ("--a", "--b=1")),
        ("workers.extra_args", ["--a b"], ("--a b",)),
        ("workers.engine", "fake", "fake"),
        ("profile", "sticky", "sticky"),
        ("placement.max_load", "1", 1.0),
    ],
)
def test_values_are_typed_from_text_and_toml(name, text, value):
    changed = settings(with_settings(Config(), {name: text}, where="here"))
    assert changed[name] == value
    assert type(changed[name]) is type(value)
    assert {k for k in changed if changed[k] != settings(Config())[k]} == {name}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("head.prot", 1, "unknown setting 'head.prot' in here, did you mean 'head.port'? (have: "),
        ("head", {}, "unknown setting 'head'"),
        ("head.port", "many", "here: head.port = 'many' is not a valid int"),
        ("head.port", True, "here: head.port = True is not a valid int"),
        ("head.port", -1, "here: head.port = -1 is out of range (valid: 0 to 65535)"),
        ("head.port", 65536, "out of range"),
        ("node.backoff_s", "nan", "node.backoff_s = nan is out of range"),
        ("node.backoff_s", "inf", "out of range"),
        ("head.node_timeout_s", 0, "out of range"),
        ("workers.count", "-2", "out of range"),
        ("workers.engine", "vlm", "here: unknown engine 'vlm', did you mean 'vllm'? (have: fake, vllm)"),
        ("workers.extra_args", 5, "is not a valid tuple"),
        ("profile", "lru", "here: unknown profile 'lru' (have: kvflow, las, least-loaded, prefix-aware, "),
    ],
)
def test_a_wrong_setting_says_what_where_and_what_is_valid(name, value, text):
    with pytest.raises(UserError) as caught:
        with_settings(Config(), {name: value}, where="here")
    assert text in str(caught.value)


def test_a_config_cannot_be_made_wrong_by_hand_either():
    with pytest.raises(UserError, match="out of range"):
        Config(head=HeadConfig(port=-1))
    with pytest.raises(UserError, match="unknown engine"):
        Config(workers=WorkersConfig(engine="x"))


def test_choose_without_any_choice():
    assert str(choose("model", "x", [])) == "unknown model 'x' (have: none)"


ACCESS = access.Access(
    name="c", pid=1, host="h", started_at=1.5, url="http://h:1", api_key="a", admin_key="b",
    control="tcp://h:2", head_public="p", node_public="q", node_secret="r",
)  # fmt: skip


def test_the_access_file_comes_back_as_it_was():
    assert access.decode(access.encode(ACCESS), "x") == ACCESS


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "x is damaged"),
        (b"{}", "x is damaged"),
        (b"\xff\xfe", "x is damaged"),
        (b"[" * 100_000, "x is damaged"),
        (access.encode(ACCESS)[:-9], "x is damaged"),
        (b'{"version": 2, "other": "things"}', "x has version 2, this saga reads 1"),
    ],
)
def test_a_strange_access_file_is_a_clear_error(data, text):
    with pytest.raises(ClusterError) as caught:
        access.decode(data, "x")
    assert text in str(caught.value)


def test_a_newer_access_file_with_more_fields_is_read():
    more = msgspec.json.decode(access.encode(ACCESS)) | {"new": 1}
    assert access.decode(msgspec.json.encode(more), "x") == ACCESS


@pytest.mark.parametrize(
    ("headers", "body", "by_token", "expected"),
    [
        ({}, None, False, Identity("", "main", "none")),
        ({}, "B", False, Identity("B", "main", "body.session_id")),
        ({b"x-saga-workflow-id": b"W"}, "B", False, Identity("W", "main", "saga")),
        ({b"x-dynamo-session-id": b"D", b"x-session-id": b"X"}, None, False, Identity("D", "main", "dynamo")),
        ({b"x-claude-code-session-id": b"C", b"x-claude-code-agent-id": b"sub"}, None, False,
         Identity("C", "sub", "claude-code")),
        ({b"x-session-affinity": b"A"}, None, False, Identity("A", "main", "session-affinity")),
        ({b"x-litellm-session-id": b"L"}, None, False, Identity("L", "main", "litellm")),
        ({b"x-session-id": b"X"}, None, False, Identity("X", "main", "x-session-id")),
        ({b"session-id": b"S"}, None, False, Identity("S", "main", "codex")),
        ({b"session_id": b"S"}, None, False, Identity("S", "main", "codex")),
        ({b"x-smg-routing-key": b"R"}, None, False, Identity("R", "main", "smg")),
        ({b"x-request-id": b"1", b"traceparent": b"2"}, None, False, Identity("", "main", "none")),
        ({b"x-saga-workflow-id": b"W"}, None, True, Identity("", "main", "token")),
        ({b"x-saga-session-id": b"r"}, "B", True, Identity("", "r", "token+saga")),
        ({}, "B", True, Identity("", "B", "token+body.session_id")),
        ({b"x-saga-agent-type": b"coder"}, None, True, Identity("", "main", "token", "coder")),
        ({b"x-saga-workflow-id": b"\x01\x02", b"x-session-id": b"X"}, None, False,
         Identity("X", "main", "x-session-id")),
        ({b"x-saga-session-id": b"\n", b"x-claude-code-session-id": b"c", b"x-claude-code-agent-id": b"sub"}, None, True,
         Identity("", "sub", "token+claude-code")),
        ({}, "\x00\x1b", False, Identity("", "main", "none")),
        ({b"x-session-id": b"n\xe4me\r\n"}, None, False, Identity("näme", "main", "x-session-id")),
        ({b"x-session-id": b"x" * 999}, None, False, Identity("x" * MAX_NAME, "main", "x-session-id")),
    ],
)  # fmt: skip
def test_who_is_calling(headers, body, by_token, expected):
    assert identify(headers, Fields(model="m", session_id=body), by_token=by_token) == expected


def test_a_snapshot_that_is_not_ours_is_a_clear_error():
    for data in (b"", b"\xc1", msgspec.msgpack.encode({"profile": 5}), b"\x81\xa1\xff\x00"):
        with pytest.raises(ClusterError, match="here: not a snapshot"):
            snapshot.decode(data, "here")
    newer = msgspec.msgpack.decode(snapshot.encode(Book("sticky"))) | {"version": 99}
    with pytest.raises(ClusterError, match="here: version 99, this saga reads 1"):
        snapshot.decode(msgspec.msgpack.encode(newer), "here")
