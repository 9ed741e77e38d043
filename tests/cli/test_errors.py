"""What goes wrong: a clear text on stderr, nothing on stdout, the right exit code, never a traceback."""

from __future__ import annotations

import json
import socket

import msgspec
import pytest
from canned import access_of

from saga_core import access


def test_no_cluster_was_started(saga):
    for command in (["ps"], ["status"], ["url"], ["top"], ["submit", "true"], ["cancel", "all"], ["profile"]):
        said = saga(*command)
        assert (said.code, said.out) == (1, ""), command
        assert "no cluster is running at" in said.err
        assert "saga up --local" in said.err


def test_errors_in_json_are_one_value_on_stderr(saga):
    said = saga("--output", "json", "ps")
    assert (said.code, said.out) == (1, "")
    error = json.loads(said.err)["error"]
    assert error["type"] == "cluster"
    assert "no cluster is running" in error["message"]


def test_a_head_that_is_gone(saga, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        (folder / access.FILE).write_bytes(access.encode(access_of(url, "k")))
        said = saga("ps")
    assert said.code == 1
    assert f"the head at {url} is not there (connection refused)" in said.err
    assert str(folder / "log" / "head.log") in said.err


def test_a_head_that_says_nothing(folder, saga, monkeypatch):
    monkeypatch.setattr("saga_cli.options.Given.control.__defaults__", (0.1,))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        (folder / access.FILE).write_bytes(access.encode(access_of(url, "k")))
        said = saga("ps")
    assert said.code == 1
    assert "did not answer within 0.1 s" in said.err


def test_the_wrong_key(saga, folder, stub):
    (folder / access.FILE).write_bytes(access.encode(access_of(stub.url, "sk-other")))
    said = saga("status")
    assert said.code == 1
    assert "refuses the key" in said.err
    assert "access.json" in said.err
    assert "sk-other" not in said.err


def test_an_answer_of_another_version(saga, folder, stub):
    stub.broken = b'{"name": 3}'
    said = saga("status")
    assert said.code == 1
    assert "answered GET cluster with something else" in said.err


def test_a_damaged_access_file(saga, folder):
    (folder / access.FILE).write_text("{")
    said = saga("status")
    assert said.code == 1
    assert "access.json is damaged" in said.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["ps", "9"], "no workflow 9 (have: 1-4)"),
        (["ps", "x"], "does not select workflows (valid: last, all"),
        (["inspect", "all"], "means 4 workflows; this command takes one"),
        (["logs", "2"], "saga did not start its program"),
        (["profile", "lur"], "unknown profile 'lur' (have: kvflow"),
        (["up"], "saga up --local"),
        (["up", "--local", "--profile", "lur"], "unknown profile 'lur'"),
        (["up", "--local", "--set", "head.prot=1"], "unknown setting 'head.prot'"),
        (["submit"], "give either a program"),
        (["submit", "--replay", "x.jsonl", "true"], "give either a program"),
        (["submit", "--replay", "missing.jsonl"], "missing.jsonl: cannot be read: No such file"),
        (["submit", "--replay", "notes.txt"], "is not a trace"),
        (["submit", "--synth", "big"], "unknown preset 'big' (have: demo"),
        (["submit", "--env", "K", "true"], "--env 'K' is not K=V"),
        (["submit", "--workdir", "/nowhere", "true"], "/nowhere: no such folder"),
        (["trace", "stats", "missing.jsonl"], "cannot be read"),
        (["trace", "synth", "out.txt"], "a trace file ends in"),
        (["top", "--interval", "0"], "--interval 0 is too short"),
        (["--output", "xml", "ps"], "unknown output 'xml' in --output (have: html, json, quiet, table)"),
        (["ps", "--color", "red"], "unknown color 'red'"),
        (["ps", "--frobnicate"], "--frobnicate"),
        (["frobnicate"], "frobnicate"),
        (["up", "--workers", "many"], "'--workers'"),
    ],
)
def test_usage_errors(saga, folder, command, told):
    said = saga(*command)
    assert told in said.err
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err


def test_a_bad_mode_from_the_environment(saga, monkeypatch):
    monkeypatch.setenv("SAGA_OUTPUT", "xml")
    said = saga("ps")
    assert said.code == 2
    assert "SAGA_OUTPUT" in said.err


def test_refusals_of_the_head_are_shown_as_they_are(saga, folder, stub, monkeypatch):
    def refuse(method, path, body):
        status = 503 if method == "POST" else 400
        return status, {"error": {"message": "the disk is full", "type": "api_error"}}

    monkeypatch.setattr(stub, "answer", refuse)
    assert (saga("status").code, saga("submit", "true").code) == (2, 1)
    assert "the disk is full" in saga("submit", "true").err


def test_interrupting_is_130(saga, monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("saga_cli.options.Given.control", press)
    assert saga("ps").code == 130


def test_a_reader_that_left_is_no_error(saga, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("saga_cli.options.Given.control", gone)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    said = saga("ps")
    assert (said.code, said.err) == (1, "")


def test_common_options_stand_before_or_after_the_command(saga, folder, tmp_path):
    for command in (["--output", "quiet", "ps"], ["ps", "--output", "quiet"], ["ps", "--output=quiet"]):
        assert saga(*command).out == "1\n4\n"
    elsewhere = saga("ps", "--cluster-dir", str(tmp_path / "none"))
    assert str(tmp_path / "none") in elsewhere.err


def test_words_after_the_program_are_the_programs(saga, folder, stub):
    assert saga("submit", "python", "agent.py", "--output", "report.json", "--wait").code == 0
    method, path, body = stub.asked[-1]
    assert (method, path) == ("POST", "/saga/v1/workflows")
    assert body["program"]["argv"] == ["python", "agent.py", "--output", "report.json", "--wait"]
    assert (body["name"], body["agent_type"], body["kind"]) == ("agent.py", "agent.py", "program")


def test_a_submission_says_everything_it_was_told(saga, folder, stub, tmp_path):
    options = [
        "--name",
        "n",
        "--agent-type",
        "a",
        "--tenant",
        "t",
        "--env",
        "A=1=2",
        "--workdir",
        str(tmp_path),
        "--priority",
        "-3",
        "--cpus",
        "2",
        "--mem",
        "1G",
    ]
    assert saga("submit", *options, "--", "run.sh").code == 0
    assert stub.asked[-1][2] == {
        "priority": -3,
        "name": "n",
        "agent_type": "a",
        "tenant": "t",
        "kind": "program",
        "program": {
            "argv": ["run.sh"],
            "cwd": str(tmp_path),
            "env": {"A": "1=2"},
            "cpus": 2,
            "memory_bytes": 2**30,
        },
        "work_s": 0.0,
        "steps": 0,
        "instance": "",
        "deadline_s": 0.0,
        "graph": [],
    }


def test_cancel_leaves_the_ended_alone(saga, folder, stub):
    assert saga("cancel", "all").code == 0
    assert [path for method, path, _ in stub.asked if method == "POST"] == [
        "/saga/v1/workflows/1/cancel",
        "/saga/v1/workflows/4/cancel",
    ]


def test_wait_submit_and_its_exit_code(saga, folder, stub, monkeypatch):
    workflow = stub.workflows[1]
    for state, code in (("done", 0), ("failed", 1), ("cancelled", 1)):
        ended = msgspec.structs.replace(workflow, id=8, state=state)
        monkeypatch.setattr(stub, "workflows", [ended])
        assert saga("submit", "--wait", "true").code == code


def test_wait_gives_up_after_its_timeout(saga, folder):
    said = saga("wait", "1", "--timeout", "0")
    assert said.code == 1
    assert "not ended after 0 s: workflow 1 (they go on)" in said.err


def test_logs_follow_until_the_workflow_ends(saga, folder, stub, monkeypatch):
    """The last words, written just before the end, are not missed."""
    log = folder / "workflows" / "1.log"
    live, asked = stub.workflows[0], []

    def one(number):
        asked.append(number)
        if len(asked) < 4:
            with log.open("ab") as out:
                out.write(b"line %d\n" % len(asked))
            return 200, live
        return 200, msgspec.structs.replace(live, state="done")

    monkeypatch.setattr("saga_cli.client.ASK_EVERY_S", 0.0)
    monkeypatch.setattr(stub, "_one", one)
    said = saga("logs", "1", "-f")
    assert said.code == 0
    assert said.out == "hello from the agent\nline 1\nline 2\nline 3\n"


def test_version(saga):
    said = saga("--version")
    assert said.code == 0
    assert said.out.startswith("saga ")
