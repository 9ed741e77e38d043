"""What `saga explain` is told: decisions in words, the account, and what is expected. Built when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from saga_core.accounts import Account
from saga_core.aeg import Estimate
from saga_core.aeg.scores import Score, summary
from saga_core.book import Workflow
from saga_core.decisions import Decision
from saga_core.explanation import (
    AccountView,
    CandidateView,
    DecisionView,
    EstimateView,
    Explanation,
    ForecastView,
)
from saga_core.head import Head
from saga_core.ids import StepId, WorkflowId
from saga_core.policy.ordering import virtual_finish
from saga_core.reasons import otherwise, why
from saga_head import show


def of_workflow(head: Head, workflow: Workflow, now: float) -> Explanation:
    """All about one workflow."""
    return _explained(head, workflow, head.decisions.of(workflow.id), None, now)


def of_step(head: Head, step: StepId, now: float) -> Explanation | None:
    """All about one step; None where nothing is known of it (any more)."""
    made = head.decisions.of_step(step)
    in_flight = head.book.steps.get(step)
    number = in_flight.workflow if in_flight is not None else made[0].workflow if made else None
    if not made and in_flight is None:
        return None
    workflow = head.book.workflows.get(number) if number else None
    return _explained(head, workflow, made, step, now)


def _explained(
    head: Head, workflow: Workflow | None, made: list[Decision], step: StepId | None, now: float
) -> Explanation:
    account = head.accounts.of(workflow.id) if workflow is not None else None
    step_s = (
        account.attained_s / workflow.steps if account is not None and workflow and workflow.steps else 0.0
    )
    return Explanation(
        profile=head.book.profile,
        order=head.profile.key.__name__.replace("_", " "),
        step=step,
        workflow=show.workflow(head, workflow, now) if workflow is not None else None,
        decisions=[_decision(head, item, step_s) for item in made],
        account=_account(head, workflow.id, account)
        if workflow is not None and account is not None
        else None,
        sessions=[_forecast(head, workflow, name, now) for name in workflow.sessions]
        if workflow is not None and workflow.live
        else [],
        scores=list(_scores(head, workflow)) if workflow is not None else [],
    )


def _decision(head: Head, made: Decision, step_s: float) -> DecisionView:
    return DecisionView(
        at=made.at,
        since_at=made.since,
        times=made.times,
        verdict=made.verdict,
        session=made.session,
        step=made.step,
        worker=made.worker,
        why=why(made),
        otherwise=otherwise(made, head.config.costs, step_s),
        key=made.key,
        candidates=[CandidateView(worker=worker, score=score) for worker, score in made.scores],
    )


def _account(head: Head, workflow: WorkflowId, account: Account) -> AccountView:
    learner = head.accounts.learner
    return AccountView(
        weight=account.weight,
        attained_s=account.attained_s,
        born_s=account.born_v,
        virtual_s=_virtual_s(head, workflow),
        finish_s=virtual_finish(account, 0),
        total=_estimate(learner.total_work(workflow)),
        remaining=_estimate(learner.remaining_work(workflow)),
        steps=_estimate(learner.remaining_steps(workflow)),
    )


def _virtual_s(head: Head, workflow: WorkflowId) -> float:
    services = head.accounts.services.values()
    return next(service.virtual_s for service in services if workflow in service.accounts)


def _forecast(head: Head, workflow: Workflow, name: str, now: float) -> ForecastView:
    session = workflow.sessions[name]
    learner, number = head.accounts.learner, workflow.id
    found = show.claim_of(head, session)
    waits_s = show.waits_s(found, now)
    away_s = _away_s(head, workflow, name, now)
    tool, probability = learner.next_tool(number, name)
    return ForecastView(
        id=session.id,
        gate=show.standing(found),
        waits_s=waits_s,
        key=head.profile.key(found[1].account, found[1].tokens) if found is not None else None,
        ahead=_ahead(found),
        needs_tokens=_needs(found),
        next_tool=tool,
        next_tool_probability=probability,
        returns_s=None if away_s is None else _estimate(learner.return_in(number, name, away_s)),
        growth_tokens=_estimate(learner.growth(number, name)),
        output_tokens=_estimate(learner.output(number, name)),
        end_probability=learner.end_probability(number, name, away_s or 0.0),
    )


def _away_s(head: Head, workflow: Workflow, name: str, now: float) -> float | None:
    """How long the session has been in a tool; None: it is not."""
    found = head.accounts.learner.memory.session(workflow.id, name)
    if found is None or found[1].ended_at is None:
        return None
    return max(0.0, now - found[1].ended_at)


def _ahead(found: show.Found) -> int | None:
    if found is None or not found[1].waiting:
        return None
    gate, claim = found
    return gate.before(claim)


def _needs(found: show.Found) -> int | None:
    """What the gate counts it with."""
    if found is None:
        return None
    return max(0, found[1].tokens - found[1].shared) + found[0].policy.reserve_tokens


def _scores(head: Head, workflow: Workflow) -> Iterable[Score]:
    program = head.accounts.learner.memory.programs.by_name.get((workflow.tenant, workflow.agent_type))
    return summary(program.tallies) if program is not None else ()


def _estimate(found: Estimate) -> EstimateView:
    return EstimateView(
        mean=found.mean, low=found.low, high=found.high, source=found.source, samples=found.samples
    )
