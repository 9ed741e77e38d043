"""`saga ps`, `inspect`, `explain`, `logs`, `wait`, `cancel`: workflows that are there already."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_core.views import WorkflowView

Selector = Annotated[str, typer.Argument(help="last, all, 3, 3-7, or a list: 1,4-6.", metavar="SELECTOR")]


EXAMPLES = {
    "ps": (
        "saga ps             # those that run",
        "saga ps --all       # the ended ones too",
        "saga ps 3-7,last",
    ),
    "inspect": ("saga inspect last   # its sessions, tokens, state",),
    "explain": (
        "saga explain last    # why it waits or went where it went",
        "saga explain saga-12  # one step, by its x-request-id",
    ),
    "logs": ("saga logs last -f    # the output of its program, until it ends",),
    "wait": (
        "saga wait all                # exit code 0 once every one is done",
        "saga wait 3-7 --timeout 600",
    ),
    "cancel": ("saga cancel 4", "saga cancel all"),
    "events": (
        "saga events -f                      # what happens, as it happens",
        "saga events last                    # of one workflow",
        "saga events -f --output json | jq   # one value per line",
    ),
}


def declare(app: typer.Typer) -> None:
    for function in (ps, inspect, explain, logs, wait, cancel, events):
        command(app, function.__name__, examples=EXAMPLES[function.__name__])(function)


def ps(
    ctx: typer.Context,
    selector: Annotated[str | None, typer.Argument(help="last, all, 3, 3-7, or a list: 1,4-6.")] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="The ended ones too.")] = False,
) -> None:
    """List workflows."""
    found = given(ctx).client().workflows(selector or "all")
    show_workflows(ctx, found if all_ or selector else [w for w in found if not ended(w)])


def inspect(ctx: typer.Context, workflow: Selector) -> None:
    """Show one workflow with its sessions."""
    from saga_cli.tables import workflow_details

    client = given(ctx).client()
    found = client.workflow(client.only(workflow))
    given(ctx).renderer.show(
        found, table=lambda w: workflow_details(w, time.time()), quiet=lambda w: [w.state]
    )


def explain(
    ctx: typer.Context,
    which: Annotated[
        str,
        typer.Argument(
            help="A workflow (last, 3), or a step by its x-request-id (saga-12).", metavar="WORKFLOW|STEP"
        ),
    ],
) -> None:
    """Say why steps went where they went or wait, and what is expected.

    The latest decisions with what would have been otherwise, the account, predictions and how past ones fared.
    """
    from saga_cli.explaining import explanation_view, verdicts

    found = given(ctx).client().explain(which)
    given(ctx).renderer.show(found, table=lambda e: explanation_view(e, time.time()), quiet=verdicts)


def logs(
    ctx: typer.Context,
    workflow: Selector,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
) -> None:
    """Print the output of a workflow's program."""
    from saga_cli.output import Output

    held = given(ctx)
    client = held.client()
    id_ = client.only(workflow)
    output = client.follow_log(id_, follow=follow)
    if held.renderer.mode is Output.JSON:
        text = b"".join(output).decode(errors="replace")
        held.renderer.show({"id": id_, "text": text}, table=str, quiet=lambda _: [])
        return
    for chunk in output:
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


def wait(
    ctx: typer.Context,
    selector: Selector,
    timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
) -> None:
    """Wait until workflows have ended.

    Exit code 1 unless all of them are done.
    """
    from saga_cli.progress import progress
    from saga_cli.units import plural

    held = given(ctx)
    client = held.client()
    ids = [w.id for w in client.workflows(selector)]
    over: list[WorkflowView] = []
    with progress(held.renderer) as show:
        show.phase(f"waiting for {plural(len(ids), 'workflow')}", len(ids))

        def ended(workflow: WorkflowView) -> None:
            over.append(workflow)
            show.advance(len(over), f"workflow {workflow.id} {workflow.state}")

        found = client.wait(ids, timeout_s=timeout, ended=ended)
    show_workflows(ctx, found)
    if any(w.state != "done" for w in found):
        raise typer.Exit(1)


def cancel(ctx: typer.Context, selector: Selector) -> None:
    """Cancel workflows; those that have ended stay as they are."""
    client = given(ctx).client()
    found = client.workflows(selector)
    show_workflows(ctx, [w if ended(w) else client.cancel(w.id) for w in found])


def events(
    ctx: typer.Context,
    workflow: Annotated[
        str | None, typer.Argument(help="Of one workflow: last, or its number.", metavar="[WORKFLOW]")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print what happened: the latest facts of the head, oldest first.

    In JSON one value per line. Facts of all time are in the journal (`saga trace export`).
    """
    from saga_cli.happening import line

    held = given(ctx)
    client = held.client()
    number = client.only(workflow) if workflow else None
    for event in client.events(workflow=number, follow=follow):
        sys.stdout.write(line(event, held.renderer.mode) + "\n")
        sys.stdout.flush()


def ended(workflow: WorkflowView) -> bool:
    from saga_core.states import ENDED

    return workflow.state in ENDED


def show_workflows(ctx: typer.Context, workflows: list[WorkflowView]) -> None:
    given(ctx).renderer.show(workflows, table=table_of, quiet=_ids)


def table_of(workflows: list[WorkflowView]) -> RenderableType:
    """The table of `saga ps`, as of now."""
    from saga_cli.tables import workflow_table

    return workflow_table(workflows, time.time())


def _ids(workflows: list[WorkflowView]) -> Iterable[str]:
    return [str(w.id) for w in workflows]
