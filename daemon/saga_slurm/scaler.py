"""The doer beside a head: looks, decides (`elastic`), asks Slurm for nodes, has nodes drained, ends an idle cluster.

Rules of this file
  1. Only beside the head: where another job has it, this process rests.
  2. What is known is in the folder: a scaler that starts anew, here or elsewhere, goes on with the course.
  3. Before anything is asked for, Slurm is asked what there is.
  4. One that only asks runs elsewhere, where the head's machine may not ask Slurm: it gives nothing back, ends nothing
     and keeps no course.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec.structs import replace

from saga_core.errors import SagaError
from saga_core.views import ClusterView
from saga_shell import cluster, log
from saga_slurm import jobs, plan
from saga_slurm.allocation import Allocation, Role
from saga_slurm.backend import Backend
from saga_slurm.elastic import Backoff, Decision, Demand, End, Grow, Hold, Phase, Release, decide
from saga_slurm.facts import SlurmAway
from saga_slurm.jobs import Standing
from saga_slurm.plan import Course, Plan
from saga_slurm.scene import Own, joined_of, scene_of, wanted

ASK_S: Final = 10.0
"""Between two questions to a controller that thousands share."""
DRAIN_S: Final = 300.0
"""For steps that compute and sessions in a tool to come to their end on nodes that leave (as in a succession)."""
GRACE_S: Final = 60.0
"""From the end of the drain until an allocation whose script does not end is cancelled."""
CLOSE_S: Final = 60.0
"""For what came in while an idle cluster was being ended."""


class HeadDoor(Protocol):
    """The head's control API (`saga_slurm.head`)."""

    def look(self, folder: Path) -> ClusterView | None: ...
    def remove(self, folder: Path, node: str, *, reason: str, within_s: float) -> None: ...
    def shut_down(self, folder: Path, *, within_s: float) -> bool: ...


class Scaler:
    """One cluster's. `step` is one look and what follows from it."""

    def __init__(
        self, folder: Path, backend: Backend, door: HeadDoor, *, job: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """job: in which it runs, and beside whose head it acts; None: it only asks. clock: seconds since the epoch."""
        self._folder, self._backend, self._door, self._clock = folder, backend, door, clock
        self._own_job, self._job = job, job or ""
        self._serves_since: float | None = None
        self._demand = Demand(0.0)
        self._standings: list[Standing] = []
        self._asked_at = float("-inf")
        self._left_at: dict[str, float] = {}
        self.course = plan.read_course(folder) if job is not None else Course()

    def note_problem(self, problem: str) -> None:
        """That nodes cannot be asked for from here, and why; empty: they can."""
        if problem:
            log.warning("cannot ask for nodes", problem=problem)
        self._write(problem=problem)

    async def step(self) -> bool:
        """Look, decide, do; whether there is more to do."""
        wanted_plan = plan.read_plan(self._folder)
        if wanted_plan is None or self.course.ended:
            return False
        view = await asyncio.to_thread(self._look)
        if view is None:
            self._demand.forget()
            return True
        self._note(view, wanted_plan)
        await self._ask()
        decision = self._decide(view, wanted_plan)
        if not isinstance(decision, Hold):
            await self._ask(now=True)
            decision = self._decide(view, wanted_plan)
        await self._do(decision, view, wanted_plan)
        await self._dismiss()
        return not self.course.ended

    def _look(self) -> ClusterView | None:
        """None while there is no head, or another job has it."""
        access = cluster.read_access(self._folder)
        if access is None or access.job != (self._own_job or access.job):
            return None
        self._job = access.job
        return self._door.look(self._folder)

    def _note(self, view: ClusterView, wanted_plan: Plan) -> None:
        now, pace = self._clock(), wanted_plan.site.scaling
        self._demand.keep_s = max(pace.grow_after_s, wanted_plan.limits.spare_s(pace))
        self._demand.note(now, wanted(view))
        if self._serves_since is None and any(model.ready for model in view.backlog):
            self._serves_since = now

    async def _ask(self, *, now: bool = False) -> None:
        if not now and self._clock() - self._asked_at < ASK_S:
            return
        self._standings = await jobs.standing(self._backend, self._folder)
        self._asked_at = self._clock()

    def _decide(self, view: ClusterView, wanted_plan: Plan) -> Decision:
        own = self._own(wanted_plan)
        self._follow(view, wanted_plan, own)
        scene = scene_of(view, self._standings, self.course.joined, own, self._clock())
        pace = wanted_plan.site.scaling
        return decide(scene, wanted_plan.limits, pace, self._demand, self.course.backoff)

    def _own(self, wanted_plan: Plan) -> Own:
        return Own(
            job=self._job,
            workers_per_node=int(wanted_plan.join.settings["workers.count"]),
            serves_since=self._serves_since,
            ends_at=self._ends_at(),
        )

    def _ends_at(self) -> float | None:
        """Of the head's job, if nobody comes after it."""
        live = [each.record.allocation for each in self._standings if each.live]
        if any(each.predecessor_job == self._job and not each.spare for each in live):
            return None
        mine = (each.job for each in self._standings if each.record.job == self._job)
        return next((job.ends_at for job in mine if job is not None), None)

    def _follow(self, view: ClusterView, wanted_plan: Plan, own: Own) -> None:
        """Keep the course in step with what has become of the allocations."""
        was, backoff = self.course.joined, self.course.backoff
        live = [each for each in self._standings if each.live and each.record.allocation.grown]
        seen = [joined_of(view, each, was.get(each.record.tag), own.workers_per_node) for each in live]
        for each in seen:
            if each.phase is Phase.SERVING and was.get(each.tag) is not Phase.SERVING:
                backoff = Backoff()
                log.info("joined", tag=each.tag, nodes=each.nodes)
        for tag in was.keys() - {each.tag for each in seen}:
            if was[tag] is Phase.COMING:
                backoff = backoff.after(self._end_of(tag), self._clock(), wanted_plan.site.scaling)
            log.info("gone", tag=tag, was=was[tag])
        self._write(joined={each.tag: each.phase for each in seen}, backoff=backoff)

    def _end_of(self, tag: str) -> str:
        found = next((each for each in self._standings if each.record.tag == tag), None)
        if found is None or found.job is None:
            return "the job of a further node is gone"
        job = found.job
        words = f"{job.state} ({job.reason})" if job.reason else str(job.state)
        return f"job {job.id} ended before it served: {words}; see log/slurm-{job.id}.out"

    def _write(self, **changes: object) -> None:
        """The course, if it is another one now."""
        if all(getattr(self.course, name) == value for name, value in changes.items()):
            return
        self.course = replace(self.course, at=self._clock(), **changes)
        if self._own_job is not None:
            plan.write_course(self._folder, self.course)

    async def _do(self, decision: Decision, view: ClusterView, wanted_plan: Plan) -> None:
        if self._own_job is None and not isinstance(decision, Grow):
            return
        match decision:
            case Hold(why):
                self._write(why=why)
            case Grow(nodes, why):
                await self._grow(nodes, why, wanted_plan)
            case Release(tags, why, failed):
                if failed:
                    self._fail(f"a further node {why}", wanted_plan)
                await self._release(tags, why, view)
            case End(why):
                await self._end(why)

    async def _grow(self, nodes: int, why: str, wanted_plan: Plan) -> None:
        """One allocation for each node: small ones start sooner, and fail and leave alone."""
        log.info("grows", nodes=nodes, why=why)
        self._write(doing=f"asked for {nodes} more", why=why)
        for _ in range(nodes):
            try:
                record = await jobs.submit(
                    self._backend, self._folder, self._join(wanted_plan), wanted_plan.site
                )
            except SlurmAway as error:
                self._fail(f"Slurm is away: {error}", wanted_plan)
                return
            except SagaError as error:
                self._fail(str(error), wanted_plan)
                return
            self._write(joined=self.course.joined | {record.tag: Phase.COMING}, problem="")
            self._asked_at = float("-inf")

    def _join(self, wanted_plan: Plan) -> Allocation:
        """As planned, but for no longer than the cluster itself has."""
        join, ends_at = wanted_plan.join, self._ends_at()
        time_s = join.time_s if ends_at is None else int(max(60, min(join.time_s, ends_at - self._clock())))
        return replace(join, tag=uuid.uuid4().hex, grown=True, time_s=time_s)

    def _fail(self, reason: str, wanted_plan: Plan) -> None:
        backoff = self.course.backoff.after(reason, self._clock(), wanted_plan.site.scaling)
        log.warning("failed", reason=reason, failures=backoff.failures)
        self._write(doing="failed", backoff=backoff)

    async def _release(self, tags: Sequence[str], why: str, view: ClusterView) -> None:
        log.info("releases", tags=list(tags), why=why)
        phases = self.course.joined | dict.fromkeys(tags, Phase.LEAVING)
        self._write(doing=f"gives {len(tags)} back", why=why, joined=phases)
        for each in self._standings:
            if each.record.tag in tags:
                await self._let_go(each, why, view)

    async def _let_go(self, each: Standing, why: str, view: ClusterView) -> None:
        """Its daemons end once they are drained, and its script with them; without any there is nothing to wait for."""
        mine = [
            node.id for node in view.nodes if node.id.startswith(f"{each.record.job}.") and node.state == "up"
        ]
        if not mine:
            await self._backend.cancel([each.record.job])
        for node in mine:
            await asyncio.to_thread(
                self._door.remove, self._folder, node, reason=f"no longer wanted: {why}", within_s=DRAIN_S
            )

    async def _dismiss(self) -> None:
        """Cancel what was to leave and does not end."""
        now = self._clock()
        leaving = {tag for tag, phase in self.course.joined.items() if phase is Phase.LEAVING}
        self._left_at = {tag: self._left_at.get(tag, now) for tag in leaving}
        late = {tag for tag, at in self._left_at.items() if now - at > DRAIN_S + GRACE_S}
        self._left_at |= dict.fromkeys(late, now)
        await self._backend.cancel([each.record.job for each in self._standings if each.record.tag in late])

    async def _end(self, why: str) -> None:
        """As `saga down --drain` does: what waits is cancelled, the head ends the nodes, the scripts end with them."""
        log.info("ends", why=why)
        await self._backend.cancel([each.record.job for each in self._standings if self._would_stay(each)])
        if await asyncio.to_thread(self._door.shut_down, self._folder, within_s=CLOSE_S):
            self._write(doing="ended the cluster", why=why, ended=why)

    def _would_stay(self, each: Standing) -> bool:
        """Whether a job would not end with the head: it waits, has no daemon yet, or would begin a head of its own."""
        if not each.live or each.job is None or each.record.job == self._job:
            return False
        coming = self.course.joined.get(each.record.tag) is Phase.COMING
        return each.job.waiting or coming or each.record.allocation.role is Role.CLUSTER
