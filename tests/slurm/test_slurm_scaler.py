"""What follows from a decision to grow or to shrink: against a Slurm and a head of the test's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from saga_cli.folder import ClusterFolder
from saga_cli.slurm.asking import Asked
from saga_cli.slurm.asking import plan as asked_plan
from saga_cli.slurm.growing import growable
from saga_cli.slurm.status import scaling_lines, scaling_view
from saga_cli.slurm.up import script
from saga_core import access
from saga_core.access import Access
from saga_core.errors import UserError
from saga_core.views import BacklogView, ClusterView, NodeView, Totals, WorkerView
from saga_slurm import plan, records
from saga_slurm.allocation import Allocation, Role
from saga_slurm.elastic import Backoff, Limits, Phase
from saga_slurm.facts import Job, JobState, SlurmRefused
from saga_slurm.plan import Plan
from saga_slurm.records import Record
from saga_slurm.scaler import CLOSE_S, DRAIN_S, GRACE_S, Scaler
from saga_slurm.site import Site, site_of

HEAD = "41"
NOTHING = Totals(
    workflows={}, steps_done=0, steps_refused=0, steps_waiting=0, prompt_tokens=0, cached_tokens=0,
    output_tokens=0, stale_messages=0,
)  # fmt: skip


@dataclass
class FakeSlurm:
    """Jobs that are what the test makes them."""

    told: dict[str, Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    refuses: str = ""
    numbers: itertools.count = field(default_factory=lambda: itertools.count(50))

    async def submit(self, script: Path, *, tag: str, job_name: str) -> str:
        assert "--nodes=1\n" in script.read_text()
        if self.refuses:
            raise SlurmRefused(self.refuses)
        job = str(next(self.numbers))
        self.told[job] = Job(id=job, state=JobState.PENDING)
        return job

    async def find(self, tag: str, *, job_name: str) -> str | None:
        return None

    async def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        return {id_: self.told[id_] for id_ in ids if id_ in self.told}

    async def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids
        for id_ in ids:
            self.told[id_] = replace(self.told[id_], state=JobState.CANCELLED)


@dataclass
class FakeHead:
    """A head that knows nodes of one worker each, by their job."""

    jobs: dict[str, str] = field(default_factory=lambda: {HEAD: "ready"})
    """State of each job's worker."""
    wanted: int = 1
    idle_s: float | None = None
    away: bool = False
    removed: list[str] = field(default_factory=list)
    shut_down_within_s: float | None = None

    def look(self, folder: Path) -> ClusterView | None:
        ready = sum(state == "ready" for state in self.jobs.values())
        backlog = [BacklogView(model="m", ready=ready, wanted=self.wanted, waiting_steps=0, waiting_tokens=0)]
        return None if self.away else ClusterView(
            name="c", version="1", profile="saga", url="", up_s=1.0, models=["m"], workflows=[], totals=NOTHING,
            nodes=[_node(job) for job in self.jobs], workers=[_worker(*pair) for pair in self.jobs.items()],
            idle_s=self.idle_s, backlog=backlog,
        )  # fmt: skip

    def remove(self, folder: Path, node: str, *, reason: str, within_s: float) -> None:
        self.removed.append(node)

    def shut_down(self, folder: Path, *, within_s: float) -> bool:
        self.shut_down_within_s = within_s
        return True


def _node(job: str) -> NodeView:
    return NodeView(id=f"{job}.n", state="up", host="h", incarnation=1, seen_s=0.0, programs=0)


def _worker(job: str, state: str) -> WorkerView:
    return WorkerView(
        id=f"{job}.n/0", node=f"{job}.n", state=state, model="m", incarnation=1, load=0.0, kv_usage=0.0,
        resident_tokens=0, capacity_tokens=0, running=0, waiting=0, steps_done=0,
    )  # fmt: skip


def _access(job: str) -> Access:
    return Access(
        name="c", pid=1, host="h", started_at=0.0, job=job, url="", api_key="", admin_key="", control="",
        head_public="", node_public="", node_secret="",
    )  # fmt: skip


PACE = {"grow_after_s": 4.0, "spare_s": 20.0, "start_s": 100.0, "backoff_s": 50.0, "worth_s": 30.0}


@dataclass
class Bench:
    """A cluster of one node in job 41, of which the test moves the clock."""

    folder: Path
    slurm: FakeSlurm = field(default_factory=FakeSlurm)
    head: FakeHead = field(default_factory=FakeHead)
    now: float = 1000.0

    def __post_init__(self) -> None:
        first = Allocation(
            role=Role.CLUSTER, tag="f" * 32, name="c", folder=str(self.folder), nodes=1, time_s=3600,
            python="python", elastic=True,
        )  # fmt: skip
        records.write(self.folder, Record(allocation=first, asked_at=1.0, job=HEAD))
        self.slurm.told[HEAD] = Job(id=HEAD, state=JobState.RUNNING, starts_at=1.0, ends_at=3000.0)
        self.publish(HEAD)
        self.allow(max_nodes=3)

    def follow(self, job: str, state: JobState) -> None:
        """A successor of the head's job."""
        first = records.read_all(self.folder)[0]
        after = replace(
            first.allocation, tag="e" * 32, predecessor=first.tag, predecessor_job=HEAD, lead_s=60
        )
        records.write(self.folder, Record(allocation=after, asked_at=2.0, job=job))
        self.slurm.told[job] = Job(id=job, state=state, starts_at=2.0)

    def publish(self, job: str) -> None:
        (self.folder / access.FILE).write_bytes(access.encode(_access(job)))

    def allow(self, **limits) -> None:
        join = Allocation(
            role=Role.JOIN, tag="", name="c", folder=str(self.folder), nodes=1, time_s=3600, python="python",
            settings={"workers.count": "1"},
        )  # fmt: skip
        site: Site = site_of({"scaling": PACE}, "test")
        plan.write_plan(self.folder, Plan(limits=Limits(**{"min_nodes": 1, **limits}), join=join, site=site))

    def scaler(self, job: str | None = HEAD) -> Scaler:
        return Scaler(self.folder, self.slurm, self.head, job=job, clock=lambda: self.now)  # type: ignore[arg-type]

    async def run(self, scaler: Scaler, seconds: float) -> bool:
        more = True
        for _ in range(int(seconds // 2)):
            more = await scaler.step()
            self.now += 2.0
        return more

    @property
    def joins(self) -> list[Record]:
        return [record for record in records.read_all(self.folder) if record.allocation.grown]

    def serve(self, job: str) -> None:
        self.slurm.told[job] = Job(id=job, state=JobState.RUNNING, starts_at=self.now)
        self.head.jobs[job] = "ready"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_it_asks_once_for_each_node_that_is_missing_and_gives_them_back(bench: Bench) -> None:
    scaler = bench.scaler()
    bench.head.wanted = 3
    await bench.run(scaler, 60)
    assert [record.job for record in bench.joins] == ["50", "51"]
    assert bench.joins[0].allocation.time_s <= 2000  # no longer than the head's job
    bench.serve("50")
    bench.serve("51")
    await bench.run(scaler, 10)
    assert set(scaler.course.joined.values()) == {Phase.SERVING}
    bench.head.wanted = 1
    await bench.run(scaler, 30)
    assert sorted(bench.head.removed) == ["50.n", "51.n"]
    assert not bench.slurm.cancelled  # their scripts end with the daemons


async def test_it_goes_on_where_another_one_ended(bench: Bench) -> None:
    bench.head.wanted = 2
    await bench.run(bench.scaler(), 20)
    after = bench.scaler()
    await bench.run(after, 60)
    assert len(bench.joins) == 1  # the one that waits is known
    bench.slurm.told["50"] = Job(id="50", state=JobState.FAILED, reason="NonZeroExitCode")
    await bench.run(after, 20)
    assert after.course.backoff.failures == 1
    assert "job 50 ended before it served: FAILED (NonZeroExitCode)" in after.course.backoff.reason
    again = bench.scaler()
    await bench.run(again, 20)
    assert len(bench.joins) == 1  # the pause is known, too
    await bench.run(again, 40)
    assert len(bench.joins) == 2


async def test_a_refusal_waits_longer_each_time_and_is_said(bench: Bench) -> None:
    bench.head.wanted, bench.slurm.refuses = 2, "Slurm refuses: access/permission denied"
    scaler = bench.scaler()
    await bench.run(scaler, 200)
    assert scaler.course.backoff.failures == 3  # after 4, 54 and 154 s
    assert scaler.course.backoff.reason == bench.slurm.refuses
    assert plan.read_course(bench.folder) == scaler.course


async def test_what_does_not_come_up_is_cancelled(bench: Bench) -> None:
    bench.head.wanted = 2
    scaler = bench.scaler()
    await bench.run(scaler, 10)
    bench.slurm.told["50"] = Job(id="50", state=JobState.RUNNING, starts_at=bench.now)
    await bench.run(scaler, 110)
    assert bench.slurm.cancelled == ["50"]
    assert "did not serve within 100 s" in scaler.course.backoff.reason
    assert scaler.course.backoff.failures == 1


async def test_what_is_to_leave_and_does_not_is_cancelled(bench: Bench) -> None:
    bench.head.wanted = 2
    scaler = bench.scaler()
    await bench.run(scaler, 10)
    bench.serve("50")
    await bench.run(scaler, 12)
    bench.head.wanted = 1
    await bench.run(scaler, 40)
    assert bench.head.removed == ["50.n"]
    await bench.run(scaler, DRAIN_S + GRACE_S)
    assert bench.slurm.cancelled == ["50"]


async def test_a_silent_head_is_no_reason_to_give_nodes_back(bench: Bench) -> None:
    bench.head.wanted = 2
    scaler = bench.scaler()
    await bench.run(scaler, 10)
    bench.serve("50")
    await bench.run(scaler, 12)
    bench.head.away = True
    await bench.run(scaler, 60)
    bench.head.away, bench.head.wanted = False, 0  # it learns of its sessions as they come
    await bench.run(scaler, 18)
    bench.head.wanted = 2
    await bench.run(scaler, 60)
    assert not bench.head.removed


async def test_one_that_was_preempted_comes_again_and_is_not_asked_for_twice(bench: Bench) -> None:
    bench.head.wanted = 2
    scaler = bench.scaler()
    await bench.run(scaler, 10)
    bench.serve("50")
    await bench.run(scaler, 12)
    bench.slurm.told["50"] = Job(id="50", state=JobState.PENDING)
    del bench.head.jobs["50"]
    await bench.run(scaler, 60)
    assert len(bench.joins) == 1
    assert set(scaler.course.joined.values()) == {Phase.COMING}


async def test_an_idle_cluster_ends_with_all_that_waits(bench: Bench) -> None:
    bench.allow(max_nodes=3, idle_timeout_s=60.0)
    bench.head.wanted = 2
    scaler = bench.scaler()
    await bench.run(scaler, 10)
    assert [record.job for record in bench.joins] == ["50"]
    bench.follow("60", JobState.RUNNING)
    bench.head.wanted, bench.head.idle_s = 2, 60.0
    assert not await bench.run(scaler, 62)
    assert sorted(bench.slurm.cancelled) == ["50", "60"]
    assert bench.head.shut_down_within_s == CLOSE_S
    assert "--idle-timeout" in plan.read_course(bench.folder).ended


async def test_beside_another_jobs_head_it_rests_and_without_a_plan_it_ends(bench: Bench) -> None:
    bench.head.wanted = 3
    bench.publish("77")
    scaler = bench.scaler()
    assert await bench.run(scaler, 60)
    assert not bench.joins
    plan.remove_plan(bench.folder)  # `saga down`
    assert not await bench.run(scaler, 2)


async def test_one_on_a_login_node_asks_and_does_nothing_else(bench: Bench) -> None:
    bench.allow(max_nodes=3, idle_timeout_s=60.0)
    bench.head.wanted = 2
    scaler = bench.scaler(job=None)
    await bench.run(scaler, 20)
    assert len(bench.joins) == 1
    bench.serve("50")
    bench.head.wanted, bench.head.idle_s = 0, 100.0
    await bench.run(scaler, 100)
    assert not bench.head.removed
    assert bench.head.shut_down_within_s is None
    assert plan.read_course(bench.folder) == plan.Course()


def limits_of(nodes: int, **flags) -> Limits:
    return Asked(role=Role.CLUSTER, settings={}, **flags).limits(nodes)


def test_flags_become_limits() -> None:
    assert limits_of(2, max_nodes=6) == Limits(min_nodes=2, max_nodes=6)
    assert limits_of(1, min_nodes=3, idle_timeout="30m") == Limits(
        min_nodes=3, max_nodes=3, idle_timeout_s=1800.0
    )
    with pytest.raises(UserError, match="--min-nodes 1 with --nodes 4"):
        limits_of(4, min_nodes=1)
    with pytest.raises(UserError, match="--max-nodes 3 is less than the 4"):
        limits_of(4, max_nodes=3)
    with pytest.raises(UserError, match="--idle-timeout 'soon'"):
        limits_of(4, idle_timeout="soon")


def test_a_join_has_no_limits_of_its_own(tmp_path: Path) -> None:
    asked = Asked(role=Role.JOIN, settings={}, max_nodes=3)
    with pytest.raises(UserError, match="not of a join"):
        script(asked, ClusterFolder(tmp_path))


def test_what_joins_is_like_the_first_but_one_node_and_without_a_head(bench: Bench) -> None:
    first = records.read_all(bench.folder)[0].allocation
    first = replace(first, nodes=4, gpus_per_node=8, partition="gpu")
    asked = Asked(role=Role.CLUSTER, settings={}, nodes=4, max_nodes=9)
    join = asked_plan(asked, first, {"workers.count": 2}).join
    assert (join.role, join.nodes, join.gpus_per_node, join.partition) == (Role.JOIN, 1, 8, "gpu")
    assert join.settings == {"workers.count": "2"}
    assert not join.elastic


def test_status_tells_what_the_cluster_makes_of_its_size(bench: Bench) -> None:
    assert scaling_view(None, plan.Course(), 0.0) is None
    course = plan.Course(
        why="3 workers are wanted", joined={"a": Phase.COMING, "b": Phase.SERVING, "c": Phase.SERVING},
        backoff=Backoff(failures=2, until=190.0, reason="x"), problem="access denied",
    )  # fmt: skip
    seen = scaling_view(plan.read_plan(bench.folder), course, 100.0)
    assert seen is not None
    assert scaling_lines(seen) == [
        "scaling  1 to 3 nodes, 1 coming, 2 serving; 3 workers are wanted",
        "scaling  cannot ask for nodes from inside the job: access denied",
        "scaling  2 failures, tries again in 1m30s",
    ]


def test_a_login_node_asks_only_where_it_must(bench: Bench) -> None:
    folder = ClusterFolder(bench.folder)
    with pytest.raises(UserError, match="asks for its nodes itself"):
        growable(folder)
    plan.write_course(bench.folder, plan.Course(problem="access denied"))
    assert growable(folder).limits.max_nodes == 3
    plan.remove_plan(bench.folder)
    with pytest.raises(UserError, match="does not grow"):
        growable(folder)
