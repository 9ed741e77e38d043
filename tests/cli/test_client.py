"""The client for Python programs: the same calls as the command line's."""

from __future__ import annotations

import msgspec
import pytest
from canned import CLUSTER, WORKFLOWS

from saga_cli.client import Client
from saga_core.errors import ClusterError, UserError
from saga_core.views import EventPage, EventView


@pytest.fixture
def client(folder, monkeypatch):
    monkeypatch.setattr("saga_cli.client.ASK_EVERY_S", 0.0)
    return Client.connect(folder)


def event(seq: int) -> EventView:
    return EventView(seq=seq, at=1.0, kind="StepPlaced", workflow=1, session="main", step=seq)


def test_looking(client, monkeypatch, folder):
    assert client.status().name == CLUSTER.name
    assert [w.id for w in client.workflows("2-3")] == [2, 3]
    assert client.only("last") == 4
    assert client.explain("1").workflow.id == client.explain(1).workflow.id
    assert client.explain("saga-48").step == 48
    assert client.log(1) == b"hello from the agent\n"
    monkeypatch.setenv("SAGA_CLUSTER_DIR", str(folder))
    assert Client.connect().status() == client.status()


def test_a_submission_is_the_command_lines(client, stub):
    assert client.submit(["python", "agent.py"], env={"A": "b=c"}, tenant="t").id == 8
    _, _, body = stub.asked[-1]
    assert (body["name"], body["tenant"], body["program"]["env"]) == ("agent.py", "t", {"A": "b=c"})


def test_waiting_tells_of_each_end_once(client, stub):
    told = []
    assert [w.state for w in client.wait([2, 3], ended=told.append)] == ["done", "failed"]
    assert [w.id for w in told] == [2, 3]
    with pytest.raises(ClusterError, match="workflow 1 "):
        client.wait([1], timeout_s=0.0)


def test_an_older_head_is_asked_to_end_in_words_it_knows(client, stub):
    client.control.shutdown(drain=True)
    _, path, body = stub.asked[-1]
    assert path.endswith("shutdown")
    assert body.keys() == {"drain", "within_s"}
    client.control.shutdown(within_s=5.0)
    assert stub.asked[-1][2] == {"within_s": 5.0}


def test_what_has_ended_is_not_cancelled(client, stub):
    assert client.cancel(2).state == "done"
    assert not [path for _, path, _ in stub.asked if path.endswith("cancel")]
    assert client.cancel(1).state == "cancelling"


def test_one_workflow_is_one(client):
    with pytest.raises(UserError, match="means 2 workflows"):
        client.only("2-3")


def pages(stub, *answers) -> list[str]:
    """The stub answers questions for events so, one after another; what was asked."""
    asked, left = [], list(answers)

    def answer(method, path, body):
        asked.append(path.partition("?")[2])
        page = left.pop(0)
        return (503, {"error": {"message": "restarting"}}) if page is None else (200, page)

    stub.answer = answer
    return asked


def test_events_are_read_page_by_page(client, stub):
    asked = pages(
        stub,
        EventPage(head=1, events=[event(1), event(2)], next=2),
        EventPage(head=1, events=[event(3)], next=3),
        EventPage(head=1, events=[], next=3),
    )
    assert [e.seq for e in client.events(workflow=1)] == [1, 2, 3]
    assert asked == ["workflow=1", "after=2&workflow=1", "after=3&workflow=1"]


def test_following_goes_on_with_a_head_that_was_started_again(client, stub):
    asked = pages(
        stub,
        EventPage(head=1, events=[event(7)], next=7),
        None,
        EventPage(head=2, events=[], next=1),
        EventPage(head=2, events=[event(1)], next=1),
    )
    events = client.events(follow=True)
    assert [next(events).seq, next(events).seq] == [7, 1]
    assert asked[-1] == "after=0&wait_s=5"


def test_events_of_a_head_that_never_answered_are_an_error(client, stub):
    pages(stub, None)
    with pytest.raises(ClusterError, match="restarting"):
        list(client.events(follow=True))


def test_events_as_lines(saga, folder, stub):
    pages(stub, EventPage(head=1, events=[msgspec.structs.replace(event(1), facts={"why": "a \x1b b"})], next=1), EventPage(head=1, events=[], next=1))  # fmt: skip
    said = saga("events")
    assert said.code == 0
    assert "1.main       StepPlaced saga-1 why='a \\x1b b'" in said.out
    assert len(WORKFLOWS) == 4
