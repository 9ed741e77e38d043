"""Foreign records with anything in them, and journals of any order: a workflow that passes the checks, or a UserError."""

import copy
import json
from random import Random

import pytest
from test_trace_import import row
from test_trace_import_dynamo import agentic, end, tool
from test_trace_import_journal import Story
from test_trace_import_sweagent import SYSTEM, TASK, seen, turn

from saga_core.errors import UserError
from saga_sim.trace.checks import faults
from saga_sim.trace.importers import ImportOptions, import_trace

CLAUDE = {
    "source_request_id": "a", "consumer_request_id": "b", "child_session_id": "k", "execution_mode": "background",
}  # fmt: skip
EVENT = {"tool_class": "bash", "duration_ms": 1.0}
SOUND = {
    "request-trace": [
        end("a", 0, 1000, [1, 2], session="s", prompt=100, cached_tokens=64, ttft_ms=2.5),
        end("b", 1600, 2000, [1, 3, 4], session="s"),
        end("c", 1100, 1200, [1], session="k", parent="s"),
        tool("s", "x", 1080, 1500),
        tool("s", "Agent", 110, 790, claude=CLAUDE),
    ],
    "agentic": [
        agentic("r1", [1, 2], session_id="m", timestamp=2000),
        agentic(
            "r2", [1, 2, 3], session_id="m", wait_for=["r1"], delay=50, tool_wait_ms=3, tool_events=[EVENT]
        ),
    ],
    "mooncake": [row(0, 1100, [7, 8, 9]), row(1, 1600, [7, 8, 10, 11])],
    "swe-agent": [
        {"trajectory": [turn([SYSTEM, TASK], "a", execution_time=0.1), turn([SYSTEM, TASK, seen("x")], "b")]}
    ],
}
FORMATS = {"request-trace": "dynamo", "agentic": "dynamo"}
VALUES = [
    None,
    0,
    -1,
    1,
    1e308,
    2**63,
    2**64 - 1,
    10**30,
    "",
    "x" * 300,
    [],
    {},
    True,
    [[]],
    [None],
    [1] * 5,
    0.5,
]


def places(value, so_far=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*so_far, key)
        yield from places(item, (*so_far, key))


def damage(rows, random):
    rows = copy.deepcopy(rows)
    for _ in range(random.choice([1, 1, 2])):
        *way, last = random.choice(list(places(rows)))
        held = rows
        for key in way:
            held = held[key]
        if random.random() < 0.15 and rows is not held:
            del held[last]
        else:
            held[last] = copy.deepcopy(random.choice(VALUES))
    return rows


@pytest.mark.parametrize("name", SOUND)
def test_damaged_records_are_taken_or_refused_with_their_place(tmp_path, name):
    random, path, taken = Random(name), tmp_path / "t.jsonl", 0
    refused = []
    for _ in range(120):
        path.write_text("".join(json.dumps(item) + "\n" for item in damage(SOUND[name], random)))
        try:
            made = import_trace(FORMATS.get(name, name), [path], ImportOptions(tokenizer="bytes/4"))
        except UserError as error:
            refused.append(str(error))
        else:
            taken += 1
            assert [fault for workflow in made.workflows for fault in faults(workflow)] == []
    assert taken > 5
    assert len(refused) > 5
    assert [why for why in refused if str(path) not in why] == []


def test_journals_of_any_order_make_valid_workflows():
    for seed in range(150):
        random, story, flying, now, finished = Random(seed), Story().submit(0.0), [], 0.0, 0
        for _ in range(random.randrange(2, 40)):
            now += random.choice([0.0, 0.001, random.random() * 5])
            if flying and random.random() < 0.5:
                number = flying.pop(random.randrange(len(flying)))
                usage = (
                    random.randrange(1, 5000),
                    random.randrange(1, 300),
                    random.choice([None, 0, random.randrange(5000)]),
                )
                told = random.random() < 0.9
                story.finish(now, number, *usage) if told else story.finish(now, number)
                finished += told
            else:
                flying.append(story.arrive(now, random.choice(["main", "main", "a", "b.1"])))
        made, _ = story.end(now).told()  # asserts that the checks find no fault
        assert sum(len(workflow.steps) for workflow in made) == finished, seed
