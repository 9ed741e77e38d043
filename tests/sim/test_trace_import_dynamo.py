"""Dynamo's request traces and agentic Mooncake rows: sessions, sub-agents, tools, and what is refused."""

import gzip
import json

import pytest

from saga_core.errors import UserError
from saga_sim.trace import session_names
from saga_sim.trace.checks import faults
from saga_sim.trace.importers import ImportOptions, import_trace

BLOCK = 64
BEGAN_MS = 1_777_312_800_000


def end(name, start_ms, end_ms, hashes, *, session=None, parent=None, output=16, prompt=None, **more):
    """A request_end record as Dynamo writes it, agent-enriched where there is a session."""
    record = {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": BEGAN_MS + end_ms,
        "event_source": "dynamo",
        "request": {
            "request_id": name,
            "model": "served",
            "output_tokens": output,
            "request_received_ms": BEGAN_MS + start_ms,
            "total_time_ms": end_ms - start_ms,
            "worker": {"decode_worker_id": 7},
            "replay": {
                "trace_block_size": BLOCK,
                "input_length": prompt or BLOCK * len(hashes),
                "input_sequence_hashes": hashes,
            },
            **more,
        },
    }
    if session is not None:
        record["agent_context"] = {"session_id": session}
        if parent is not None:
            record["agent_context"]["parent_session_id"] = parent
    return record


def tool(session, name, start_ms, end_ms, event="tool_end", **more):
    return {
        "schema": "dynamo.request.trace.v1",
        "event_type": event,
        "event_time_unix_ms": BEGAN_MS + end_ms,
        "event_source": "harness",
        "agent_context": {"session_id": session},
        "tool": {
            "tool_call_id": f"{name}-{start_ms}", "tool_class": name, "status": "succeeded",
            "started_at_unix_ms": BEGAN_MS + start_ms, "ended_at_unix_ms": BEGAN_MS + end_ms, **more,
        },
    }  # fmt: skip


def write(path, rows):
    data = "".join(json.dumps(item) + "\n" for item in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(tmp_path, rows, **options):
    made = import_trace("dynamo", [write(tmp_path / "t.jsonl", rows)], ImportOptions(**options))
    assert [fault for workflow in made.workflows for fault in faults(workflow)] == []
    return made


BIG = 14_879_255_164_371_896_291  # hashes use all 64 bits


def test_a_session_is_a_chain_with_its_tools(tmp_path):
    rows = [
        end("a", 0, 1000, [BIG, 2], session="s", prompt=100, cached_tokens=64, ttft_ms=250.5),
        tool("s", "web_search", 1080, 1500),
        tool("s", "read_file", 1100, 1200),
        end("b", 1600, 2000, [BIG, 3, 4], session="s"),
        end("c", 2500, 3000, [BIG, 3, 4, 5], session="s"),
    ]
    (made,) = read(tmp_path, rows).workflows
    first, second, third = made.steps
    assert (first.prompt_tokens, first.output_tokens, first.cached_tokens) == (100, 16, 64)
    assert (first.ts_s, first.llm_s, first.ttft_s, first.gap_s, first.model) == (
        0.0,
        1.0,
        0.2505,
        0.0,
        "served",
    )
    assert (second.ctx_parent, second.parents, second.new_prompt_tokens) == (0, (0,), 2 * BLOCK)
    assert (second.ts_s, second.gap_s) == (1.6, 0.6)
    assert (third.ctx_parent, third.new_prompt_tokens) == (1, BLOCK)
    did = first.tool
    assert (did.kind, did.name, did.latency_s, did.n) == ("tool", "web_search", 0.6, 2)
    assert did.parts == (("read_file", 0.1), ("web_search", 0.42))
    assert second.tool.name is None
    assert (made.block_size, made.timing, made.workload) == (BLOCK, "measured", "coding-agent")
    assert str(BIG) not in json.dumps([s.blocks.add for s in made.steps])


def test_a_subagent_leaves_its_parent_and_joins_it_again(tmp_path):
    rows = [
        end("p1", 0, 1000, [1, 2], session="planner"),
        end("c1", 1100, 1500, [9, 8], session="researcher", parent="planner"),
        end("c2", 1600, 2000, [9, 8, 7], session="researcher", parent="planner"),
        end("p2", 2300, 3000, [1, 2, 3], session="planner"),
        end("other", 500, 700, [4], session="elsewhere"),
    ]
    family, alone = read(tmp_path, rows).workflows
    assert [step.agent for step in family.steps] == ["main", "agent-1", "agent-1", "main"]
    assert [step.parents for step in family.steps] == [(), (0,), (1,), (0, 2)]
    assert [step.ctx_parent for step in family.steps] == [None, None, 1, 0]
    assert family.steps[3].gap_s == 0.3
    assert (family.steps[0].tool.kind, family.steps[0].tool.latency_s) == ("subagent", 0.3)
    assert len(set(session_names(family))) == 2
    assert (alone.arrival_s, len(alone.steps)) == (0.5, 1)


def test_a_recorded_launch_goes_before_the_clock(tmp_path):
    """By the clock p2 had ended when the child began; the tool says that p1 launched it and p4 took it up."""
    claude = {
        "source_request_id": "p1", "consumer_request_id": "p4", "child_session_id": "kid", "execution_mode": "background",
    }  # fmt: skip
    rows = [
        end("p1", 0, 100, [1], session="top"),
        end("p2", 200, 300, [1, 2], session="top"),
        end("c1", 400, 500, [9], session="kid", parent="top"),
        end("p3", 600, 700, [1, 2, 3], session="top"),
        end("p4", 800, 900, [1, 2, 3, 4], session="top"),
        tool("top", "Agent", 110, 790, claude=claude),
    ]
    (made,) = read(tmp_path, rows).workflows
    assert [step.parents for step in made.steps] == [(), (0,), (0,), (1,), (2, 3)]


def test_requests_that_overlap_do_not_wait_for_each_other(tmp_path):
    rows = [
        end("a", 0, 1000, [1], session="s"),
        end("b", 1200, 3000, [1, 2], session="s"),
        end("c", 1300, 2000, [1, 3], session="s"),
        end("d", 3100, 3200, [1, 2, 4], session="s"),
    ]
    (made,) = read(tmp_path, rows).workflows
    assert [step.parents for step in made.steps] == [(), (0,), (0,), (1,)]


def test_what_the_model_asked_for_names_the_pause(tmp_path):
    asked = {
        "finish_reason": "tool_calls",
        "tool_calls": [{"choice_index": 0, "tool_call_index": 0, "name": "bash"}],
    }
    rows = [
        end("a", 0, 10, [1], session="s", finish_reason_metadata=asked),
        end("b", 20, 30, [1, 2], session="s", finish_reason_metadata={"finish_reason": "stop"}),
        end("c", 60, 90, [1, 2, 3], session="s"),
    ]
    (made,) = read(tmp_path, rows).workflows
    assert [(s.tool.kind, s.tool.name) for s in made.steps[:2]] == [("tool", "bash"), ("user", None)]


def test_a_tool_belongs_to_the_pause_that_it_ended_in(tmp_path):
    rows = [
        end("a", 0, 10, [1], session="s"),
        end("b", 100, 110, [1, 2], session="s"),
        end("c", 300, 310, [1, 2, 3], session="s"),
        tool("s", "quick", 20, 90),
        tool("s", "slow", 30, 250, event="tool_error"),
    ]
    (made,) = read(tmp_path, rows).workflows
    assert [step.tool.name for step in made.steps[:2]] == ["quick", "slow"]


def test_requests_without_sessions_are_joined_by_their_blocks(tmp_path):
    rows = [end("a", 0, 100, [1, 2, 3]), end("b", 50, 90, [1, 2, 3, 4]), end("c", 200, 300, [1, 2, 3, 5])]
    chat, other = read(tmp_path, rows).workflows
    assert (len(chat.steps), len(other.steps), chat.workload) == (2, 1, "prod-chat")
    assert chat.steps[1].ts_s == 0.2, "b began while a ran, so it is not its continuation"


def test_wrapped_records_shards_payloads_and_requests_cut_off(tmp_path):
    one = write(
        tmp_path / "t.000000.jsonl.gz", [{"timestamp": 1, "event": end("a", 0, 100, [1], session="s")}]
    )
    payload = {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_payload",
        "payload": {"text": "secret"},
    }
    two = write(
        tmp_path / "t.000001.jsonl.gz",
        [payload, {"event": payload}, end("b", 200, 300, [1, 2], session="s"), end("x", 400, 410, [1], session="s", output=0)],
    )  # fmt: skip
    made = import_trace("dynamo", [one, two], ImportOptions())
    assert [len(w.steps) for w in made.workflows] == [2]
    assert made.left_out == {"requests without output": 1}


def without(record, *path):
    held = record
    for name in path[:-1]:
        held = held[name]
    del held[path[-1]]
    return record


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([end("a", 0, 1, [1]) | {"schema": "dynamo.request.trace.v2"}], "t.jsonl:1: Invalid enum value 'dynamo.request.trace.v2'"),
        ([end("a", 0, 1, [1]), end("a", 0, 1, [1])], "t.jsonl:2: request_id 'a' stands at"),
        ([end("a", 0, 1, [1], prompt=129)], "1 block hashes for 129 tokens (valid: 3"),
        ([without(end("a", 0, 1, [1]), "request", "request_received_ms")], "missing required field 'request_received_ms'"),
        ([without(end("a", 0, 1, [1]), "request", "replay")], "missing required field 'replay'"),
        ([without(end("a", 0, 1, [1]), "request")], "a request_end record without 'request'"),
        ([end("a", 0, 1, [1], session="s"), end("b", 2, 3, [1])], "t.jsonl:2: a request without agent_context"),
        ([end("a", 0, 1, [1]) | {"event_type": "request_start"}], "Invalid enum value 'request_start'"),
        ([tool("s", "x", 0, 1)], "no request_end record"),
        ([end("a", 0, 1, [1], session="s"), tool("s", "x", 5, 1)], "t.jsonl:2: tool 'x-5' ends before it starts"),
        ([end("a", 0, 1, [1], session="s", parent="t"), end("b", 2, 3, [1], session="t", parent="s")], "is its own ancestor"),
        ([end("a", 0, 1, [1], session="s", parent="t"), end("b", 2, 3, [1], session="s", parent="u")], "has parents 't' and 'u'"),
        ([{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}], "neither 'schema' nor 'request_id'"),
        ([], "hold no record"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, rows, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    assert told in str(caught.value)


def test_shards_of_different_block_sizes_are_refused(tmp_path):
    other = end("b", 2, 3, [1])
    other["request"]["replay"] |= {"trace_block_size": 16, "input_length": 16}
    with pytest.raises(
        UserError, match=r"t\.jsonl:2: trace_block_size 16 after 64 \(valid: one for all shards\)"
    ):
        read(tmp_path, [end("a", 0, 1, [1]), other])


def agentic(name, hashes, **more):
    prompt = more.pop("input_length", 512 * len(hashes))
    return {"request_id": name, "input_length": prompt, "output_length": 30, "hash_ids": hashes, **more}


def test_agentic_rows_wait_for_each_other(tmp_path):
    event = {
        "tool_call_id": "1", "tool_class": "bash", "started_at_unix_ms": 1, "ended_at_unix_ms": 901, "duration_ms": 900.0,
        "status": "succeeded",
    }  # fmt: skip
    rows = [
        agentic("r1", [1, 2], session_id="main", timestamp=2000, prefix_reset=True, branches=["k1"]),
        agentic("r3", [1, 2, 3], session_id="main", wait_for=["r1", "k1"], delay=50, tool_wait_ms=900, tool_events=[event]),
        agentic("k1", [9], session_id="kid", wait_for=["r1"], delay_ms=10, prefix_reset=True, request_kind="agent"),
        agentic("z", [1, 5], timestamp=500, output_token_ids=[1, 2], routing_constraints={"required_taints": []}, priority=3),
    ]  # fmt: skip
    alone, made = read(tmp_path, rows).workflows
    assert [(s.agent, s.parents, s.ctx_parent) for s in made.steps] == [
        ("main", (), None), ("agent-1", (0,), None), ("main", (0, 1), 0),
    ]  # fmt: skip
    assert [s.gap_s for s in made.steps] == [0.0, 0.01, 0.95]
    assert [s.ts_s for s in made.steps] == [0.0, None, None]
    assert (made.steps[0].tool.name, made.steps[0].tool.latency_s) == ("bash", 0.95)
    assert made.steps[2].new_prompt_tokens == 512
    assert (made.arrival_s, len(alone.steps), made.timing) == (1.5, 1, "partial")


def test_turns_of_a_session_wait_for_the_turn_before(tmp_path):
    rows = [
        {
            "session_id": "a",
            "timestamp": 1000,
            "input_tokens": 2048,
            "output_tokens": 128,
            "hash_ids": [1, 2, 3, 4],
        },
        {
            "session_id": "a",
            "delay_ms": 50,
            "input_length": 2560,
            "output_length": 128,
            "hash_ids": [1, 2, 3, 4, 5],
        },
        {"session_id": "b", "timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [7, 8]},
        {"session_id": "b", "timestamp": 900, "input_length": 700, "output_length": 1, "hash_ids": [7, 9]},
    ]
    second, first = read(tmp_path, rows).workflows
    assert [(s.parents, s.gap_s, s.new_prompt_tokens) for s in first.steps] == [
        ((), 0.0, 2048),
        ((0,), 0.05, 512),
    ]
    assert (second.arrival_s, first.arrival_s, second.steps[1].gap_s) == (0.0, 1.0, 0.9)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([agentic("a", [1]), agentic("a", [1])], "t.jsonl:2: request_id 'a' stands at"),
        ([agentic("a", [1], wait_for=["b"])], "t.jsonl:1: waits for 'b', which is not in the file"),
        ([agentic("a", [1], wait_for=["b"]), agentic("b", [1], wait_for=["a"])], "waits for itself through other requests"),
        ([agentic("a", [1], wait_for=["a"])], "waits for itself"),
        ([agentic("a", [1], delay=-1)], ">= 0"),
        ([agentic("a", [1], delay=1, delay_ms=2)], "under both its names"),
        ([agentic("a", [1], ttl=3)], "unknown field 'ttl'"),
        ([agentic("a", [1], input_length=1000)], "1 block hashes for 1000 tokens (valid: 2"),
        ([agentic("a", [1]), {"input_length": 3, "output_length": 1, "hash_ids": [1]}], "t.jsonl:2: neither request_id nor"),
    ],
)  # fmt: skip
def test_agentic_rows_that_are_refused(tmp_path, rows, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows)
    assert told in str(caught.value)
