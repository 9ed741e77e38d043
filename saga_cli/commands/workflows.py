"""`saga ps`, `inspect`, `explain`, `logs`, `wait`, `cancel`: workflows that are there already."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given
from saga_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.control import Control
    from saga_core.views import WorkflowView

Selector = Annotated[str, typer.Argument(help="last, all, 3, 3-7, or a list: 1,4-6.", metavar="SELECTOR")]


def declare(app: typer.Typer) -> None:
    for name, function in (
        ("ps", ps),
        ("inspect", inspect),
        ("explain", explain),
        ("logs", logs),
        ("wait", wait),
        ("cancel", cancel),
    ):
        command(app, name)(function)


def ps(
    ctx: typer.Context,
    selector: Annotated[str | None, typer.Argument(help="last, all, 3, 3-7, or a list: 1,4-6.")] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="The ended ones too.")] = False,
) -> None:
    """List workflows."""
    found = chosen(given(ctx).control(), selector) if selector else given(ctx).control().workflows()
    show_workflows(ctx, found if all_ or selector else [w for w in found if not ended(w)])


def inspect(ctx: typer.Context, workflow: Selector) -> None:
    """Show one workflow with its sessions."""
    from saga_cli.tables import workflow_details

    control = given(ctx).control()
    found = control.workflow(only(control, workflow))
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
    from saga_cli.explaining import explanation_view, step_number, verdicts

    control = given(ctx).control()
    step = step_number(which)
    found = control.explain_step(step) if step is not None else control.explain_workflow(only(control, which))
    given(ctx).renderer.show(found, table=lambda e: explanation_view(e, time.time()), quiet=verdicts)


def logs(
    ctx: typer.Context,
    workflow: Selector,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
) -> None:
    """Print the output of a workflow's program."""
    from saga_cli.logs import chunks
    from saga_cli.output import Output

    held = given(ctx)
    control = held.control()
    id_ = only(control, workflow)
    output = chunks(held.folder, control, id_, follow=follow)
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
    from saga_cli.waiting import await_ended

    held = given(ctx)
    control = held.control()
    ids = [w.id for w in chosen(control, selector)]
    with progress(held.renderer) as show:
        found = await_ended(control, ids, show=show, timeout_s=timeout)
    show_workflows(ctx, found)
    if any(w.state != "done" for w in found):
        raise typer.Exit(1)


def cancel(ctx: typer.Context, selector: Selector) -> None:
    """Cancel workflows; those that have ended stay as they are."""
    control = given(ctx).control()
    found = chosen(control, selector)
    show_workflows(ctx, [w if ended(w) else control.cancel(w.id) for w in found])


def ended(workflow: WorkflowView) -> bool:
    from saga_core.states import ENDED

    return workflow.state in ENDED


def chosen(control: Control, selector: str) -> list[WorkflowView]:
    """The workflows that `selector` means. Raises UserError where it means none."""
    from saga_cli.selection import select

    known = {w.id: w for w in control.workflows()}
    return [known[id_] for id_ in select(selector, list(known))]


def only(control: Control, selector: str) -> int:
    """The id of the one workflow that `selector` means."""
    found = chosen(control, selector)
    if len(found) != 1:
        raise UserError(f"{selector!r} means {len(found)} workflows; this command takes one")
    return found[0].id


def show_workflows(ctx: typer.Context, workflows: list[WorkflowView]) -> None:
    given(ctx).renderer.show(workflows, table=table_of, quiet=_ids)


def table_of(workflows: list[WorkflowView]) -> RenderableType:
    """The table of `saga ps`, as of now."""
    from saga_cli.tables import workflow_table

    return workflow_table(workflows, time.time())


def _ids(workflows: list[WorkflowView]) -> Iterable[str]:
    return [str(w.id) for w in workflows]
