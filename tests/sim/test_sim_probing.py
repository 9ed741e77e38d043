"""The prober: every call is measured where it is known to be, with the neighbours that it is meant to have."""

import asyncio
from dataclasses import dataclass, field

import pytest

from saga_core.errors import ClusterError
from saga_sim.client import Reply
from saga_sim.probing import BATCHES, LENGTHS, VISITED, Opened, Prober
from saga_sim.runs import Endpoint

LONGEST = 4096
SECONDS = 2e-3
"""Per token, in this test."""


@dataclass
class Cluster:
    """Workers that take workflows as a hash would: by their number, unevenly. Time passes in the event loop."""

    homes: tuple[str, ...]
    opened: int = 0
    at_once: dict[str, int] = field(default_factory=dict)
    busiest: dict[str, int] = field(default_factory=dict)

    async def open(self):
        home = self.homes[self.opened % len(self.homes)]
        self.opened += 1

        async def where():
            return home

        return Opened(endpoint=Endpoint(base_url=home, api_key=""), home=where)

    def bound_to(self, endpoint):
        return endpoint.base_url

    async def call(self, client, prompt, output, headers, *, on_first, on_retry):
        clock = asyncio.get_running_loop().time
        self.at_once[client] = self.at_once.get(client, 0) + 1
        self.busiest[client] = max(self.busiest.get(client, 0), self.at_once[client])
        await asyncio.sleep(0)
        reply = Reply(first_at=clock(), prompt_tokens=len(prompt), output_tokens=output, cached_tokens=0)
        on_first()
        await asyncio.sleep(output / 4800 * SECONDS)
        reply.ended_at = clock()
        self.at_once[client] -= 1
        return reply


def prober(cluster, workers):
    return Prober(cluster, cluster.open, workers=workers, max_model_len=LONGEST, on_probe=lambda _: None)


async def test_every_worker_gets_all_kinds_of_calls_alone_and_beside_the_others():
    cluster = Cluster(homes=("a", "b", "b", "a", "b"))
    probes = await prober(cluster, 2).all()
    turns = [p for p in probes if p.batch == 1 and not p.visits]
    assert len(turns) == 2 * 2 * 2 * len(LENGTHS), "two turns at two workers, together and alone"
    assert {p.batch for p in probes} == {1, *(batch for batch, _ in BATCHES)}
    assert all(p.visits for p in probes if p not in turns and p.batch == 1)
    assert len([p for p in probes if p.visits]) <= 4 * len(VISITED)
    most = max(batch for batch, _ in BATCHES)
    assert cluster.busiest == {"a": most, "b": most}, (
        "never more calls in one engine than its probe is said to have"
    )


async def test_a_worker_that_no_call_reaches_is_told():
    with pytest.raises(ClusterError, match="reached 1 of 2 workers"):
        await prober(Cluster(homes=("a",)), 2).all()
