"""A cluster's journal as a trace: what is told, what is left out and counted, and while the head still writes."""

import gzip
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from saga_cli.main import run
from saga_cli.recording import Segments, arranged, export
from saga_core.book import Book
from saga_core.errors import ClusterError
from saga_core.events import (
    HeadStarted,
    Outcome,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.ids import StepId, TenantId, WorkerId, WorkflowId
from saga_core.states import WorkflowState
from saga_core.views import ProgramSpec
from saga_head.journal import Journal
from saga_sim.trace import load_trace
from saga_sim.trace.checks import faults
from saga_sim.trace.journal import CUT, EMPTY, OUTSIDE, WITHOUT_USAGE, Recorder

BEGAN = 1_760_000_000.0


class Story:
    """Facts with their times, told as a head would."""

    def __init__(self):
        self.facts = []
        self.last_step = 0

    def at(self, s, fact):
        self.facts.append((BEGAN + s, fact))
        return self

    def submit(self, s, number=1, **more):
        more = {"kind": "replay", "name": f"w{number}", "agent_type": "coder"} | more
        return self.at(
            s,
            WorkflowSubmitted(
                workflow=WorkflowId(number), tenant=TenantId("acme"), token="sk-secret-token", **more
            ),
        )

    def arrive(self, s, session="main", workflow=1, model="m", **more):
        self.last_step += 1
        owner = None if workflow is None else WorkflowId(workflow)
        fact = StepArrived(
            step=StepId(self.last_step), tenant=TenantId("acme"), model=model, workflow=owner, session=session,
            **more,
        )  # fmt: skip
        self.at(s, fact)
        return self.last_step

    def finish(self, s, number, prompt=None, output=None, cached=None, outcome=Outcome.DONE, tool=""):
        return self.at(
            s,
            StepFinished(
                step=StepId(number), outcome=outcome, prompt_tokens=prompt, output_tokens=output,
                cached_tokens=cached, ttft_s=0.05, duration_s=1.0, detail="secret error text",
                tool=tool,
            ),
        )  # fmt: skip

    def step(self, s, prompt, output=10, cached=None, session="main", workflow=1, lasts=1.0, **more):
        number = self.arrive(s, session, workflow, **more)
        self.at(s, StepPlaced(step=StepId(number), worker=WorkerId("n/0"), why="turn 0"))
        return self.finish(s + lasts, number, prompt, output, cached)

    def end(self, s, number=1, state=WorkflowState.DONE):
        return self.at(s, WorkflowEnded(workflow=WorkflowId(number), state=state))

    def told(self, **more):
        recorder = Recorder(**more)
        made = [found for at, fact in self.facts if (found := recorder.take(at, fact)) is not None]
        assert [fault for workflow in made for fault in faults(workflow)] == []
        return made, recorder

    def one(self):
        (made,), _ = self.told()
        return made

    def write(self, folder):
        """As the head writes it: through its own journal and book."""
        journal = Journal(folder / "journal")
        book = journal.recover("sticky")
        for at, fact in self.facts:
            book.apply(fact, at)
            journal.append(fact, at)
        journal.close()
        return folder


def test_a_session_is_a_chain_in_time():
    story = Story().submit(0.0).step(0.5, 1000).step(3.0, 1300, cached=1008).end(9.0)
    made = story.one()
    first, second = made.steps
    assert (first.ts_s, first.llm_s, first.ttft_s, first.gap_s) == (0.5, 1.0, 0.05, 0.0)
    assert (second.ts_s, second.gap_s, second.cached_tokens) == (3.0, 1.5, 1008)
    assert (second.ctx_parent, second.parents, second.new_prompt_tokens, second.reuse) == (
        0,
        (0,),
        300,
        "reported",
    )
    assert (first.tool.kind, first.tool.name, first.tool.latency_s) == ("tool", None, 1.5)
    assert second.tool is None
    assert (made.workflow_id, made.instance, made.harness, made.tenant) == ("saga/1", "w1", "coder", "acme")


@pytest.mark.parametrize(
    ("prompts", "shared", "compacted"),
    [
        ([(1000, None), (1300, None)], 1000, False),  # the engine says nothing: it holds prompt and output
        ([(1000, None), (1005, None)], 1000, False),  # and longer is appended, even without the output
        ([(1000, None), (1000, None)], 0, True),
        ([(1000, None), (400, None)], 0, True),
        ([(1000, 0), (1300, 1008)], 1000, False),
        ([(1000, 0), (1300, 336)], 336, False),  # never found a whole prompt: a page that is replaced
        ([(1000, 0), (1300, 0)], 0, True),
        ([(1000, 0), (900, 336)], 336, False),
        ([(1000, 0), (900, 999)], 899, False),  # at least one token is computed
    ],
)
def test_what_two_prompts_share(prompts, shared, compacted):
    story = Story().submit(0.0)
    for index, (prompt, cached) in enumerate(prompts):
        story.step(2.0 * index, prompt, cached=cached)
    last = story.end(99.0).one().steps[-1]
    assert last.prompt_tokens - last.new_prompt_tokens == shared
    assert (last.ctx_parent is None, last.compacted) == (shared == 0, compacted)


def test_an_eviction_is_no_replaced_page():
    """The engine found the whole prompt once, so a later miss was an eviction."""
    story = (
        Story().submit(0.0).step(0.0, 1000, cached=0).step(2.0, 1300, cached=1008).step(4.0, 1600, cached=0)
    )
    third = story.end(9.0).one().steps[2]
    assert (third.new_prompt_tokens, third.reuse, third.cached_tokens) == (300, "append", 0)


def test_subagents_leave_and_join():
    story = Story().submit(0.0).step(0.0, 1000)
    left, right = story.arrive(1.5, "left"), story.arrive(1.6, "right")
    story.finish(2.0, left, 500, 5).finish(2.5, right, 600, 5)
    story.step(3.0, 700, session="left").step(5.0, 1500).end(9.0)
    made = story.one()
    assert [(s.agent, s.parents, s.ctx_parent) for s in made.steps] == [
        ("main", (), None), ("left", (0,), None), ("right", (0,), None), ("left", (1,), 1), ("main", (0, 2, 3), 0),
    ]  # fmt: skip
    assert (made.steps[0].tool.kind, made.steps[0].tool.latency_s) == ("subagent", 1.0)
    assert made.steps[4].gap_s == 1.0


def test_a_session_that_is_busy_opens_no_other():
    story = Story().submit(0.0).step(0.0, 1000).step(1.5, 500, session="left")
    busy = story.arrive(3.0, "left")
    story.step(3.5, 600, session="right").finish(6.0, busy, 700, 5)
    assert [s.parents for s in story.end(9.0).one().steps] == [(), (0,), (1,), (0,)]


def test_a_background_session_is_joined_only_at_its_end():
    story = Story().submit(0.0).step(0.0, 1000).step(1.5, 500, session="watch", lasts=0.1).step(2.0, 1200)
    story.step(4.0, 600, session="watch", lasts=0.1).step(6.0, 1400).end(9.0)
    made = story.one()
    assert [s.parents for s in made.steps] == [(), (0,), (0,), (1,), (2, 3)]


def test_steps_at_once_in_one_session_do_not_wait_for_each_other():
    story = Story().submit(0.0).step(0.0, 1000)
    one, two = story.arrive(2.0), story.arrive(2.1)
    story.finish(3.0, two, 1200, 5).finish(4.0, one, 1100, 5)
    made = story.end(9.0).one()
    assert [s.prompt_tokens for s in made.steps] == [1000, 1100, 1200]
    assert [s.parents for s in made.steps] == [(), (0,), (0,)]


def test_what_is_left_out_is_counted():
    story = Story().submit(0.0).step(0.0, 1000)
    story.finish(3.0, story.arrive(2.0), outcome=Outcome.REFUSED)
    story.finish(5.0, story.arrive(4.0), 1000, 0)
    story.at(6.5, StepLost(step=StepId(story.arrive(6.0)), worker=WorkerId("n/0")))
    story.step(7.0, 1200).at(8.0, HeadStarted(incarnation=2, version="1"))
    story.arrive(8.5, workflow=None)
    story.arrive(8.6, workflow=77)
    story.arrive(8.7, workflow=77)
    story.submit(8.8, 2).end(8.9, 2).end(9.0)
    made, recorder = story.told()
    assert [[s.prompt_tokens for s in w.steps] for w in made] == [[1000, 1200]]
    assert made[0].steps[1].parents == (0,)
    assert recorder.left_out == {WITHOUT_USAGE: 3, OUTSIDE: 1, CUT: 1, EMPTY: 1}


def test_names_and_keys():
    story = Story().submit(0.0, kind="outside", key="alice@host", name="alice@host", agent_type="")
    number = story.arrive(0.0, "researcher.7", model="/home/alice/llama")
    made = story.finish(1.0, number, 100, 5).end(2.0).one()
    assert (made.harness, made.steps[0].agent, made.steps[0].model) == ("outside", "researcher.7", "llama")
    assert len(made.instance) == 16
    assert "alice" not in repr(made)
    replayed = Story().submit(0.0)
    replayed.finish(1.0, replayed.arrive(0.0, "researcher.7"), 100, 5)
    assert replayed.end(2.0).one().steps[0].agent == "researcher"


def program_story():
    """Two workflows that ended and one that runs."""
    spec = ProgramSpec(
        argv=["agent", "--password", "hunter2"], cwd="/home/alice", env={"OPENAI_API_KEY": "sk-1"}
    )
    story = (
        Story()
        .submit(0.0, 1, kind="program", program=spec, log="/home/alice/1.log")
        .submit(4.0, 2)
        .submit(5.0, 3)
    )
    story.step(0.5, 1000).step(5.5, 200, workflow=2).step(6.0, 1200).step(8.0, 300, workflow=3)
    return story.end(9.0, 2).end(10.0, 1)


def exported(folder, recorder):
    """Numbers of what an export holds."""
    ended, running = export(Segments(folder), recorder)
    return [made.workflow_id for made in arranged([*ended, *running])]


def cli(*words):
    return run([*map(str, words)])


def test_export_writes_no_secret_and_passes_the_check(tmp_path, capsys):
    folder, out = program_story().write(tmp_path / "c"), tmp_path / "out.jsonl.gz"
    assert cli("--cluster-dir", folder, "trace", "export", "-o", out, "--workload", "swe-agent") == 0
    assert "wrote 3 workflows (4 steps)" in (said := capsys.readouterr().out)
    assert "1 of them still runs: its steps so far" in said
    made = load_trace(out)
    assert [(w.workflow_id, w.arrival_s, w.workload) for w in made] == [
        ("saga/1", 0.0, "swe-agent"), ("saga/2", 4.0, "swe-agent"), ("saga/3", 5.0, "swe-agent"),
    ]  # fmt: skip
    text = gzip.decompress(out.read_bytes()).decode()
    assert not [secret for secret in ("secret", "hunter2", "sk-1", "alice") if secret in text]


def test_export_takes_what_is_named(tmp_path, capsys):
    folder, out = program_story().write(tmp_path / "c"), tmp_path / "out.jsonl"
    assert cli("--cluster-dir", folder, "trace", "export", "-o", out, "2-3") == 0
    assert [(w.workflow_id, w.arrival_s) for w in load_trace(out)] == [("saga/2", 0.0), ("saga/3", 1.0)]
    assert cli("--cluster-dir", folder, "trace", "export", "-o", out, "7") == 2
    assert "no workflow 7 (have: 1-3)" in capsys.readouterr().err


def test_export_without_anything_to_tell(tmp_path, capsys):
    assert cli("--cluster-dir", tmp_path, "trace", "export", "-o", tmp_path / "out.jsonl") == 2
    assert "no journal (valid: --cluster-dir of a cluster that was started once)" in capsys.readouterr().err
    folder = Story().submit(0.0).end(1.0).write(tmp_path / "c")
    assert cli("--cluster-dir", folder, "trace", "export", "-o", tmp_path / "out.jsonl") == 2
    assert "no workflow to write (left out: workflows without a step: 1)" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_all_kept_segments_count_and_a_torn_end_is_waited_for(tmp_path):
    story = program_story()
    folder = tmp_path / "journal"
    journal = Journal(folder)
    book = journal.recover("sticky")
    half = len(story.facts) // 2
    segments, recorder, made = Segments(folder), Recorder(), []

    def keep(facts):
        for at, fact in facts:
            book.apply(fact, at)
            journal.append(fact, at)
        journal.flush()

    def poll():
        made.extend(found for at, fact in segments.facts() if (found := recorder.take(at, fact)) is not None)

    keep(story.facts[:half])
    poll()
    journal.rotate(book)
    keep(story.facts[half:-1])
    path = folder / "journal-00000001.log"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])  # as a reader may see a write that is under way
    poll()
    assert made == []
    path.write_bytes(whole)
    poll()
    keep(story.facts[-1:])
    poll()
    journal.close()
    assert [w.workflow_id for w in made] == ["saga/2", "saga/1"]
    assert exported(folder, Recorder()) == ["saga/1", "saga/2", "saga/3"]


def test_damage_before_newer_journals_is_told_with_its_place(tmp_path):
    folder = program_story().write(tmp_path / "c") / "journal"
    (folder / "journal-00000001.log").write_bytes(b"saga-journal 1\n")
    first = folder / "journal-00000000.log"
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(ClusterError, match=r"journal-00000000\.log: damaged at byte \d+, and newer"):
        export(Segments(folder), Recorder())


def test_a_workflow_whose_beginning_is_gone_is_counted(tmp_path):
    story, journal = program_story(), Journal(tmp_path / "journal")
    book: Book = journal.recover("sticky")
    for index, (at, fact) in enumerate(story.facts):
        book.apply(fact, at)
        journal.append(fact, at)
        if index == 2:
            journal.rotate(book)
    journal.close()
    (tmp_path / "journal" / "journal-00000000.log").unlink()
    recorder = Recorder()
    assert exported(tmp_path / "journal", recorder) == []
    assert recorder.left_out == {CUT: 3}


def test_journal_files_can_be_imported(tmp_path, capsys):
    folder = program_story().write(tmp_path / "c")
    for source in (folder, folder / "journal", folder / "journal" / "journal-00000000.log"):
        out = tmp_path / "out.jsonl"
        assert cli("trace", "import", "saga", source, "-o", out, "--tenant", "t", "--limit", "2") == 0
        assert [(w.workflow_id, w.tenant) for w in load_trace(out)] == [("saga/1", "t"), ("saga/2", "t")]
    assert cli("trace", "import", "saga", folder, folder, "-o", out) == 2
    assert "a folder stands alone" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_recording_writes_each_workflow_when_it_ends(tmp_path, ending):
    story = program_story()
    journal = Journal(tmp_path / "journal")
    journal.recover("sticky")
    for at, fact in story.facts[:-2]:
        journal.append(fact, at)
    journal.flush()
    out = tmp_path / "out.jsonl.gz"
    words = [
        "-m",
        "saga_cli",
        "--cluster-dir",
        str(tmp_path),
        "--output",
        "json",
        "trace",
        "record",
        "-o",
        str(out),
    ]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for(out.exists, process)
            for (at, fact), told in zip(story.facts[-2:], ["saga/2", "saga/1"], strict=True):
                journal.append(fact, at)
                journal.flush()
                wait_for(
                    lambda told=told: out.stat().st_size and load_trace(out)[-1].workflow_id == told, process
                )
            process.send_signal(ending)
            answer, error = process.communicate(timeout=20)
        finally:
            process.kill()
    journal.close()
    assert (process.returncode, error) == (0, b"")
    assert msgspec.json.decode(answer) == {
        "file": str(out), "workflows": 2, "steps": 3, "running": 0,
        "left_out": {"workflows still running": 1},
    }  # fmt: skip
    assert [w.workflow_id for w in load_trace(out)] == ["saga/1", "saga/2"], "at the end, in order of arrival"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", out.name]


def wait_for(fact, process, deadline_s=20.0):
    end = time.monotonic() + deadline_s
    while not fact():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_recording_replaces_no_file(tmp_path, capsys):
    folder, out = program_story().write(tmp_path / "c"), tmp_path / "out.jsonl"
    out.write_text("older")
    assert cli("--cluster-dir", folder, "trace", "record", "-o", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "older"


def test_tools_have_the_names_that_answers_and_clients_gave_them():
    story = Story().submit(0.0)
    asked = ["bash", "", "-", "edit", "", ""]
    brought = [
        "",
        "",
        "pytest",
        "",
        "ls",
        "",
    ]  # of the second step nobody sees what it asked for: the third says
    for number, (tool, brings) in enumerate(zip(asked, brought, strict=True)):
        step = story.arrive(2.0 * number, tool=brings)
        story.finish(2.0 * number + 1.0, step, 1000 + 100 * number, 10, tool=tool)
    tools = [step.tool for step in story.end(20.0).one().steps]
    assert [(tool.kind, tool.name) for tool in tools[:-1]] == [
        ("tool", "bash"), ("tool", "pytest"), ("user", None), ("tool", "edit"), ("tool", None),
    ]  # fmt: skip
    assert tools[-1] is None


def test_a_session_is_opened_by_whom_it_names():
    """By rest alone it would be `b`, which ended last."""
    story = Story().submit(0.0).step(0.5, 1000, session="a").step(2.0, 2000, session="b")
    story.step(4.0, 500, session="sub", parent="a").step(6.0, 1200, session="a").end(9.0)
    first, _, sub, joined = story.one().steps
    assert sub.parents == (first.id,)
    assert sub.id in joined.parents, "a waits for what it opened"
    assert first.tool.kind == "subagent"


def test_a_parent_that_is_not_known_is_nobodys():
    story = Story().submit(0.0).step(0.5, 1000).step(2.0, 500, session="sub", parent="gone").end(9.0)
    assert story.one().steps[1].parents == (0,)
