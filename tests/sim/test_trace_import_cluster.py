"""The way there and back: a trace replayed on a real head, exported from its journal, is the same trace again."""

import asyncio
import contextlib
import gzip
from pathlib import Path

import pytest
from trace_makers import step, workflow

from saga_cli.main import run
from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer
from saga_sim.pacing import Pace
from saga_sim.replay import replay
from saga_sim.runs import Endpoint
from saga_sim.trace import load_trace, session_names, shared_tokens
from saga_sim.trace.journal_steps import BLOCK_SLACK_TOKENS
from saga_sim.trace.records import Tool
from saga_sim.trace.synth import synthesise

MODEL = "m"


def with_subagent():
    """main, a sub-agent of two steps with a context of its own, main again when that is over."""
    return workflow(
        step(0, 900, output=40, tool=Tool(kind="subagent", name=None)),
        step(1, 500, ctx=None, parents=(0,), agent="sub", output=30),
        step(2, 700, 200, ctx=1, agent="sub", output=20),
        step(3, 1200, 300, ctx=0, parents=(0, 2), output=10),
        id="with-subagent",
    )


@pytest.fixture
def rig(monkeypatch):
    """The rig of the head's own tests."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "daemon"))
    import head_rig

    return head_rig


@contextlib.asynccontextmanager
async def cluster(rig, folder):
    """A real head with one engine double."""
    config = FakeConfig(models=(MODEL,), api_key="k", speed=2000.0)
    async with FakeServer(config) as engine, rig.running_head(folder) as head:
        node = rig.RigNode(head.access)
        reports = None
        try:
            await node.serve(engine.url, model=MODEL)
            reports = asyncio.create_task(node.reporting())
            yield head
        finally:
            if reports is not None:
                reports.cancel()
            await node.close()


async def run_all(head, workflows):
    numbers = {}

    async def endpoint(made):
        body = {"kind": "replay", "name": made.workflow_id, "agent_type": made.agent_type}
        status, accepted = await head.call("POST", "/saga/v1/workflows", body)
        assert status == 201, accepted
        numbers[made.workflow_id] = accepted["id"]
        return Endpoint(base_url=accepted["base_url"], api_key=accepted["api_key"])

    async def finish(made, ok):
        path = f"/saga/v1/workflows/{numbers[made.workflow_id]}/finish"
        await head.call("POST", path, {"state": "done" if ok else "failed"})

    result = await replay(
        workflows, endpoint=endpoint, finish=finish, model=MODEL, pace=Pace(time_scale=0.0), max_live=2
    )
    assert [run.why for run in result.runs if run.why] == []
    return numbers


async def test_a_replayed_trace_comes_back_from_the_journal(rig, tmp_path):
    originals = [*synthesise("demo", 3, 0), with_subagent()]
    folder, out = tmp_path / "cluster", tmp_path / "back.jsonl.gz"
    folder.mkdir()
    async with cluster(rig, folder) as head:
        await run_all(head, originals)
        await rig.until(lambda: exported_count(folder, out) == len(originals), "the journal is flushed")
        assert await asyncio.to_thread(run, ["trace", "check", str(out)]) == 0
        secrets = [head.access.admin_key, head.access.api_key]
    back = {made.instance: made for made in load_trace(out)}
    text = gzip.decompress(out.read_bytes()).decode()
    assert not [secret for secret in secrets if secret in text]
    for original in originals:
        same_counts(original, back[original.workflow_id])
        same_prefixes(original, back[original.workflow_id])


def exported_count(folder, out):
    if run(["--cluster-dir", str(folder), "trace", "export", "-o", str(out)]):
        return 0
    return len(load_trace(out))


def same_counts(original, back):
    assert (back.agent_type, back.timing, back.tokens) == (original.agent_type, "measured", "reported")
    assert len(back.steps) == len(original.steps)
    for old, new in zip(original.steps, back.steps, strict=True):
        assert (new.prompt_tokens, new.output_tokens) == (old.prompt_tokens, old.output_tokens)
        assert new.agent == old.agent
        assert new.parents == old.parents, new.id
    assert len(set(session_names(back))) == len(set(session_names(original)))


def same_prefixes(original, back):
    """What is shared with the context parent: exact where prompts append, within a block where it was read."""
    for old, new in zip(original.steps, back.steps, strict=True):
        assert new.ctx_parent == old.ctx_parent, new.id
        was, now = shared_tokens(original, old), shared_tokens(back, new)
        appended = old.ctx_parent is not None and was == original.steps[old.ctx_parent].prompt_tokens
        assert now == was if appended else was - BLOCK_SLACK_TOKENS < now <= was
        assert new.compacted is False or old.compacted
