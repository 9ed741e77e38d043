"""One real vLLM worker on a node of real Slurm, through the gateway and away again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from slurm_rig import AGENT, Login

pytestmark = [pytest.mark.slurm, pytest.mark.vllm, pytest.mark.timeout(400)]


def test_a_program_on_a_real_worker_in_an_allocation(login: Login, tmp_path: Path) -> None:
    done = login.run(
        "up", "--slurm", "--nodes", "1", "--workers", "1", "--model", "nano", "--time", "20", "--timeout", "240",
        "--set", "workers.kv_tokens=16384", "--set", "workers.max_model_len=8192", within_s=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + login.logs()
    print(done.stderr.splitlines()[-1])
    program = tmp_path / "agent.py"
    program.write_text(AGENT)
    found = login.json("submit", "--wait", "--", sys.executable, str(program), SAGA_WAY="srun")
    assert [(w["state"], w["steps"]) for w in found] == [("done", 2)]
    assert found[0]["output_tokens"] == 8
    login("down")
    login.gone()
