"""`saga tenant add`, `list`, `limit`, `key`: who may use the cluster, how much, with which keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given, group
from saga_core.errors import UserError

if TYPE_CHECKING:
    from saga_core.tenants import NewKey, TenantSettings

Name = Annotated[str, typer.Argument(help="Name of a tenant (`saga tenant list`).", metavar="TENANT")]
Weight = Annotated[
    float | None, typer.Option(help="Share of each of its workflows; 1 at first.", metavar="NUMBER")
]
Workflows = Annotated[int | None, typer.Option(help="Workflows at one time; 0: any number.", metavar="N")]
Steps = Annotated[int | None, typer.Option(help="Steps per minute; 0: any number.", metavar="N")]

Most = Annotated[
    int | None,
    typer.Option(
        "--priority", help="Highest priority that its requests may ask for; 0 at first.", metavar="0-10"
    ),
]


def declare(app: typer.Typer) -> None:
    tenants = group("Who may use the cluster, how much, and with which keys.")
    examples = ["saga tenant add physics --weight 2 --workflows 50", "saga tenant key physics"]
    command(tenants, "add", examples=examples)(add)
    command(tenants, "list")(list_)
    command(tenants, "limit", examples=["saga tenant limit physics --steps-per-min 600"])(limit)
    command(tenants, "key", examples=["saga tenant key physics --revoke sk-saga-AbCdEfGh"])(key)
    command(tenants, "slurm", examples=["saga tenant slurm --by fairshare --dry-run"])(slurm)
    app.add_typer(tenants, name="tenant")


def add(
    ctx: typer.Context,
    tenant: Name,
    weight: Weight = None,
    workflows: Workflows = None,
    steps_per_min: Steps = None,
    priority: Most = None,
) -> None:
    """Let a new tenant in, and print its key: once, it cannot be read again."""
    _show_key(ctx, given(ctx).control().add_tenant(tenant, weight, workflows, steps_per_min, priority))


def list_(ctx: typer.Context) -> None:
    """List tenants with their limits and keys."""
    _show(ctx, given(ctx).control().tenants())


def limit(
    ctx: typer.Context,
    tenant: Name,
    weight: Weight = None,
    workflows: Workflows = None,
    steps_per_min: Steps = None,
    priority: Most = None,
) -> None:
    """Change what a tenant may do. The weight counts for workflows that begin from now on."""
    if weight is None and workflows is None and steps_per_min is None and priority is None:
        raise UserError(
            "nothing to change is said (valid: --weight, --workflows, --steps-per-min, --priority)"
        )
    _show(ctx, [given(ctx).control().limit_tenant(tenant, weight, workflows, steps_per_min, priority)])


def key(
    ctx: typer.Context,
    tenant: Name,
    revoke: Annotated[
        str | None, typer.Option(help="Make this key open nothing any more.", metavar="KEY")
    ] = None,
) -> None:
    """Print a further key for a tenant, or take one back."""
    control = given(ctx).control()
    if revoke is None:
        _show_key(ctx, control.add_tenant_key(tenant))
    else:
        _show(ctx, [control.revoke_tenant_key(tenant, revoke)])


def slurm(
    ctx: typer.Context,
    by: Annotated[
        str, typer.Option(help="What sets the weight: shares, fairshare or qos.", metavar="WHAT")
    ] = "shares",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print it.")] = False,
) -> None:
    """Make a tenant of each Slurm account, weighted as Slurm weighs it.

    Workflows that are submitted under an account (SLURM_JOB_ACCOUNT, SBATCH_ACCOUNT) then count for it. Say it again,
    by cron for instance, when shares have changed. Needs slurmdbd.
    """
    import asyncio

    from saga_cli.slurm import accounts
    from saga_cli.slurm.asking import usual_site
    from saga_core.errors import choose
    from saga_slurm.accounts import By
    from saga_slurm.commands import Commands

    if by not in list(By):
        raise choose("--by", by, list(By))
    weights = asyncio.run(Commands(usual_site().slurm.timeout_s).account_weights(By(by)))
    control = given(ctx).control()
    found = accounts.compared(weights, accounts.known(control))
    if not dry_run:
        accounts.apply(control, found)
    given(ctx).renderer.show(found, table=accounts.account_table, quiet=lambda all_: [a.tenant for a in all_])


def _show_key(ctx: typer.Context, made: NewKey) -> None:
    from saga_cli.tables import pairs

    given(ctx).renderer.show(
        made,
        table=lambda m: pairs({"tenant": m.tenant, "key": m.key}),
        quiet=lambda m: [m.key],
    )


def _show(ctx: typer.Context, found: list[TenantSettings]) -> None:
    from saga_cli.tenant_table import tenant_settings

    given(ctx).renderer.show(found, table=tenant_settings, quiet=lambda all_: [item.name for item in all_])
