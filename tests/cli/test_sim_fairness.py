"""`saga sim run --check-fairness`: the bound of docs/fairness.md beside the other figures."""

import json

from saga_cli.main import run

WORDS = (
    "sim", "run", "--synth", "demo", "--workflows", "4", "--workers", "2", "--preset", "agent-cpu",
    "--arrival-rate", "2", "--profile", "saga",
)  # fmt: skip


def test_the_bound_has_rows_where_it_is_asked_for(capsys):
    assert run([*WORDS, "--check-fairness"]) == 0
    rows = {line.split("  ")[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["bound violated"] == "0"
    assert {"overdue", "lateness p99", "lateness max", "waited for larger keys"} <= rows.keys()
    assert run(WORDS) == 0
    assert "bound violated" not in capsys.readouterr().out


def test_json_has_the_figures(capsys):
    assert run([*WORDS, "--check-fairness", "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"][0]["fairness"]
    assert found["workflows"] == 4
    assert found["violations"] == 0
    assert found["drift"] < 1e-9
