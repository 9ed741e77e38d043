import gzip
import json

import msgspec
import pytest
from hypothesis import given, settings
from trace_makers import TRACE_FILES, chain, needs_traces, step, workflow, workflows

from saga_core.errors import UserError
from saga_sim.trace import format as trace_format
from saga_sim.trace import load_trace, parse_source, read_trace, session_names, shared_tokens, write_trace
from saga_sim.trace.checks import faults
from saga_sim.trace.format import decode_workflow, encode_workflow
from saga_sim.trace.records import Tool


@needs_traces
@pytest.mark.parametrize("path", TRACE_FILES, ids=lambda path: path.name)
def test_every_public_trace_loads_and_survives_a_round_trip(path):
    loaded = load_trace(path)
    assert loaded
    for line, read in zip(gzip.decompress(path.read_bytes()).splitlines(), loaded, strict=True):
        assert len(json.loads(line)["calls"]) == len(read.steps)
        assert decode_workflow(encode_workflow(read), "again") == read


def test_one_public_line_is_written_with_the_fields_of_the_file_format():
    written = json.loads(encode_workflow(chain(steps=2)))
    assert {"v", "task_id", "calls", "tenant", "arrival_s", "block_size"} <= set(written)
    assert written["tenant"] is None
    assert set(written["calls"][1]) == {
        "id", "ctx_parent", "parents", "agent", "prompt_tokens", "new_prompt_tokens", "output_tokens",
    }  # fmt: skip


@given(workflows())
@settings(max_examples=30, deadline=None)
def test_valid_workflows_of_any_shape_pass_and_round_trip(made):
    assert list(faults(made)) == []
    assert decode_workflow(encode_workflow(made), "here") == made


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_written_files_are_byte_identical_and_read_back(tmp_path, name):
    made = [chain("a"), chain("b")]
    assert write_trace(tmp_path / name, made) == 2
    first = (tmp_path / name).read_bytes()
    write_trace(tmp_path / name, made)
    assert (tmp_path / name).read_bytes() == first
    assert load_trace(tmp_path / name) == made
    if name.endswith(".gz"):
        assert first[3:8] == bytes(5), "no flags, so no name, and no time in the gzip header"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(path, [chain("a")])
    before = path.read_bytes()
    with pytest.raises(UserError, match="step 0"):
        write_trace(path, [chain("b"), workflow(step(0, 10, cached_tokens=11))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_refuses_strange_names_empty_sets_and_absent_folders(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.jsonl\.gz or \.jsonl"):
        write_trace(tmp_path / "t.csv", [chain()])
    with pytest.raises(UserError, match="no workflow"):
        write_trace(tmp_path / "t.jsonl", [])
    with pytest.raises(UserError, match="cannot be written"):
        write_trace(tmp_path / "absent" / "t.jsonl", [chain()])


def broken(**change):
    told = json.loads(encode_workflow(chain(steps=2)))
    told.update(change)
    return told


def broken_step(**change):
    told = json.loads(encode_workflow(chain(steps=2)))
    told["calls"][1].update(change)
    return told


BLOCKS = {"block_size": 16, "hash_scope": "task"}
FAULTS = {
    "another version": (broken(v=2), "version 2 is not known.*valid: 1"),
    "an unknown field": (broken(extra=1), "unknown field 'extra'"),
    "an unknown step field": (broken_step(extra=1), "unknown field 'extra'.*calls"),
    "no steps": (broken(calls=[]), "length >= 1.*calls"),
    "an unknown workload": (broken(workload="games"), "games.*workload"),
    "a long name": (broken(task_id="x" * 300), "length <= 256"),
    "negative arrival": (broken(arrival_s=-1), ">= 0.*arrival_s"),
    "a zero count": (broken_step(output_tokens=0), r">= 1.*calls\[1\].output_tokens|output_tokens"),
    "a huge count": (broken_step(output_tokens=1 << 40), "<="),
    "text for a number": (broken_step(prompt_tokens="9"), "int"),
    "ids out of order": (broken_step(id=7), "step 1: id is 7"),
    "a parent that follows": (broken_step(parents=[0, 1]), r"step 1: parent 1 does not precede it \(valid: 0 to 0\)"),
    "parents twice": (broken_step(parents=[0, 0]), "rising order"),
    "a context that is no parent": (broken_step(parents=[]), "ctx_parent 0 is not one of its parents"),
    "new above prompt": (broken_step(new_prompt_tokens=131), "new_prompt_tokens 131 exceeds prompt_tokens 130"),
    "a root that shares": (broken_step(ctx_parent=None), "ctx_parent is null"),
    "more shared than there is": (broken_step(new_prompt_tokens=29), "shares 101 tokens with step 0, whose prompt has 100"),
    "cached above prompt": (broken_step(cached_tokens=131), "cached_tokens 131 exceeds"),
    "prefix above prompt": (broken_step(shared_prefix_tokens=131), "shared_prefix_tokens 131 exceeds"),
    "blocks without a size": (broken_step(blocks={"keep": 0, "add": [[0, 1]]}), "no block_size"),
    "blocks of nobody": (broken(**BLOCKS, calls=[*broken_step(blocks={"keep": 6, "add": [[9, 2]]})["calls"]]), "keeps 6 blocks of a context parent that lists 0"),
    "a negative latency": (broken_step(tool={"kind": "tool", "name": "x", "latency_s": -1}), "latency_s"),
    "an unknown tool kind": (broken_step(tool={"kind": "god", "name": "x", "latency_s": 1}), "god"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_file_line_and_what_is_valid(tmp_path, case):
    told, message = FAULTS[case]
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode_workflow(chain("good")) + b"\n" + json.dumps(told).encode() + b"\n")
    with pytest.raises(UserError, match=message) as fault:
        load_trace(path)
    assert str(fault.value).startswith(f"{path}:2: ")


def with_times(*starts, llm_s=1.0, gap_s=None):
    return workflow(
        *(
            step(i, 100 + 10 * i, 10, ts_s=at, llm_s=llm_s, gap_s=gap_s if i else None)
            for i, at in enumerate(starts)
        )
    )


def test_times_must_be_ordered_and_gaps_must_fit_them():
    assert not list(faults(with_times(0, 3, gap_s=2.0)))
    assert "before its parent 0 started" in next(faults(with_times(5, 3)))
    assert "gap_s 2.5 is not the 2.000 s" in next(faults(with_times(0, 3, gap_s=2.5)))
    assert not list(faults(with_times(0, 0.5, gap_s=0.0))), "a call that overlaps its parent has gap 0"


def test_block_lists_must_agree_with_the_counts():
    def blocky(keep, add):
        return msgspec.convert(
            [
                {"id": 0, "ctx_parent": None, "parents": [], "agent": "m", "prompt_tokens": 160, "new_prompt_tokens": 160,
                 "output_tokens": 1, "blocks": {"keep": 0, "add": [[0, 10]]}},
                {"id": 1, "ctx_parent": 0, "parents": [0], "agent": "m", "prompt_tokens": 320, "new_prompt_tokens": 160,
                 "output_tokens": 1, "blocks": {"keep": keep, "add": add}},
            ],
            type=tuple[type(step(0, 1)), ...],
        )  # fmt: skip

    def check(keep, add):
        return next(faults(workflow(*blocky(keep, add), **BLOCKS)), None)

    assert check(10, [[20, 10]]) is None
    assert "keeps 11 blocks" in check(11, [[20, 9]])
    assert "lists 30 blocks" in check(10, [[20, 20]])
    assert "keeps 5 blocks of 16 tokens where it shares 160" in check(5, [[20, 15]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no workflow"),
        (b"\n", ":1: empty line"),
        (b"not json\n", ":1: .*malformed"),
        (b"\xff\xfe\n", ":1: "),
        (b"[" * 100_000 + b"\n", ":1: "),
        (b"{}\n", "missing required field"),
    ],
)
def test_files_that_are_no_traces(tmp_path, content, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_trace(path)


def test_a_task_id_stands_once(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(path, [chain("a"), chain("b"), chain("a")])
    with pytest.raises(UserError, match=r":3: task_id 'a' stands on line 1 already"):
        load_trace(path)


def test_a_line_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    write_trace(path, [chain(steps=50)])
    monkeypatch.setattr(trace_format, "MAX_LINE_BYTES", 1000)
    with pytest.raises(UserError, match=":1: line is longer than 1000 bytes"):
        load_trace(path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-12], lambda data: b"plain", lambda data: data[:20] + b"x" * 9]
)
def test_damaged_gzip_is_an_error_and_never_a_short_trace(tmp_path, damage):
    path = tmp_path / "t.jsonl.gz"
    write_trace(path, [chain("a"), chain("b")])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="damaged gzip"):
        load_trace(path)


def test_absent_files_and_other_suffixes(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_trace(tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="not a trace file"):
        next(read_trace(tmp_path / "t.csv"))


def test_selection_by_id_and_the_error_that_names_near_ones(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    write_trace(path, [chain("swe/001"), chain("swe/002")])
    assert [w.workflow_id for w in load_trace(path, "swe/002")] == ["swe/002"]
    with pytest.raises(UserError, match=r"no workflow 'swe/2' among its 2 \(have: swe/002"):
        load_trace(path, "swe/2")


@pytest.mark.parametrize(
    ("source", "path", "chosen"),
    [
        ("a/b.jsonl.gz", "a/b.jsonl.gz", None),
        ("b.jsonl", "b.jsonl", None),
        ("b.jsonl.gz:swe/1", "b.jsonl.gz", "swe/1"),
        ("b.jsonl:x:y", "b.jsonl", "x:y"),
    ],
)
def test_parse_source(source, path, chosen):
    got, select = parse_source(source)
    assert (str(got), select) == (path, chosen)


@pytest.mark.parametrize("source", ["", "x.csv", "x.jsonl.gz:", ".jsonl", "x.jsonlines", "x.jsonl.gz.bak"])
def test_parse_source_refuses(source):
    with pytest.raises(UserError, match="is not a trace"):
        parse_source(source)


def test_a_prefix_cut_by_less_than_a_block_is_the_whole_parent():
    first = step(0, 100, blocks=msgspec.convert({"keep": 0, "add": [[0, 6]]}, type=trace_blocks()))
    second = step(1, 150, 54, blocks=msgspec.convert({"keep": 6, "add": [[9, 3]]}, type=trace_blocks()))
    hashed = workflow(first, second, **BLOCKS)
    assert not list(faults(hashed))
    assert shared_tokens(hashed, second) == 100
    counted = workflow(step(0, 100), step(1, 150, 54))
    assert shared_tokens(counted, counted.steps[1]) == 96


def trace_blocks():
    from saga_sim.trace.records import Blocks

    return Blocks


def test_sessions_follow_contexts():
    w = workflow(
        step(0, 100),
        step(1, 150, 50),
        step(2, 60, ctx=None, parents=[1], agent="sub"),  # a sub-agent
        step(3, 90, 30, ctx=2, agent="sub"),
        step(4, 200, 50, ctx=1, parents=[1, 3]),  # main goes on after the join
        step(5, 210, 60, ctx=1, parents=[1]),  # a branch beside it
        step(6, 50, ctx=None, parents=[4], compacted=True),  # a new context
    )
    assert session_names(w) == ("main.0", "main.0", "sub.2", "sub.2", "main.0", "main.5", "main.6")


def test_tool_latency_may_be_unknown():
    assert Tool(kind="tool", name=None).latency_s is None
