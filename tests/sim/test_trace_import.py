"""Mooncake traces, and what every importer owes: nothing half-read, every fault with file and line."""

import gzip
import json
from collections import Counter

import pytest
from trace_makers import TRACES

from saga_cli.main import run
from saga_core.errors import UserError
from saga_sim.trace import load_trace, session_names
from saga_sim.trace.importers import ImportOptions, import_trace

CONVERSATIONS = TRACES / "mooncake-conversation.jsonl.gz"
BLOCK = 512


def row(timestamp, prompt, hashes, output=50):
    return {"timestamp": timestamp, "input_length": prompt, "output_length": output, "hash_ids": hashes}


def write(path, rows):
    data = "".join(json.dumps(item) + "\n" for item in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path, **options):
    return import_trace("mooncake", [path], ImportOptions(**options)).workflows


def lists(workflow):
    """Each step's whole block list, as the format's page rebuilds it."""
    held = []
    for step in workflow.steps:
        base = held[step.ctx_parent][: step.blocks.keep] if step.ctx_parent is not None else []
        held.append([*base, *(start + k for start, length in step.blocks.add for k in range(length))])
    return held


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_request_continues_the_one_whose_full_blocks_it_contains(tmp_path, name):
    rows = [
        row(1000, 1100, [7, 8, 9]),
        row(3500, 1100, [7, 20, 21]),  # shares only the service's own first block
        row(5000, 1700, [7, 8, 30, 31]),  # the first one's two full blocks, then others
    ]
    first, second = read(write(tmp_path / name, rows))
    assert [step.prompt_tokens for step in first.steps] == [1100, 1700]
    answer = first.steps[1]
    assert (answer.ctx_parent, answer.parents, answer.new_prompt_tokens) == (0, (0,), 1700 - 2 * BLOCK)
    assert (first.arrival_s, second.arrival_s, answer.ts_s) == (0.0, 2.5, 4.0)
    assert (answer.llm_s, answer.gap_s) == (None, None), "durations are not recorded, so pauses are not known"
    assert [len(ids) for ids in lists(first)] == [3, 4]
    assert lists(first)[0][:2] == lists(first)[1][:2]
    assert lists(second)[0][0] == lists(first)[0][0], "shared across sessions too"
    assert (first.tokens, first.timing, first.hash_scope, first.block_size) == (
        "reported",
        "partial",
        "source",
        BLOCK,
    )
    assert first.steps[0].tool.kind == "user"


def test_a_retry_opens_a_session_of_its_own(tmp_path):
    same = [row(0, 1100, [7, 8, 9]), row(10, 1100, [7, 8, 9])]
    assert [len(made.steps) for made in read(write(tmp_path / "t.jsonl", same))] == [1, 1]


def test_a_branch_opens_a_session_and_the_longest_prompt_is_continued(tmp_path):
    rows = [
        row(0, 1100, [7, 8, 9]),
        row(1, 1600, [7, 8, 10, 11]),
        row(2, 1650, [7, 8, 12, 13]),  # from the first one's prompt too, which was continued already
        row(3, 2100, [7, 8, 10, 14, 15]),
    ]
    made = read(write(tmp_path / "t.jsonl", rows))
    assert [[step.prompt_tokens for step in one.steps] for one in made] == [[1100, 1600, 2100], [1650]]


def test_rows_out_of_order_are_put_in_order(tmp_path):
    rows = [row(5000, 1700, [7, 8, 30, 31]), row(1000, 1100, [7, 8, 9])]
    assert [step.prompt_tokens for step in read(write(tmp_path / "t.jsonl", rows))[0].steps] == [1100, 1700]


def test_files_are_sources_of_their_own(tmp_path):
    one, two = (
        write(tmp_path / "a.jsonl", [row(0, 600, [1, 2])]),
        write(tmp_path / "b.jsonl", [row(9, 600, [1, 2])]),
    )
    made = import_trace("mooncake", [one, two], ImportOptions()).workflows
    assert [w.workflow_id for w in made] == ["a/00000", "b/00000"]
    assert set(lists(made[0])[0]).isdisjoint(lists(made[1])[0])


def test_options_are_heard(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(0, 32, [1, 2]), row(1, 64, [1, 2, 3, 4])])
    (made,) = read(path, tenant="acme", workload="chat-tools", block_size=16)
    assert (made.tenant, made.workload, made.block_size) == ("acme", "chat-tools", 16)
    assert made.steps[0].tool.kind == "tool"
    path = write(tmp_path / "u.jsonl", [row(i, 600, [i * 2, i * 2 + 1]) for i in range(5)])
    assert len(import_trace("mooncake", [path], ImportOptions(), limit=2).workflows) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"timestamp": 1}', "missing required field 'input_length' (valid: lines like"),
        ('{"timestamp": 1, "input_length": 600, "output_length": 5, "hash_ids": [1]}', "1 block hashes for 600 tokens (valid: 2"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 5, "hash_ids": []}', "input length 0 is not valid (valid: 1 to"),
        ('{"timestamp": -1, "input_length": 6, "output_length": 5, "hash_ids": [1]}', ">= 0"),
        ('{"timestamp": 1, "input_length": 6, "output_length": 5, "hash_ids": [1], "x": 1}', "unknown field 'x'"),
        ("[1, 2", "Expected 'object', got 'array' (valid: lines like"),
        ('{"timestamp": 1', "truncated"),
        ('{"timestamp": 1, "input_length": 6, "output_length": 5, "hash_ids": [1], "\\ud800": 1}', "t.jsonl:2"),
    ],
)  # fmt: skip
def test_a_fault_has_its_place_and_nothing_is_written(tmp_path, capsys, line, told):
    good = json.dumps(row(0, 600, [1, 2]))
    (tmp_path / "t.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    out = tmp_path / "out.jsonl"
    assert run(["trace", "import", "mooncake", str(tmp_path / "t.jsonl"), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 't.jsonl'}:2: " in said
    assert told in said
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_a_fault_leaves_an_older_file_as_it_was(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    out.write_text("older")
    (tmp_path / "t.jsonl").write_text("{}\n")
    assert run(["trace", "import", "mooncake", str(tmp_path / "t.jsonl"), "-o", str(out)]) == 2
    assert out.read_text() == "older"


@pytest.mark.parametrize(
    ("data", "told"),
    [(None, "cannot be read: No such file"), (b"", "holds no request"), (gzip.compress(b"")[:-9], "damaged gzip data")],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path, data, told):
    path = tmp_path / "t.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(path)
    assert "t.jsonl" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["weka", "t.jsonl"], "unknown format 'weka' (have: dynamo, mooncake, saga, swe-agent)"),
        (["mooncake", "t.jsonl", "--limit", "0"], "--limit 0 is not valid (valid: 1 or more)"),
        (["mooncake", "t.jsonl", "--workload", "chat"], "unknown workload 'chat' in --workload"),
        (["mooncake", "t.jsonl", "--block-size", "0"], "--block-size 0 is not valid (valid: 1 to"),
        (["mooncake", "t.jsonl", "--tenant", ""], "--tenant '' is not valid"),
        (["saga", "t.jsonl"], "not a whole journal at byte 0 (valid: journal-*.log of a cluster)"),
        (["swe-agent", "t.jsonl", "--tokenizer", "gpt5"], "--tokenizer gpt5: no such file (valid: auto,"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.jsonl", [row(0, 600, [1, 2])])
    assert run(["trace", "import", *words, "-o", "out.jsonl"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.skipif(not CONVERSATIONS.exists(), reason="the public trace files are not beside this checkout")
def test_the_public_recording_comes_out_again(tmp_path):
    """Its requests, put back into Mooncake's own rows: the same sessions, but for ties that its page leaves open."""
    public = load_trace(CONVERSATIONS)
    rows = []
    for made in public:
        for step, ids in zip(made.steps, lists(made), strict=True):
            rows.append(
                row(round((made.arrival_s + step.ts_s) * 1000), step.prompt_tokens, ids, step.output_tokens)
            )
    rows.sort(key=lambda item: item["timestamp"])
    back = read(write(tmp_path / "t.jsonl", rows))
    assert sum(len(made.steps) for made in back) == len(rows)

    def shapes(workflows):
        return Counter(
            tuple((s.prompt_tokens, s.output_tokens, s.new_prompt_tokens, s.ctx_parent) for s in made.steps)
            for made in workflows
        )

    assert sum((shapes(public) - shapes(back)).values()) <= 0.002 * len(public)
    assert [len(set(session_names(made))) for made in back[:50]] == [1] * 50
