"""A list of programs: what each line puts into the command line, what is kept, and the whole way on a cluster."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field

import msgspec
import pytest
from canned import workflow
from test_local import UP, Shell

from saga_cli.client import Client
from saga_cli.control import HeadGone
from saga_cli.entries import Entry, Template, read
from saga_cli.folder import ClusterFolder
from saga_cli.ledger import Header, Ledger, Sent
from saga_cli.progress import Silent
from saga_cli.runs import Run
from saga_core.errors import ClusterError, UserError
from saga_core.views import Accepted, EventPage, EventView

# -- entries ---------------------------------------------------------------------------


def entry(**values) -> Entry:
    return Entry(3, values, "k")


@pytest.mark.parametrize(
    ("text", "values", "shown"),
    [
        ("{instance}", {"instance": "a b"}, "a b"),
        ("--n={n} {instance}", {"instance": "x", "n": 3}, "--n=3 x"),
        ("{list}", {"list": [1, {"a": "b"}]}, '[1,{"a":"b"}]'),
        ("{{instance}}", {"instance": "x"}, "{instance}"),
        ("awk '{print $1}' {}", {}, "awk '{print $1}' {}"),
        ("{instance}", {"instance": "{other}"}, "{other}"),
    ],
)
def test_places_are_filled(text, values, shown):
    assert entry(**values).put(text) == shown


def test_a_place_without_a_value_says_what_there_is():
    with pytest.raises(UserError, match=r"line 3 of the list has no 'repo' for \{repo\} \(it has: instance"):
        entry(instance="x").put("{repo}")


def test_a_list_is_read_and_each_line_keeps_its_key(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('"a"\n\n{"instance": "b", "n": 1}\n"a"\n')
    first = read(path)
    assert [e.name for e in first] == ["a", "b", "a"]
    assert len({e.key for e in first}) == 3, "the same content twice is two entries"
    path.write_text('{"n": 1, "instance": "b"}\n"a"\n')
    again = read(path)
    assert {e.key for e in again} < {e.key for e in first}, (
        "neither the order of lines nor that of fields matters"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "line 1: not JSON"), ("3", "line 1: neither an object nor a string"), ("\n", "it is empty")],
)
def test_a_list_that_is_none_is_refused(tmp_path, text, says):
    path = tmp_path / "list.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read(path)


def test_a_submission_is_named_after_its_instance(tmp_path):
    template = Template(
        program=("python", "solve.py", "{instance}"), env=("WHERE=/data/{instance}",), workdir=tmp_path
    )
    asked = template.of(entry(instance="django-1"))
    assert (asked.name, asked.instance, asked.agent_type) == ("solve.py django-1", "django-1", "solve.py")
    assert asked.program.argv == ["python", "solve.py", "django-1"]
    assert asked.program.env == {"WHERE": "/data/django-1"}


# -- the ledger ------------------------------------------------------------------------

HEADER = Header(version=1, program=["a"], cluster="/c")


def test_what_was_sent_is_found_again_and_a_torn_line_is_left_out(tmp_path):
    ledger = Ledger(tmp_path / "r.jsonl")
    ledger.open(HEADER)
    ledger.note(Sent(key="x", attempt=1, sent_at=1.0, id=4))
    ledger.note(Sent(key="y", attempt=2, sent_at=2.0))
    ledger.close()
    with ledger.state.open("ab") as file:
        file.write(b'{"key": "z", "att')
    again = Ledger(tmp_path / "r.jsonl")
    again.open(HEADER)
    assert {key: sent.id for key, sent in again.sent.items()} == {"x": 4, "y": None}
    again.note(Sent(key="w", attempt=1, sent_at=3.0))
    again.close()
    third = Ledger(tmp_path / "r.jsonl")
    third.open(HEADER)
    third.close()
    assert set(third.sent) == {"x", "y", "w"}
    assert third.state.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (Header(version=1, program=["b"], cluster="/c"), "is of another program"),
        (Header(version=1, program=["a"], cluster="/d"), "is of the cluster at /c"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, header, says):
    ledger = Ledger(tmp_path / "r.jsonl")
    ledger.open(HEADER)
    ledger.close()
    with pytest.raises(UserError, match=says):
        Ledger(tmp_path / "r.jsonl").open(header)


# -- a run against a head that a test plays --------------------------------------------


@dataclass
class Played:
    """A head: each submission ends as `ends` says, the next time that somebody asks for events."""

    ends: dict[str, list[str]] = field(default_factory=dict)
    flows: dict[int, object] = field(default_factory=dict)
    told: list[EventView] = field(default_factory=list)
    gone: int = 0
    head: int = 1
    lose: bool = False
    most: int = 0

    def submit(self, asked):
        if self.gone:
            self.gone -= 1
            raise HeadGone("gone")
        number = len(self.flows) + 1
        self.flows[number] = workflow(
            number, "running", name=asked.name, ended_at=None, submitted_at=time.time()
        )
        live = sum(flow.state == "running" for flow in self.flows.values())
        self.most = max(self.most, live)
        if self.lose:
            self.lose = False
            raise KeyboardInterrupt
        return Accepted(id=number, base_url="", api_key="")

    def workflows(self):
        return list(self.flows.values())

    def workflow(self, number):
        return self.flows[number]

    def events(self, *, after=None, workflow=None, wait_s=None):
        if wait_s:
            self._end_all()
        new = [e for e in self.told if e.seq > after]
        return EventPage(head=self.head, events=new, next=len(self.told))

    def _end_all(self):
        for number, flow in self.flows.items():
            if flow.state == "running":
                ends = self.ends.get(flow.name.split()[-1], [])
                state = ends.pop(0) if ends else "done"
                self.flows[number] = msgspec.structs.replace(
                    flow, state=state, ended_at=time.time(), tct_s=1.0
                )
                self.told.append(
                    EventView(seq=len(self.told) + 1, at=0.0, kind="WorkflowEnded", workflow=number)
                )


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr("saga_cli.runs.AGAIN_S", 0.0)


def call(tmp_path, played, names, *, retries=0, at_once=500):
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(name) + "\n" for name in names))
    ledger = Ledger(tmp_path / "out.jsonl")
    run = Run(
        read(path), Template(program=("agent", "{instance}"), workdir=tmp_path), ledger, retries, at_once
    )
    return run.go(Client(played, ClusterFolder(tmp_path)), Silent())


def results(tmp_path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    return {line["instance"]: line for line in lines}


def test_every_entry_has_one_result(tmp_path):
    played = Played()
    told = call(tmp_path, played, ["a", "b", "c"])
    assert (told["done"], told["failed"], told["unfinished"]) == (3, 0, 0)
    assert {name: line["state"] for name, line in results(tmp_path).items()} == dict.fromkeys("abc", "done")
    assert results(tmp_path)["a"]["entry"] == {"instance": "a"}


def test_what_failed_is_tried_again_as_often_as_was_said(tmp_path):
    played = Played(ends={"a": ["failed", "done"], "b": ["failed", "failed", "failed"]})
    told = call(tmp_path, played, ["a", "b"], retries=1)
    assert (told["done"], told["failed"]) == (1, 1)
    assert {n: (r["state"], r["attempts"]) for n, r in results(tmp_path).items()} == {
        "a": ("done", 2),
        "b": ("failed", 2),
    }


def test_what_was_cancelled_is_not_tried_again(tmp_path):
    told = call(tmp_path, Played(ends={"a": ["cancelled"]}), ["a"], retries=3)
    assert (told["failed"], results(tmp_path)["a"]["attempts"]) == (1, 1)


def test_nothing_done_runs_twice_and_what_failed_runs_again(tmp_path):
    played = Played(ends={"b": ["failed"]})
    call(tmp_path, played, ["a", "b"])
    told = call(tmp_path, played, ["b", "a", "c"])
    assert [flow.name for flow in played.flows.values()] == ["agent a", "agent b", "agent b", "agent c"]
    assert (told["programs"], told["done"]) == (3, 3)


def test_what_an_interrupted_call_left_running_is_waited_for(tmp_path):
    played = Played(lose=True)
    told = call(tmp_path, played, ["a", "b"])
    assert told["interrupted"]
    assert list(played.flows) == [1], (
        "it was interrupted between the head's acceptance and its own note of it"
    )
    told = call(tmp_path, played, ["a", "b"])
    assert (told["done"], told["interrupted"]) == (2, False)
    assert [flow.name for flow in played.flows.values()] == ["agent a", "agent b"], "a runs once"


def test_a_head_that_is_gone_for_a_while_is_waited_for(tmp_path):
    played = Played(gone=3)
    assert call(tmp_path, played, ["a", "b"])["done"] == 2
    assert len(played.flows) == 2


def test_a_head_that_stays_away_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("saga_cli.runs.GONE_S", 0.0)
    with pytest.raises(ClusterError, match="gone"):
        call(tmp_path, Played(gone=1_000_000), ["a"])


def test_no_more_are_handed_over_than_was_said(tmp_path):
    played = Played()
    assert call(tmp_path, played, [str(n) for n in range(7)], at_once=2)["done"] == 7
    assert played.most == 2


def test_nothing_runs_where_one_line_cannot_be_put_in(tmp_path):
    played = Played()
    (tmp_path / "list.jsonl").write_text('{"instance": "a"}\n{"other": 1}\n')
    run = Run(
        read(tmp_path / "list.jsonl"), Template(program=("agent", "{instance}")), Ledger(tmp_path / "o")
    )
    with pytest.raises(UserError, match="line 2"):
        run.go(Client(played, ClusterFolder(tmp_path)), Silent())
    assert not played.flows


# -- the whole way ---------------------------------------------------------------------

AGENT = """
import json, os, pathlib, sys, time, urllib.request
instance, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with (folder / instance).open("a") as log:
    log.write("ran\\n")
body = {"model": "agent", "prompt": "word " * 30, "max_tokens": 4}
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/completions", json.dumps(body).encode(), headers)
urllib.request.urlopen(request).read()
while (folder / "hold").exists() and instance in ("i-1", "i-3"):
    time.sleep(0.02)
sys.exit(instance == "i-2" and (folder / instance).read_text().count("ran") == 1)
"""


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path / "cluster")
    try:
        shell(*UP)
        yield shell
    finally:
        shell("down", "--force")


def test_a_list_goes_on_after_an_interruption(shell, tmp_path):
    ran = tmp_path / "ran"
    ran.mkdir()
    (ran / "hold").touch()
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "list.jsonl").write_text("".join(f'"i-{n}"\n' for n in range(5)))
    words = ["--tasks", "list.jsonl", "--retries", "1", "--", "python3", "agent.py", "{instance}", str(ran)]
    out = tmp_path / "list.results.jsonl"
    with shell.popen("submit", *words) as process:
        deadline = time.monotonic() + 60
        while not out.exists() or out.read_text().count("\n") < 3:
            assert time.monotonic() < deadline, (
                process.stderr.read() if process.poll() is not None else "too slow"
            )
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)
        assert process.returncode == 130, said
    assert "2 programs go on" in said[1]
    (ran / "hold").unlink()
    told = shell.json("submit", *words)
    assert (told["done"], told["failed"], told["unfinished"]) == (5, 0, 0)
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["instance"] for line in kept) == [f"i-{n}" for n in range(5)], "one result each"
    assert {line["instance"]: line["attempts"] for line in kept if line["attempts"] > 1} == {"i-2": 2}
    assert {n: (ran / f"i-{n}").read_text().count("ran") for n in range(5)} == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}
    assert all(line["steps"] == 1 for line in kept)
