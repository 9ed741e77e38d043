"""`saga bench kv --drains`: a workflow's next step after its node was drained, by a whole cluster of two nodes.

Everything is as in a cluster of several machines but the machine: a head, two node daemons of one worker each, the
cluster folder between them. What moving and computing cost here the head learns on the way, as always.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.local import processes
from saga_cli.local.private import START_S, ends_at_term, private_cluster
from saga_cli.progress import Progress
from saga_core.errors import ClusterError
from saga_core.states import WorkerState
from saga_core.views import DrainRequest, FinishRequest, SubmitRequest

if TYPE_CHECKING:
    from saga_core.views import Accepted

SECOND: Final = "second"
"""Name of the node beside the one that a local cluster has."""
TOOL_S: Final = 1.0
"""Between the two steps: a short tool call, in which the node tells what is resident."""
STEP_S: Final = 120.0
ASK_EVERY_S: Final = 0.2
VOCABULARY: Final = (16, 4000)
"""Token numbers that every demo model has, but for the special ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is done, on what."""

    model: str
    engine: str = "vllm"
    contexts: tuple[int, ...] = (2048, 4096, 8192)
    rounds: int = 3
    seed: int = 0

    @property
    def settings(self) -> dict[str, object]:
        """Of the cluster: the pools have room for several of the longest contexts."""
        return {
            "profile": "saga",
            "workers.engine": self.engine,
            "workers.model": self.model,
            "workers.count": 1,
            "workers.kv_tokens": 4 * max(self.contexts),
            "workers.max_model_len": max(self.contexts) + 64,
        }


class DrainRow(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow. Times in milliseconds: of steps by the client, of the move by the head."""

    tokens: int
    round: int
    first_ms: float
    """The same prompt when nobody had anything of it."""
    next_ms: float
    """After the drain, at the other node; what the move took is in it."""
    found_tokens: int
    """Of its prompt, at its new home."""
    move_ms: float | None = None
    """None: the head did not ask for one."""
    priced_ms: float = 0.0
    """What the head expected it to take."""
    again_ms: float = 0.0
    """What computing again would have taken, by the head."""
    failed: str = ""


class _Moved(msgspec.Struct):
    """What is looked at of a `SessionMoved`; fields that are zero are not said."""

    took_s: float = 0.0
    priced_s: float = 0.0
    again_s: float = 0.0
    failed: str = ""


def bench(plan: Plan, show: Progress) -> list[DrainRow]:
    """All contexts, round by round, on a cluster of its own. ClusterError: something of it did not start or answer."""
    rows: list[DrainRow] = []
    with ends_at_term(), private_cluster("drains", plan.settings, show) as folder:
        show.phase("starting the second node")
        processes.start(processes.node_command(folder, SECOND), folder.node_log(SECOND))
        control = Control.of(folder)
        model = _both_ready(control, folder)
        for round_ in range(plan.rounds):
            for tokens in plan.contexts:
                rng = Random(f"{plan.seed} {round_} {tokens}")  # noqa: S311 - a workload
                prompt = [rng.randrange(*VOCABULARY) for _ in range(tokens)]
                rows.append(_drained(control, model, prompt, round_))
                show.say(f"  {tokens}: first {rows[-1].first_ms:.0f} ms, next {rows[-1].next_ms:.0f} ms")
    return rows


def _both_ready(control: Control, folder: ClusterFolder) -> str:
    """Wait for both workers; the name of their model."""
    deadline = time.monotonic() + START_S
    while True:
        workers = control.cluster().workers
        ready = [worker for worker in workers if worker.state == WorkerState.READY]
        if len(ready) == 2:
            return ready[0].model
        lost = next((worker for worker in workers if worker.state == WorkerState.LOST), None)
        if lost is not None or time.monotonic() > deadline:
            why = lost.reason if lost is not None else f"it was not ready within {START_S:g} s"
            raise ClusterError(f"the second node: {why}; its log: {folder.node_log(SECOND)}")
        time.sleep(ASK_EVERY_S)


def _drained(control: Control, model: str, prompt: list[int], round_: int) -> DrainRow:
    """One workflow of two steps, and the drain between them."""
    flow = control.submit(SubmitRequest(kind="replay"))
    first_ms, home, _ = _step(flow, model, prompt)
    time.sleep(TOOL_S)
    node = home.partition("/")[0]
    control.drain(node, DrainRequest(reason="a benchmark"))
    try:
        next_ms, _, found = _step(flow, model, prompt)
        moved = _moved(control, flow.id)
        control.finish(flow.id, FinishRequest())
    finally:
        control.undrain(node)
    row = DrainRow(tokens=len(prompt), round=round_, first_ms=first_ms, next_ms=next_ms, found_tokens=found)
    if moved is None:
        return row
    return msgspec.structs.replace(
        row,
        move_ms=1e3 * moved.took_s,
        priced_ms=1e3 * moved.priced_s,
        again_ms=1e3 * moved.again_s,
        failed=moved.failed,
    )


def _moved(control: Control, workflow: int) -> _Moved | None:
    events = control.events(workflow=workflow).events
    moved = (event.facts for event in events if event.kind == "SessionMoved")
    return next((msgspec.convert(facts, _Moved) for facts in moved), None)


def _step(flow: Accepted, model: str, prompt: list[int]) -> tuple[float, str, int]:
    """Milliseconds that it took, the worker that served it, and the tokens found there."""
    import urllib.error
    import urllib.request

    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {flow.api_key}", "Content-Type": "application/json"}
    request = urllib.request.Request(flow.base_url + "/completions", msgspec.json.encode(body), headers)  # noqa: S310
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=STEP_S) as answer:  # noqa: S310 - our own head
            said, worker = answer.read(), answer.headers["x-saga-worker"]
    except urllib.error.HTTPError as error:
        raise ClusterError(f"a step gave {error.code}: {error.read(200)!r}") from None
    except OSError as error:
        raise ClusterError(f"a step broke off: {error}") from None
    took_ms = 1e3 * (time.perf_counter() - began)
    details = msgspec.json.decode(said)["usage"].get("prompt_tokens_details") or {}
    return took_ms, worker, int(details.get("cached_tokens") or 0)
