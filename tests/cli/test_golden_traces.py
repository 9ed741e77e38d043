"""`saga trace import|export|record` in all three modes against their golden outputs."""

from __future__ import annotations

import json
import time

import pytest
from test_golden import MODES, _compare, _section

from saga_core.events import Outcome, StepArrived, StepFinished, WorkflowEnded, WorkflowSubmitted
from saga_core.ids import StepId, TenantId, WorkflowId
from saga_core.states import WorkflowState
from saga_head.journal import Journal

COMMANDS = {
    "trace-import": ["trace", "import", "mooncake", "m.jsonl", "-o", "t.jsonl.gz"],
    "trace-import-fault": ["trace", "import", "mooncake", "bad.jsonl", "-o", "t.jsonl.gz"],
    "trace-export": ["trace", "export", "-o", "t.jsonl.gz"],
    "trace-record": ["trace", "record", "-o", "t.jsonl.gz"],
}
ROW = {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]}


@pytest.fixture(autouse=True)
def _sources(folder, saga, tmp_path, monkeypatch):
    """Two requests of one session; a journal with a workflow that ended, one that runs, and a step that failed."""
    home = tmp_path / "home"
    rows = [ROW, ROW | {"timestamp": 9000, "input_length": 1600, "hash_ids": [1, 2, 4, 5]}]
    (home / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "bad.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"hash_ids": [1]}) + "\n")
    journal = Journal(folder / "journal")
    journal.recover("sticky")
    for at, fact in enumerate(facts()):
        journal.append(fact, 100.0 + at)
    journal.close()

    def pressed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "saga_cli.recording.time", type("Clock", (), {"monotonic": time.monotonic, "sleep": pressed})
    )


def facts():
    tenant = TenantId("default")
    for number in (1, 2):
        one = WorkflowId(number)
        yield WorkflowSubmitted(workflow=one, tenant=tenant, token="t", kind="replay", name=f"w{number}")
        for count, step in enumerate((StepId(2 * number), StepId(2 * number + 1))):
            failed = number == 2 and count == 1
            yield StepArrived(step=step, tenant=tenant, model="m", workflow=one)
            yield StepFinished(
                step=step,
                outcome=Outcome.BROKEN if failed else Outcome.DONE,
                prompt_tokens=None if failed else 100 + 50 * count,
                output_tokens=None if failed else 10,
            )
    yield WorkflowEnded(workflow=WorkflowId(1), state=WorkflowState.DONE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_trace_source_in_all_three_modes(name, saga, folder, stub, tmp_path):
    sections = []
    for mode in MODES:
        (tmp_path / "home" / "t.jsonl.gz").unlink(missing_ok=True)
        sections.append(_section(saga, mode, COMMANDS[name], stub, folder))
    _compare(name, "\n".join(sections))
