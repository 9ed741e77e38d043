"""SWE-agent's `.traj`: prompts by query or by history, elisions, tools, and how tokens are counted."""

import gzip
import json

import pytest

from saga_core.errors import UserError
from saga_sim.trace.importers import ImportOptions, import_trace
from saga_sim.trace.importers.sweagent import tool_name
from saga_sim.trace.importers.tokens import MESSAGE_TOKENS, by_bytes, counter

SYSTEM = {"role": "system", "content": "You are an engineer. " * 20}
TASK = {"role": "user", "content": "Fix the issue. " * 40}


def spoken(text):
    return {"role": "assistant", "content": text}


def seen(text):
    return {"role": "user", "content": text}


def turn(query, response, action="ls -F", **more):
    return {
        "action": action,
        "observation": "o",
        "response": response,
        "state": {},
        "thought": "",
        "query": query,
        **more,
    }


def tokens(*messages):
    """By the stated rule: bytes over four, rounded up, and four for each message's marks."""
    return sum(by_bytes(message["content"]) + MESSAGE_TOKENS for message in messages)


def read(tmp_path, document, name="repo__issue-1.traj", **options):
    path = tmp_path / name
    data = json.dumps(document).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    options.setdefault("tokenizer", "bytes/4")
    return import_trace("swe-agent", [path], ImportOptions(**options)).workflows[0]


def test_queries_are_the_prompts_as_the_model_saw_them(tmp_path):
    first = [SYSTEM, TASK]
    second = [*first, spoken("look " * 30), seen("files " * 50)]
    third = [*first, spoken("look " * 30), seen("Old output omitted"), spoken("edit " * 9), seen("done " * 9)]
    made = read(
        tmp_path,
        {
            "trajectory": [
                turn(first, "look " * 30, "find_file x.py", execution_time=0.281),
                turn(second, "edit " * 9, "edit 1:3\nsecret text\nend_of_edit", execution_time=0.0),
                turn(third, "bye", "submit", execution_time=0.2),
            ],
            "info": {"exit_status": "submitted"},
        },
    )
    assert [s.prompt_tokens for s in made.steps] == [tokens(*first), tokens(*second), tokens(*third)]
    assert [s.ctx_parent for s in made.steps] == [None, 0, 1]
    assert made.steps[1].new_prompt_tokens == tokens(*second[2:])
    assert made.steps[2].new_prompt_tokens == tokens(*third[3:]), "the elided output breaks the prefix there"
    assert [s.output_tokens for s in made.steps] == [by_bytes("look " * 30), by_bytes("edit " * 9), 1]
    assert [(s.tool.name, s.tool.latency_s) for s in made.steps] == [
        ("find_file", 0.281), ("edit", None), ("submit", 0.2),
    ]  # fmt: skip
    assert (made.tokens, made.timing, made.instance) == ("estimated", "partial", "repo__issue-1")
    groups = {(s.shared_prefix_group, s.shared_prefix_tokens) for s in made.steps}
    assert [length for _, length in groups] == [tokens(SYSTEM)]
    assert "secret" not in repr(made)
    assert "engineer" not in repr(made)


def test_before_queries_the_history_is_the_prompt(tmp_path):
    demo = {"role": "user", "content": "a demonstration " * 30, "is_demo": True, "agent": "primary"}
    history = [
        SYSTEM, demo, spoken("shown") | {"is_demo": True}, TASK,
        spoken("first") | {"action": "open x.py", "thought": "t"}, seen("out " * 20), spoken("last") | {"action": "submit"},
    ]  # fmt: skip
    steps = [
        {"action": "open x.py", "observation": "o", "response": "first", "thought": "t", "state": "{}"}
    ] * 2
    made = read(tmp_path, {"trajectory": steps, "history": history, "environment": "swe_main"}, "a.traj.gz")
    assert [s.prompt_tokens for s in made.steps] == [tokens(*history[:4]), tokens(*history[:6])]
    assert made.steps[1].new_prompt_tokens == tokens(*history[4:6])
    assert (made.timing, made.instance) == ("none", "a")
    fewer = read(tmp_path, {"trajectory": steps[:1], "history": history}, "b.traj")
    assert [s.tool.name for s in fewer.steps] == ["open", "submit"], (
        "the answers' own actions, where steps do not match"
    )


def test_a_step_that_asked_nobody_is_no_call(tmp_path):
    made = read(tmp_path, {"trajectory": [turn([SYSTEM, TASK], "look"), turn([{}], "", "submit")]})
    assert [s.prompt_tokens for s in made.steps] == [tokens(SYSTEM, TASK)]


def test_messages_of_a_step_are_the_prompt_of_the_next(tmp_path):
    """SWE-agent 1.0: with the last observations kept and the older ones elided."""
    first = [SYSTEM, TASK, spoken("look"), seen("files " * 50)]
    second = [SYSTEM, TASK, spoken("look"), seen("elided"), spoken("edit"), seen("done " * 9)]
    turns = [
        turn([], "look", messages=first),
        turn([], "edit", messages=second),
        turn([], "bye", messages=[TASK]),
    ]
    made = read(tmp_path, {"trajectory": turns, "history": [SYSTEM]})
    assert [s.prompt_tokens for s in made.steps] == [tokens(SYSTEM, TASK), tokens(*first), tokens(*second)]
    assert made.steps[2].new_prompt_tokens == tokens(*second[3:])


def test_tool_calls_and_parts_of_messages_count(tmp_path):
    parts = {
        "role": "user",
        "content": [
            {"type": "text", "text": "x" * 40},
            {"type": "image_url", "image_url": {"url": "y" * 4000}},
        ],
    }
    call = [{"function": {"name": "bash", "arguments": "z" * 100}}]
    made = read(tmp_path, {"trajectory": [turn([SYSTEM, parts], "", "bash", tool_calls=call, thought="hm")]})
    assert made.steps[0].prompt_tokens == tokens(SYSTEM) + 10 + MESSAGE_TOKENS
    assert made.steps[0].output_tokens == by_bytes("hmbash" + json.dumps(call, separators=(",", ":")))


def test_a_prompt_with_nothing_in_common_is_a_new_context(tmp_path):
    made = read(tmp_path, {"trajectory": [turn([SYSTEM], "a"), turn([TASK], "b")]})
    assert (made.steps[1].ctx_parent, made.steps[1].parents) == (None, (0,))
    assert made.steps[1].new_prompt_tokens == made.steps[1].prompt_tokens


def test_runs_of_one_name_stay_apart(tmp_path):
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "i.traj")
        paths[-1].write_text(json.dumps({"trajectory": [turn([SYSTEM], "a")]}))
    made = import_trace("swe-agent", paths, ImportOptions(tokenizer="bytes/4")).workflows
    assert [(w.workflow_id, w.instance) for w in made] == [("swe-agent/i", "i"), ("swe-agent/i-2", "i")]


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("ls -F\n", "ls"), ("FOO=secret /usr/bin/python3 x.py", "python3"), ("", None), ("  \n", None),
        ("$(cat /etc/passwd)", None), ("'quoted text'", None), ("x" * 65, None), ("Überprüfe das", None),
        ("A=1", None), ("str_replace_editor view /a", "str_replace_editor"),
    ],
)  # fmt: skip
def test_only_what_looks_like_a_command_is_a_tools_name(action, name):
    assert tool_name(action) == name


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "Expected 'object', got 'array' (valid: a .traj file of SWE-agent"),
        ({}, "no call: neither"),
        ({"trajectory": []}, "no call: neither 'query' in a step nor 'messages' in all, nor an answer in 'history'"),
        ({"trajectory": [{"action": "ls", "execution_time": -1}]}, ">= 0"),
        ({"messages": [], "trajectory_format": "mini-swe-agent-1"}, "no call: neither"),
        ({"trajectory": [turn([{"role": 1}], "a")]}, "Expected 'str', got 'int' - at '$.trajectory[0].query[0].role'"),
    ],
)  # fmt: skip
def test_what_no_trajectory_is(tmp_path, document, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, document)
    assert told in str(caught.value)
    assert str(tmp_path / "repo__issue-1.traj") in str(caught.value)


def test_counting_without_a_tokenizer_at_hand_is_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    count = counter("auto")
    assert (count.name, count.text("ü" * 6), count.text("")) == ("estimated", 3, 0)


def test_a_tokenizer_of_the_persons_own(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(path))
    count = counter(str(path))
    assert (count.name, count.text("a b a c")) == ("estimated", 4)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be used"):
        counter(str(path))


def test_ranks_at_hand_are_used_and_named(tmp_path, monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    from saga_sim.trace.importers import tokens as module

    encoding = tiktoken.Encoding(
        "tiny", pat_str=r"[\s\S]", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    monkeypatch.setattr(module, "_at_hand", lambda: True)
    count = counter("auto")
    assert (count.name, count.text("abc"), count.message("abc")) == ("o200k_base", 3, 3 + MESSAGE_TOKENS)
