"""What `saga submit` does with a program, a list of them, or a workload; each returns the exit code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from saga_cli.options import Given
from saga_core.views import SubmitRequest, WorkflowView

if TYPE_CHECKING:
    from saga_cli.replaying import Report, Workload
    from saga_cli.runs import Run

INTERRUPTED = 130


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
