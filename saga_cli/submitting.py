"""What `saga submit` does with a program, a list of them, or a workload; each returns the exit code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from saga_cli.options import Given
from saga_core.errors import UserError
from saga_core.views import SubmitRequest, WorkflowView

if TYPE_CHECKING:
    from saga_cli.entries import Template
    from saga_cli.replaying import Report, Workload
    from saga_cli.runs import Run

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one call of `saga submit` asks for: a program, one for each line of a list, or a workload."""

    template: Template
    """Without a program: `load` is meant."""
    load: Workload
    tasks: Path | None
    results: Path | None
    retries: int
    wait: bool

    def go(self, held: Given) -> int:
        """Do it. Raises UserError for options that do not go together."""
        self._check()
        if not self.template.program:
            return replay_workload(held, self.load)
        if self.tasks is None:
            return send(held, self.template.alone(), wait=self.wait, retries=self.retries)
        from saga_cli import entries, runs

        listed = entries.read(self.tasks)
        named = Path("tasks") if str(self.tasks) == entries.STDIN else self.tasks
        into = self.results or named.with_suffix(".results.jsonl")
        run = runs.of(listed, self.template, into, retries=self.retries, at_once=self.load.concurrency)
        return run_list(held, run)

    def _check(self) -> None:
        program = bool(self.template.program)
        if bool(self.load.files or self.load.synth) == program:
            raise UserError(
                "give either a program (`saga submit -- python agent.py`), or --replay FILE, or --synth demo"
            )
        if self.tasks is not None and not program:
            raise UserError("--tasks goes with a program: it runs once per line")
        if self.tasks is None and self.results is not None:
            raise UserError("--results goes with --tasks")
        if program and self.tasks is None and self.retries and not self.wait:
            raise UserError("--retries goes with --tasks or --wait: somebody has to see that it failed")


def send(held: Given, asked: SubmitRequest, *, wait: bool, retries: int = 0) -> int:
    """Submit a program and print its number; with `wait`, its end decides the exit code.

    One that failed is submitted again up to `retries` times.
    """
    client = held.client()
    accepted = client.control.submit(asked)
    if not wait:
        # Without the key: output ends up in logs, and the program gets it from the node.
        answer = {"id": accepted.id, "name": asked.name, "log": accepted.log}
        held.renderer.show(answer, table=_accepted, quiet=lambda a: [str(a["id"])])
        return 0
    from saga_cli.commands.workflows import table_of
    from saga_cli.progress import progress

    tried: list[WorkflowView] = []
    with progress(held.renderer) as show:
        while True:
            held.renderer.note(f"workflow {accepted.id} (`saga logs {accepted.id} -f` shows its output)")
            show.phase(f"waiting for workflow {accepted.id}")
            tried += client.wait([accepted.id])
            if tried[-1].state != "failed" or len(tried) > retries:
                break
            show.say(f"workflow {accepted.id} failed ({tried[-1].reason}); once more")
            accepted = client.control.submit(asked)
    held.renderer.show(tried, table=table_of, quiet=lambda found: [str(w.id) for w in found])
    return 0 if tried[-1].state == "done" else 1


def _accepted(answer: dict[str, object]) -> str:
    return f"workflow {answer['id']} accepted; output: saga logs {answer['id']} -f"


def replay_workload(held: Given, load: Workload) -> int:
    """Replay a workload on the cluster and print its figures."""
    from saga_cli.comparison import report_table
    from saga_cli.progress import progress
    from saga_cli.replaying import run

    if load.max_context is None:
        load = replace(load, max_context=_context_of(held))
    workflows = load.load()
    with progress(held.renderer) as show:
        report = run(held.control(), load, workflows, show=show)
    held.renderer.show(report, table=lambda r: report_table([r]), quiet=_ids)
    if report.summary.interrupted:
        return INTERRUPTED
    return 0 if report.ok else 1


def _context_of(held: Given) -> int | None:
    """The longest context of the cluster's workers, in tokens."""
    length = (held.folder.settings() or {}).get("workers.max_model_len")
    return length if isinstance(length, int) and length > 0 else None


def _ids(report: Report) -> list[str]:
    return [str(w.id) for w in report.workflows if w.id is not None]


def run_list(held: Given, run: Run) -> int:
    """Run a list of programs and print what became of them."""
    from saga_cli.progress import progress
    from saga_cli.tables import pairs

    with progress(held.renderer) as show:
        outcome = run.go(held.client(), show)
    held.renderer.show(
        outcome,
        table=lambda o: pairs({name: str(value) for name, value in o.items()}),
        quiet=lambda o: [str(o["results"])],
    )
    if outcome["interrupted"]:
        return INTERRUPTED
    return 0 if outcome["done"] == outcome["programs"] else 1
