"""`saga usage`: what tenants and workflows have had of the GPUs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_core.spending import UsageView

SHOWN = 20
"""Workflows in the table; `--output json` has all."""


def declare(app: typer.Typer) -> None:
    command(app, "usage", examples=["saga usage --since 7d --output json > usage.json"])(usage)


def usage(
    ctx: typer.Context,
    since: Annotated[
        str, typer.Option(help="How far back, in whole hours: 90m, 24h, 7d; at most 31d.", metavar="TIME")
    ] = "24h",
) -> None:
    """Show GPU-seconds per tenant and workflow.

    By the clock: a worker's time is shared equally among the steps on it. A tensor-parallel worker counts all its GPUs.
    """
    from saga_cli.units import seconds

    found = given(ctx).control().usage(time.time() - seconds(since, "--since"))
    given(ctx).renderer.show(found, table=usage_view, quiet=lambda view: [t.tenant for t in view.tenants])


def usage_view(view: UsageView) -> RenderableType:
    """Tenants, and the workflows that had most."""
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid
    from saga_cli.units import count, duration, share

    whole = sum(tenant.gpu_s for tenant in view.tenants)
    tenants = [
        (t.tenant, duration(t.gpu_s), share(t.gpu_s, whole), count(t.steps), count(t.prompt_tokens),
         share(t.cached_tokens, t.prompt_tokens), count(t.output_tokens))
        for t in view.tenants
    ]  # fmt: skip
    workflows = [
        (str(w.id), w.name, w.tenant, w.state, duration(w.gpu_s), count(w.steps), count(w.output_tokens))
        for w in view.workflows[:SHOWN]
    ]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(view.since))
    return Group(
        Text(f"GPU time since {since}", style="bold"),
        Grid("*TENANT", ">GPU TIME", ">SHARE", ">STEPS", ">PROMPT", ">CACHED", ">WRITTEN",
             rows=tenants, empty="nobody had any"),
        Text(),
        Grid("ID", "*WORKFLOW", "TENANT", "STATE", ">GPU TIME", ">STEPS", ">WRITTEN",
             rows=workflows, empty="no workflow was active"),
    )  # fmt: skip
