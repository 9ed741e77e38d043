"""`saga node …` and `saga down --drain`: what is asked of the head, and what is shown of it."""

from __future__ import annotations

import json

import msgspec
import pytest
from canned import CLUSTER, NODES

from saga_cli.units import duration, seconds
from saga_core.errors import UserError

DRAINING = msgspec.structs.replace(
    NODES[0], duty="draining", why="\x1bnew driver", until_s=290.0, steps=3, removed=True
)


@pytest.fixture(autouse=True)
def nodes(stub, folder, monkeypatch):
    """The stub knows the node `local`; a drain of `gone` finds that it is forgotten."""
    plain = stub.answer

    def answer(method, path, body):
        match method, path.removeprefix("/saga/v1/").split("/"):
            case "POST", ["nodes", "gone", "drain"]:
                stub.asked.append((method, path, body))
                return 200, None
            case "POST", ["nodes", "local", what]:
                stub.asked.append((method, path, body))
                return 200, DRAINING if what == "drain" else NODES[0]
            case "POST", ["nodes", name, _]:
                return 400, {"error": {"message": f"unknown node {name!r} (have: local)", "type": "x"}}
        return plain(method, path, body)

    monkeypatch.setattr(stub, "answer", answer)


def test_list_shows_each_node_and_why_it_drains(saga, stub):
    stub.cluster = msgspec.structs.replace(CLUSTER, nodes=[DRAINING, NODES[1]])
    said = saga("node", "list")
    assert said.code == 0
    assert "draining" in said.out
    assert "lost" in said.out
    line = (
        "local draining: ?new driver; 3 steps and 2 programs left, broken off in 4m50s; then its daemon ends"
    )
    assert line in " ".join(said.out.split())
    assert "draining" in saga("status").out
    assert saga("--output", "quiet", "node", "list").out.split() == ["local", "gpu017"]


def test_drain_says_what_is_wanted_and_shows_the_node(saga, stub):
    said = saga("--output", "json", "node", "drain", "local", "--within", "5m", "--reason", "disk")
    assert said.code == 0
    assert json.loads(said.out)[0]["duty"] == "draining"
    path, body = stub.asked[-1][1:]
    assert path == "/saga/v1/nodes/local/drain"
    assert body == {"reason": "disk", "within_s": 300.0, "remove": False}


def test_remove_and_undrain(saga, stub):
    assert saga("node", "remove", "local", "gone").code == 0
    assert [body["remove"] for _, _, body in stub.asked] == [True, True]
    said = saga("node", "undrain", "local")
    assert (said.code, "draining" in said.out) == (0, False)


def test_waiting_ends_when_the_node_is_empty(saga, stub, monkeypatch):
    views = [DRAINING, DRAINING, msgspec.structs.replace(DRAINING, duty="drained", steps=0, programs=0)]

    def pause(_):
        stub.cluster = msgspec.structs.replace(CLUSTER, nodes=[views.pop(0)])

    pause(0)
    monkeypatch.setattr("saga_cli.emptying.time.sleep", pause)
    said = saga("node", "drain", "local", "--wait")
    assert (said.code, views) == (0, [])
    assert "drained" in said.out
    stub.cluster = msgspec.structs.replace(CLUSTER, nodes=[])
    assert saga("node", "remove", "local", "--wait").code == 0


def test_mistakes_name_what_is_valid(saga):
    said = saga("node", "drain", "nowhere")
    assert (said.code, said.out) == (2, "")
    assert "unknown node 'nowhere' (have: local)" in said.err
    said = saga("node", "drain", "local", "--within", "soon")
    assert (said.code, "--within 'soon' is not a span of time (valid: 90s, 5m" in said.err) == (2, True)
    assert saga("down", "--drain", "--within", "").code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1d1h1m1s", 90061),
    ],
)
def test_spans(text, value):
    assert seconds(text, "--x") == value


@pytest.mark.parametrize("text", ["", "s", "m5", "5x", "-5s", "1h30", "٣s", "1e9", "5 m", "nan"])
def test_what_is_no_span(text):
    if text == "1h30":  # 1 h and 30 s
        assert seconds(text, "--x") == 3630
        return
    with pytest.raises(UserError):
        seconds(text, "--x")


def test_durations_are_read_back():
    for value in (0.42, 8.3, 42, 192, 7500, 100_800):
        assert seconds(duration(value), "--x") == value
