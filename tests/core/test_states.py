"""Life cycles: every pair of state and cause, and docs/states.md against the tables."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from saga_core import states
from saga_core.errors import InvalidTransition, SagaError
from saga_core.states import advance

TABLES = {
    "Workflow": states.WORKFLOW,
    "Session": states.SESSION,
    "Worker": states.WORKER,
    "Node": states.NODE,
    "Duty": states.DUTY,
    "Move": states.MOVE,
}
DOC = Path(__file__).parents[2] / "docs" / "states.md"


def pairs():
    for name, table in TABLES.items():
        kind = type(next(iter(table))[0])
        causes = sorted({cause for _, cause in table})
        for state, cause in product(kind, [*causes, "no such cause"]):
            yield pytest.param(table, state, cause, id=f"{name}-{state}-{cause}")


@pytest.mark.parametrize(("table", "state", "cause"), list(pairs()))
def test_every_pair_is_in_its_table_or_raises_with_its_story(table, state, cause):
    if (state, cause) in table:
        assert advance(table, state, cause, what="it") is table[state, cause]
        return
    with pytest.raises(InvalidTransition) as caught:
        advance(table, state, cause, what="it", story=["a", "b"])
    error = caught.value
    assert (error.what, error.state, error.cause, error.story) == ("it", state, cause, ("a", "b"))
    assert str(error) == f"it: no transition from {str(state)!r} by {cause!r} (story: a; b)"
    assert isinstance(error, SagaError)


def test_a_transition_without_a_story_says_so():
    assert "nothing yet" in str(InvalidTransition("it", "x", "y"))


def test_ended_workflows_stay_ended():
    assert not [pair for pair in states.WORKFLOW if pair[0] in states.ENDED]
    assert {to for to in states.WORKFLOW.values() if to not in states.ENDED} == {
        s for s, _ in states.WORKFLOW
    }


def test_every_state_can_be_reached():
    for table in TABLES.values():
        kind = type(next(iter(table))[0])
        first = next(iter(kind)) if kind is not states.SessionState else states.SessionState.TOOL
        assert {first, *table.values()} == set(kind)


def section(name: str) -> str:
    text = DOC.read_text()
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/states.md has no section {name}"
    return found[1]


@pytest.mark.parametrize("name", TABLES)
def test_the_document_has_the_same_table(name):
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \| `([^`]+)` \|", section(name), re.MULTILINE)
    told = {(state, cause): to for state, cause, to in rows}
    assert told == {(str(state), cause): str(to) for (state, cause), to in TABLES[name].items()}
    assert len(rows) == len(told)


@pytest.mark.parametrize("name", TABLES)
def test_the_document_draws_the_same_arrows(name):
    arrows = re.findall(r"^ +(\w+) --> (\w+): (.+)$", section(name), re.MULTILINE)
    drawn = {(a, cause.strip(), b) for a, b, causes in arrows for cause in causes.split(" / ")}
    real = {(str(a), cause, str(b)) for (a, cause), b in TABLES[name].items() if a != b}
    assert drawn == real
