"""What a submission is called when nobody names it."""

import pytest

from saga_cli.submitting import request


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
