"""The head under any order of any events: it never contradicts itself, and its facts rebuild its book."""

from __future__ import annotations

import hypothesis.strategies as st
from core_rig import PROGRAM, config, dump, facts, program, worker
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from saga_core import snapshot, wire
from saga_core.book import Book
from saga_core.events import (
    CancelAsked,
    DrainAsked,
    FinishAsked,
    HeadStarted,
    Outcome,
    ProfileChanged,
    StepArrived,
    StepFinished,
    StepLost,
    Tick,
    UndrainAsked,
    WorkflowSubmitted,
)
from saga_core.head import Head
from saga_core.policy.profiles import PROFILES
from saga_core.states import WorkerState, WorkflowState
from saga_core.told import Told

NODES = st.sampled_from(["n1", "n2", "n3"])
WORKERS = st.sampled_from(["n1/0", "n1/1", "n2/0", "n3/0"])
NUMBERS = st.integers(0, 12)
STEPS = st.integers(0, 25)
FEW = st.integers(1, 3)
SESSIONS = st.sampled_from(["main", "a", ""])
MODELS = st.sampled_from(["m", "other"])
TENANTS = st.sampled_from(["t", "u"])
TOOLS = st.sampled_from(["", "-", "bash"])
SAID = st.none() | st.builds(
    Told, work_s=st.sampled_from([0.0, 2.0]), steps=st.integers(0, 3), instance=TENANTS
)
COUNTS = st.none() | st.integers(-5, 10**6)
ENDS = st.sampled_from([None, None, 5.0, 125.0, 1000.0, -3.0, float("nan"), float("inf")])
LOADS = st.sampled_from([0.0, 0.5, 0.9, 1.0, float("nan"), -3.0])


class HeadUnderFire(RuleBasedStateMachine):
    """Every event is well-typed and otherwise arbitrary; ids are few, so that they meet."""

    @initialize(profile=st.sampled_from(sorted(PROFILES)), retries=st.integers(0, 1))
    def start(self, profile, retries):
        limits = {"queue_timeout_s": 20, "max_waiting": 6, "max_step_losses": 1, "idle_workflow_s": 30}
        self.config = config(profile, program_retries=retries, **limits)
        self.now, self.kept, self.fed = 100.0, [], []
        self.head = Head(self.config)
        self.feed(HeadStarted(incarnation=1, version="1"))

    def feed(self, event, after=0.0):
        self.now += after
        actions = self.head.handle(event, now=self.now)
        self.fed.append((event, self.now, actions))
        self.kept += [(self.head.now, fact) for fact in facts(actions)]
        note(f"{self.now} {event}")

    # -- clients -------------------------------------------------------------------------

    @rule(has_program=st.booleans(), off=st.sampled_from([1, 1, 1, 0, 5]), tenant=TENANTS)
    def submit(self, has_program, off, tenant):
        number = self.head.book.last_workflow + off
        wanted = PROGRAM if has_program else None
        self.feed(WorkflowSubmitted(workflow=number, tenant=tenant, token="", kind="x", program=wanted))

    @rule(
        workflow=st.none() | NUMBERS,
        key=st.sampled_from(["", "k"]),
        session=SESSIONS,
        tenant=TENANTS,
        model=MODELS,
        again=st.booleans(),
        tool=TOOLS,
        told=SAID,
    )
    def arrive(self, workflow, key, session, tenant, model, again, tool, told):
        number = self.head.book.last_step + (not again)
        self.feed(
            StepArrived(
                step=number,
                tenant=tenant,
                model=model,
                workflow=workflow,
                key=key,
                session=session,
                tool=tool,
                told=told,
            )
        )

    @rule(step=STEPS, outcome=st.sampled_from(list(Outcome)), prompt=COUNTS, output=COUNTS, tool=TOOLS)
    def finish(self, step, outcome, prompt, output, tool):
        self.feed(
            StepFinished(step=step, outcome=outcome, prompt_tokens=prompt, output_tokens=output, tool=tool)
        )

    @rule(step=STEPS, at=WORKERS, right=st.booleans())
    def lose(self, step, at, right):
        known = self.head.book.steps.get(step)
        at = known.worker if right and known is not None and known.worker is not None else at
        self.feed(StepLost(step=step, worker=at))

    @rule(workflow=NUMBERS)
    def cancel(self, workflow):
        self.feed(CancelAsked(workflow=workflow))

    @rule(workflow=NUMBERS, state=st.sampled_from(list(WorkflowState)))
    def end(self, workflow, state):
        self.feed(FinishAsked(workflow=workflow, state=state))

    # -- nodes ---------------------------------------------------------------------------

    @rule(node=NODES, incarnation=FEW, protocol=st.sampled_from([1, 1, 1, 2]), slots=st.integers(0, 2))
    def hello(self, node, incarnation, protocol, slots):
        self.feed(
            wire.Hello(
                protocol=protocol,
                version="1",
                node=node,
                incarnation=incarnation,
                host="h",
                program_slots=slots,
            )
        )

    @rule(
        node=NODES,
        incarnation=FEW,
        ahead=st.integers(-2, 2),
        since=st.integers(0, 1),
        data=st.data(),
        names=st.lists(WORKERS, max_size=4),
    )
    def report(self, node, incarnation, ahead, since, data, names):
        known = self.head.fleet.nodes.get(node)
        seq = max(1, (known.seq if known is not None else 0) + ahead)
        fact = st.builds(
            worker,
            st.sampled_from(names or ["n1/0"]),
            st.sampled_from(list(WorkerState)),
            FEW,
            model=MODELS,
            kv_usage=LOADS,
            max_seqs=st.integers(-1, 3),
        )
        shown = st.builds(program, NUMBERS, FEW, exited=st.booleans(), exit_code=st.none() | st.just(0))
        held = st.builds(
            wire.ResidentFact, WORKERS, st.sampled_from(["1.main", "2.a", "x"]), st.integers(-1, 9)
        )
        self.feed(
            wire.Report(
                node=node,
                incarnation=incarnation,
                seq=seq,
                since=since * seq,
                workers=data.draw(st.lists(fact, max_size=4)),
                programs=data.draw(st.lists(shown, max_size=4)),
                resident=data.draw(st.lists(held, max_size=4)),
            )
        )

    @rule(node=NODES, data=st.data(), ends_in_s=ENDS)
    def good_report(self, node, data, ends_in_s):
        """What an honest node would say: it does most of what it is told."""
        known = self.head.fleet.nodes.get(node)
        if known is None:
            self.feed(wire.Hello(protocol=1, version="1", node=node, incarnation=1, host="h"))
            known = self.head.fleet.nodes[node]
        given = [n for n in self.head.programs.at_node.get(node, ()) if data.draw(st.booleans())]
        attempts = {n: self.head.book.workflows[n].attempt for n in given}
        ended = {n: data.draw(st.booleans()) for n in given}
        self.feed(
            wire.Report(
                node=node,
                incarnation=known.incarnation,
                seq=known.seq + 1,
                workers=[worker(f"{node}/0", incarnation=2, values=True)],
                programs=[program(n, attempts[n], exited=ended[n], exit_code=0) for n in given],
                resident=[wire.ResidentFact(f"{node}/0", s, 9) for s in list(self.head.book.sessions)[:2]],
                ends_in_s=ends_in_s,
            )
        )

    @rule(node=NODES, incarnation=FEW)
    def goodbye(self, node, incarnation):
        self.feed(wire.Goodbye(node=node, incarnation=incarnation))

    @rule(name=WORKERS, head=FEW, version=st.integers(0, 30))
    def valued(self, name, head, version):
        self.feed(wire.Valued(node=name[:2], incarnation=1, head=head, worker=name, version=version))

    @rule(node=NODES, within_s=st.sampled_from([None, 0.0, 4.0]), remove=st.booleans())
    def drain(self, node, within_s, remove):
        self.feed(DrainAsked(node=node, within_s=within_s, remove=remove))

    @rule(node=NODES)
    def undrain(self, node):
        self.feed(UndrainAsked(node=node))

    # -- time and the head itself ----------------------------------------------------------

    @rule(after=st.sampled_from([0.0, 0.1, 2.5, 6.0, 25.0, -3.0]))
    def tick(self, after):
        self.feed(Tick(), after)

    @rule(profile=st.sampled_from([*sorted(PROFILES), "none such"]))
    def profile(self, profile):
        self.feed(ProfileChanged(profile=profile))

    @rule(incarnation=st.integers(0, 5))
    def start_twice(self, incarnation):
        self.feed(HeadStarted(incarnation=incarnation, version="1"))

    @precondition(lambda self: len(self.fed) > 10)
    @rule(through_snapshot=st.booleans())
    def restart(self, through_snapshot):
        self.same_again()
        book = (
            snapshot.decode(snapshot.encode(self.head.book), "test") if through_snapshot else self.rebuilt()
        )
        assert dump(book) == dump(self.head.book)
        self.fed, self.before = [], snapshot.encode(book)
        self.head = Head(self.config, book=book)
        self.feed(HeadStarted(incarnation=book.head + 1, version="1"))

    # -- what always holds -----------------------------------------------------------------

    def rebuilt(self):
        book = Book(self.config.profile)
        for at, fact in self.kept:
            book.apply(fact, at)
        return book

    @invariant()
    def nothing_contradicts_itself(self):
        self.head.check()

    def same_again(self):
        """The same events at the same times give the same actions."""
        before = getattr(self, "before", None)
        twin = Head(self.config, book=None if before is None else snapshot.decode(before, "test"))
        for event, now, actions in self.fed:
            assert twin.handle(event, now=now) == actions

    def teardown(self):
        if hasattr(self, "head"):
            self.same_again()
            assert dump(self.rebuilt()) == dump(self.head.book)


TestHeadUnderFire = HeadUnderFire.TestCase
