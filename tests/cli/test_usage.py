"""`saga usage`."""

from __future__ import annotations

import json

import msgspec
import pytest
from canned import NOW

from saga_core.spending import TenantUsage, UsageView, WorkflowUsage

USAGE = UsageView(
    since=NOW - 86400,
    until=NOW,
    tenants=[
        TenantUsage(tenant="lab", gpu_s=7200.0, steps=950, prompt_tokens=1_000_000, cached_tokens=750_000, output_tokens=5),
        TenantUsage(tenant="\x1bguest", gpu_s=1800.0, steps=1, prompt_tokens=0, cached_tokens=0, output_tokens=0),
    ],
    workflows=[
        WorkflowUsage(
            id=7, name="agent.py", tenant="lab", agent_type="swe", state="done", submitted_at=NOW - 500, ended_at=NOW,
            gpu_s=600.0, steps=30, prompt_tokens=10, cached_tokens=5, output_tokens=3,
        )
    ],
)  # fmt: skip


@pytest.fixture(autouse=True)
def asked(stub, folder, monkeypatch):
    monkeypatch.setattr(
        stub, "answer", lambda method, path, _: (stub.asked.append((method, path)), (200, USAGE))[1]
    )


def test_tenants_and_workflows_are_shown(saga, stub):
    said = saga("usage", "--since", "7d")
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert ["lab", "2h00m", "80%", "950", "1.00M", "75%", "5"] in lines
    assert ["?guest", "30m00s", "20%", "1", "0", "-", "0"] in lines
    assert ["7", "agent.py", "lab", "done", "10m00s", "30", "3"] in lines
    assert stub.asked == [("GET", f"/saga/v1/usage?since={NOW - 7 * 86400:.0f}")]


def test_json_is_the_whole_answer(saga):
    said = saga("--output", "json", "usage")
    answer, told = json.loads(said.out), json.loads(msgspec.json.encode(USAGE))
    assert answer["tenants"] == told["tenants"]
    assert [w["gpu_s"] for w in answer["workflows"]] == [600.0]
    assert saga("--output", "quiet", "usage").out.split("\n")[0] == "lab"


def test_a_span_that_is_none(saga):
    assert saga("usage", "--since", "yesterday").code == 2
