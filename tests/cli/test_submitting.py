"""What a submission is called when nobody names it, and what a person says of it."""

import json
import tomllib
from pathlib import Path

import pytest

from saga_cli.submission import Said, memory, request
from saga_core.errors import UserError
from saga_core.views import SubmitRequest

MIB = 2**20


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/opt/bin/agent --fast", "agent"),
        ("python my_agent.py --fast", "my_agent.py"),
        ("python3.11 -u dir/my_agent.py", "my_agent.py"),
        ("python -m minisweagent run", "minisweagent"),
        ("python -m", "python"),
        ("python -c print(1)", "python"),
        ("bash -c echo", "bash"),
        ("node -e 1", "node"),
        ("uv run python agent.py", "agent.py"),
        ("uv run agent.py", "agent.py"),
        ("uv", "uv"),
        ("python", "python"),
    ],
)
def test_a_program_is_called_after_what_it_runs(program: str, name: str) -> None:
    found = request(program.split(), name="", agent_type="", tenant="t", env=[], workdir=None)
    assert (found.name, found.agent_type) == (name, name)


FLOW = """
[[steps]]
name = "plan"
tool = "read"
next = "act"

[[steps]]
name = "act"
tool = "bash"
next = { act = 0.9, end = 0.1 }
"""


def said(tmp_path: Path, **more: object) -> SubmitRequest:
    return request(["agent"], name="", agent_type="", tenant="t", env=[], workdir=tmp_path, said=Said(**more))


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_what_is_said_goes_along(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"flow.{kind}"
    file.write_text(FLOW if kind == "toml" else json.dumps(tomllib.loads(FLOW)))
    asked = said(tmp_path, work_s=12.5, steps=40, instance="i-1", deadline_s=60.0, file=file)
    assert (asked.work_s, asked.steps, asked.instance, asked.deadline_s) == (12.5, 40, "i-1", 60.0)
    assert [step.tool for step in asked.graph] == ["read", "bash"]
    assert asked.graph[1].next == ((1, 0.9),)
    nothing = said(tmp_path)
    assert (nothing.work_s, nothing.steps, nothing.deadline_s, nothing.graph) == (0.0, 0, 0.0, ())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"work_s": -1.0}, r"--work-s: '-1.0' is not valid \(valid: seconds above 0"),
        ({"work_s": float("nan")}, "--work-s: 'nan'"),
        ({"steps": 0}, r"--steps: '0' is not valid \(valid: a whole number from 1"),
        ({"deadline_s": 0.0}, "--deadline: '0.0'"),
        ({"instance": "a\nb"}, "--instance: "),
        ({"file": Path("none.toml")}, "--aeg none.toml: No such file"),
        ({"file": Path("flow.yaml")}, r"--aeg flow.yaml: not a known kind of file \(valid: .toml, .json\)"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        said(tmp_path, **more)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", b"[[steps]\n", "a.toml: "),
        ("a.json", b"{", "a.json: "),
        ("a.json", b"\xff\xfe", "a.json: "),
        ("a.toml", b"\xff\xfe", "a.toml: "),
        ("a.json", b"[" * 100_000, "a.json: "),
        ("a.json", b'{"steps": [{"name": "x", "next": "y"}]}', "unknown next 'y' in .*a.json: step 'x'"),
        ("a.json", b" " * ((1 << 20) + 1), "1048577 bytes"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=says):
        said(tmp_path, file=tmp_path / name)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give either a program"),
        (["--synth", "demo", "--", "agent"], "give either a program"),
        (["--tasks", "list.jsonl", "--synth", "demo"], "--tasks goes with a program"),
        (["--results", "r.jsonl", "--", "agent"], "--results goes with --tasks"),
        (["--retries", "1", "--", "agent"], "--retries goes with --tasks or --wait"),
    ],
)
def test_options_that_do_not_go_together(saga, words: list[str], why: str) -> None:
    refused = saga("submit", *words)
    assert (refused.code, refused.out) == (2, "")
    assert why in refused.err


@pytest.mark.parametrize(
    ("text", "found"),
    [("", 0), ("500", 500 * MIB), ("500M", 500 * MIB), ("4g", 4096 * MIB), ("2GB", 2048 * MIB)],
)
def test_memory_is_said_as_slurm_says_it(text: str, found: int) -> None:
    assert memory(text) == found


def test_what_no_program_can_take_of_its_node_is_refused(tmp_path: Path) -> None:
    for wrong in ("4 G", "-1", "1.5G", "G"):
        with pytest.raises(UserError, match="--mem"):
            memory(wrong)
    with pytest.raises(UserError, match="--cpus -1"):
        request(["a"], name="", agent_type="", tenant="t", env=[], workdir=tmp_path, cpus=-1)
