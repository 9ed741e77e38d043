"""Prometheus metrics: folded from the facts as they are recorded, gauges read when asked.

Labels are bounded by construction: outcomes and states are enumerations, models and workers
are what the cluster runs. No workflow, session or tenant ever becomes a label.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from saga_core.events import Fact, StepFinished, StepLost, WorkerLost, WorkflowEnded, WorkflowSubmitted
from saga_core.head import Head

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, float("inf"))
"""Buckets from a cached turn (tens of ms) to a queued 100k-token prefill (minutes)."""


class Metrics:
    """The registry of one head."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.registry = CollectorRegistry()
        self.registry.register(self)
        reg = self.registry
        self._steps = Counter("saga_steps", "Steps by outcome", ["outcome"], registry=reg)
        self._refused = Counter(
            "saga_steps_refused", "Steps refused before placement", ["code"], registry=reg
        )
        self._workflows = Counter("saga_workflows_ended", "Workflows by end", ["state"], registry=reg)
        self._submitted = Counter("saga_workflows_submitted", "Workflows accepted", registry=reg)
        self._tokens = Counter("saga_tokens", "Tokens of finished steps", ["kind"], registry=reg)
        self._lost = Counter("saga_workers_lost", "Workers lost while ready", registry=reg)
        self._again = Counter(
            "saga_steps_moved", "Steps placed again after their worker was lost", registry=reg
        )
        self._ignored = Counter("saga_messages_ignored", "Messages ignored", ["reason"], registry=reg)
        self._ttft = Histogram("saga_ttft_seconds", "Arrival to first byte", buckets=SECONDS, registry=reg)
        self._step_s = Histogram(
            "saga_step_seconds", "Arrival to end of a step", buckets=SECONDS, registry=reg
        )

    def fold(self, fact: Fact) -> None:
        """Count a fact."""
        match fact:
            case StepFinished():
                self._finished(fact)
            case WorkflowSubmitted():
                self._submitted.inc()
            case WorkflowEnded():
                self._workflows.labels(fact.state).inc()
            case StepLost():
                self._again.inc()
            case WorkerLost():
                self._lost.inc()
            case _:
                pass

    def _finished(self, fact: StepFinished) -> None:
        self._steps.labels(fact.outcome).inc()
        if fact.prompt_tokens is not None:
            self._tokens.labels("prompt").inc(fact.prompt_tokens)
            self._tokens.labels("cached").inc(fact.cached_tokens or 0)
            self._tokens.labels("output").inc(fact.output_tokens or 0)
        if fact.ttft_s is not None:
            self._ttft.observe(fact.ttft_s)
        self._step_s.observe(fact.duration_s)

    def refused(self, code: str) -> None:
        """Count a step that never entered the book."""
        self._refused.labels(code).inc()

    def ignored(self, reason: str) -> None:
        self._ignored.labels(reason).inc()

    def collect(self) -> Iterator[Metric]:
        """Gauges, read from the head at the moment of the scrape."""
        head = self._head
        yield GaugeMetricFamily("saga_steps_waiting", "Steps without a worker", len(head.waiting))
        yield GaugeMetricFamily("saga_steps_running", "Steps in flight", len(head.book.steps))
        yield GaugeMetricFamily("saga_workflows_live", "Workflows not ended", head.book.live)
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
