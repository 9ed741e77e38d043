"""Prometheus metrics: folded from the facts as they are recorded, gauges read when asked.

Counting is plain arithmetic, since it happens for every step; the library of Prometheus only
writes the exposition. Labels are bounded by construction: outcomes and states are enumerations, models and workers
are what the cluster runs. No workflow, session or tenant ever becomes a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from saga_core.aeg.scores import pooled, summary
from saga_core.events import (
    Fact,
    SessionMoved,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkerLost,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.fairness import Fairness, FairnessFigures
from saga_core.head import Head
from saga_core.tallies import Tallies

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""Upper bounds of buckets, from a cached turn (tens of ms) to a queued 100k-token prefill (minutes)."""


class Histogram:
    """Seconds by bucket."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum_s = 0.0

    def observe(self, value_s: float) -> None:
        self._counts[bisect_left(SECONDS, value_s)] += 1
        self._sum_s += value_s

    def family(self, name: str, text: str) -> Metric:
        """Cumulative, as the exposition wants it."""
        family = HistogramMetricFamily(name, text)
        total, buckets = 0, []
        for bound, count in zip([*map(str, map(float, SECONDS)), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric([], buckets, self._sum_s)
        return family


class Metrics:
    """What one head counts."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._fairness = Fairness(head.accounts, head.config.admission.grace_s)
        self.tallies = Tallies(head.book)
        self._steps: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._workflows: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._identified: Counter[str] = Counter()
        self._migrations: Counter[str] = Counter()
        self._migrated: Counter[str] = Counter()
        self._submitted = self._lost = self._moved = self._resumed = 0
        self._ttft, self._step_s = Histogram(), Histogram()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def fold(self, fact: Fact, at: float) -> None:
        """Count a fact, which the head applied at `at` seconds."""
        if type(fact) is WorkflowEnded:
            self.tallies.ended(fact, self._fairness.life(fact.workflow, at), at)
        self._fairness.saw(at, fact)
        match fact:
            case StepFinished():
                self._finished(fact)
            case StepArrived() | StepPlaced():
                pass  # the two others of every step
            case WorkflowSubmitted():
                self._submitted += 1
            case WorkflowEnded():
                self._workflows[fact.state] += 1
            case StepLost():
                self._moved += 1
                self._resumed += fact.begun
            case WorkerLost():
                self._lost += 1
            case SessionMoved():
                self._migrations["failed" if fact.failed else "done"] += 1
                self._migrated["tokens"] += fact.tokens
                self._migrated["bytes"] += fact.copied_bytes
            case _:
                pass

    def _finished(self, fact: StepFinished) -> None:
        self._steps[fact.outcome] += 1
        if fact.prompt_tokens is not None:
            self._tokens["prompt"] += fact.prompt_tokens
            self._tokens["cached"] += fact.cached_tokens or 0
            self._tokens["output"] += fact.output_tokens or 0
        if fact.ttft_s is not None:
            self._ttft.observe(fact.ttft_s)
        self._step_s.observe(fact.duration_s)

    def refused(self, code: str) -> None:
        """Count a step that never entered the book."""
        self._refused[code] += 1

    def identified(self, rule: str) -> None:
        """Count how a caller was recognised: a name of `saga_core.identity.RULES`, or one behind `token+`."""
        self._identified[rule] += 1

    def ignored(self, reason: str) -> None:
        """Count a message or call that changed nothing."""
        self._ignored[reason] += 1

    def collect(self) -> Iterator[Metric]:
        """Everything, at the moment of the scrape."""
        yield _counter("saga_steps", "Steps by outcome", "outcome", self._steps)
        yield _counter("saga_steps_refused", "Steps refused before placement", "code", self._refused)
        yield _counter("saga_workflows_ended", "Workflows by end", "state", self._workflows)
        yield _counter("saga_tokens", "Tokens of finished steps", "kind", self._tokens)
        yield _counter("saga_messages_ignored", "Messages ignored", "reason", self._ignored)
        yield _counter("saga_steps_identified", "Steps by identity rule", "rule", self._identified)
        yield CounterMetricFamily("saga_workflows_submitted", "Workflows accepted", self._submitted)
        yield CounterMetricFamily("saga_workers_lost", "Workers lost while ready", self._lost)
        moved = "Steps placed again after their worker was lost"
        yield CounterMetricFamily("saga_steps_moved", moved, self._moved)
        yield _counter("saga_migrations", "Sessions whose KV was to be moved", "outcome", self._migrations)
        yield _counter("saga_migrated", "KV that was moved to new homes", "unit", self._migrated)
        resumed = "Of these, steps whose answer had begun"
        yield CounterMetricFamily("saga_steps_resumed", resumed, self._resumed)
        yield self._ttft.family("saga_ttft_seconds", "Arrival to first byte")
        yield self._step_s.family("saga_step_seconds", "Arrival to end of a step")
        yield from self._gauges()
        yield from _gate(self._head)
        yield from _rooms(self._head)
        yield from _predictions(self._head)
        yield from _fair(self._fairness.figures())

    def _gauges(self) -> Iterator[Metric]:
        head = self._head
        yield GaugeMetricFamily("saga_steps_waiting", "Steps without a worker", len(head.waiting))
        yield GaugeMetricFamily("saga_steps_running", "Steps in flight", len(head.book.steps))
        yield GaugeMetricFamily("saga_workflows_live", "Workflows not ended", head.book.live)
        idle_s = head.idle_s or 0.0
        yield GaugeMetricFamily(
            "saga_idle_seconds", "Time without a step or a program; 0: there is one", idle_s
        )
        yield from _backlog(head)
        for name, text in (
            ("load", "Load of a worker, 0 to 1"),
            ("kv_usage", "Share of KV blocks pinned, 0 to 1"),
            ("placed", "Steps of ours in flight on a worker"),
        ):
            family = GaugeMetricFamily(f"saga_worker_{name}", text, labels=["worker", "model"])
            for worker in head.fleet.workers.values():
                family.add_metric([worker.id, worker.model], getattr(worker, name))
            yield family
        states = GaugeMetricFamily("saga_worker_up", "1 when a worker is ready", labels=["worker", "state"])
        for worker in head.fleet.workers.values():
            states.add_metric([worker.id, worker.state], float(worker.state == "ready"))
        yield states

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _gate(head: Head) -> Iterator[Metric]:
    """Who waits, by model, and what became of those who asked."""
    steps = _gauge("saga_gate_steps_held", "Steps at the gate", "model")
    held = _gauge("saga_gate_sessions_held", "Sessions at the gate with a step", "model")
    paused = _gauge("saga_gate_sessions_paused", "Sessions paused, with a step or without", "model")
    for model, gate in head.gates.items():
        sessions = gate.counts()
        for family, value in ((steps, gate.waiting), (held, sessions[0]), (paused, sessions[1])):
            family.add_metric([model], value)
    virtual = CounterMetricFamily(
        "saga_virtual_seconds", "Virtual time: fair shares served", labels=["model"]
    )
    for model in head.fleet.pools:
        virtual.add_metric([model], head.accounts.virtual_s(model))
    yield from (steps, held, paused, virtual)
    yield _counter("saga_decisions", "Decisions about steps and sessions", "verdict", head.decisions.totals)


def _backlog(head: Head) -> Iterator[Metric]:
    """What a cluster grows and shrinks by."""
    wanted = _gauge("saga_workers_wanted", "Workers with the memory that all sessions need", "model")
    ready = _gauge("saga_workers_ready", "Workers that take new sessions", "model")
    for item in head.backlog():
        wanted.add_metric([item.model], item.wanted)
        ready.add_metric([item.model], item.ready)
    yield from (wanted, ready)


def _rooms(head: Head) -> Iterator[Metric]:
    """What the gate counts of each worker's memory."""
    need = _gauge("saga_worker_need_tokens", "Tokens that live sessions need", "worker", "model")
    limit = _gauge("saga_worker_limit_tokens", "Tokens that they may need", "worker", "model")
    factor = _gauge("saga_worker_limit_factor", "The limit as a multiple of memory", "worker", "model")
    live = _gauge("saga_worker_sessions", "Sessions let in, in a tool too", "worker", "model")
    for model, gate in head.gates.items():
        for room in gate.rooms.values():
            names = [room.id, model]
            need.add_metric(names, room.need(head.now))
            if room.room(1.0) < inf:
                limit.add_metric(names, room.room(1.0))
            factor.add_metric(names, room.factor)
            live.add_metric(names, len(room.live))
    yield from (need, limit, factor, live)


def _fair(seen: FairnessFigures) -> Iterator[Metric]:
    """The bound of docs/fairness.md against what happened to the workflows that ended."""
    text = "Ended workflows that waited for more work of others than the bound grants"
    yield CounterMetricFamily("saga_fairness_violations", text, seen.violations)
    yield CounterMetricFamily(
        "saga_fairness_overdue", "Ended workflows later than a fair share", seen.overdue
    )
    text = "(end - when a fair share would have finished it) / its life without waiting, of ended workflows"
    lateness = _gauge("saga_fairness_lateness", text, "quantile")
    lateness.add_metric(["0.99"], seen.lateness_p99)
    lateness.add_metric(["1"], seen.lateness_max)
    yield lateness


def _predictions(head: Head) -> Iterator[Metric]:
    """How predictions fared, over all agent types: the sorts of prediction are a fixed list."""
    programs = head.accounts.learner.memory.programs.by_name.values()
    count = _gauge("saga_predictions", "Predictions scored of late", "what")
    error = _gauge("saga_prediction_error", "Mean |log(predicted / happened)|; of tools, share wrong", "what")
    rule = _gauge("saga_prediction_rule_error", "The same of a simple rule", "what")
    within = _gauge("saga_prediction_within", "Share within the 10-90 % band; of tools, share right", "what")
    for score in summary(pooled(program.tallies for program in programs)):
        values = (score.count, score.error, score.rule_error, score.within)
        for family, value in zip((count, error, rule, within), values, strict=True):
            family.add_metric([score.what], value)
    yield from (count, error, rule, within)
