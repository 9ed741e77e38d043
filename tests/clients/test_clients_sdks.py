"""The packages that agents are made of, unchanged, told nothing but an address and a key."""

from __future__ import annotations

from clients_rig import Run


def test_openai(run: Run) -> None:
    found, rules = run("openai_sdk")
    assert found["models"] == ["m"]
    assert found["tool"] == ["bash", {"cmd": "ls"}, "There is a.py."]
    assert (found["identity"], found["cached"]) == ("content", True)
    assert found["streamed"] == "A streamed answer."
    assert found["responses"] == ["I shall remember seven.", "It was seven.", "I shall remember seven."]
    assert (found["grown"], found["embedding"], found["error"]) == (True, 32, "model_not_found")
    assert rules == {"content": 2, "body.previous_response_id": 1, "none": 4}


def test_anthropic(run: Run) -> None:
    found, rules = run("anthropic_sdk")
    assert found["models"] == ["m"]
    assert found["tool"] == ["bash", {"cmd": "ls"}, "tool_use"]
    assert (found["streamed"], found["identity"]) == ("There is a.py.", "content")
    assert found["usage"] == [found["counted"], True]
    assert found["error"] == "not_found_error"
    assert rules == {"content": 2, "none": 2}


def test_litellm(run: Run) -> None:
    found, rules = run("litellm_sdk")
    assert found == {"openai": ["First answer.", "Second answer."], "anthropic": "Third answer."}
    assert rules == {"none": 1, "content": 1, "litellm": 1}


def test_langgraph(run: Run) -> None:
    found, rules = run("langgraph_agent")
    assert found == {"answer": "It is sunny in Bern.", "messages": 4}
    assert rules == {"content": 2}


def test_openai_agents(run: Run) -> None:
    found, rules = run("openai_agents")
    assert found == {"answers": ["It is sunny in Bern.", "Rain tomorrow."], "calls": 2}
    assert rules == {"content": 2, "body.previous_response_id": 1}
