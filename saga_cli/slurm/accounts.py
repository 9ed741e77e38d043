"""`saga tenant slurm`: a tenant for each of Slurm's accounts, weighted as Slurm weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from saga_cli.control import Control
from saga_cli.grid import Grid
from saga_cli.units import UNKNOWN
from saga_core.errors import UserError
from saga_core.tenants import check_name

if TYPE_CHECKING:
    from rich.console import RenderableType


class AccountTenant(msgspec.Struct, frozen=True, kw_only=True):
    """One account and what became of it."""

    tenant: str
    weight: float
    before: float | None = None
    """None: there was no such tenant."""
    problem: str = ""
    """Why it was left out."""


def compared(weights: Mapping[str, float], known: Mapping[str, float]) -> list[AccountTenant]:
    """What is to be done: accounts by their names, with the weight that they had. Pure."""
    return [
        AccountTenant(tenant=account, weight=weight, before=known.get(account), problem=_problem(account))
        for account, weight in sorted(weights.items())
    ]


def _problem(account: str) -> str:
    try:
        check_name(account)
    except UserError as error:
        return str(error)
    return ""


def known(control: Control) -> dict[str, float]:
    """Weights of the tenants that there are."""
    return {tenant.name: tenant.weight for tenant in control.tenants()}


def apply(control: Control, wanted: list[AccountTenant]) -> None:
    """Let them in, or change their weights. Their first keys are told to nobody: `saga tenant key` makes others."""
    for each in wanted:
        if each.problem or each.before == each.weight:
            continue
        if each.before is None:
            control.add_tenant(each.tenant, each.weight)
        else:
            control.limit_tenant(each.tenant, each.weight)


def account_table(found: list[AccountTenant]) -> RenderableType:
    return Grid(
        "*TENANT", ">WEIGHT", ">BEFORE", "PROBLEM",
        rows=[
            (a.tenant, f"{a.weight:g}", UNKNOWN if a.before is None else f"{a.before:g}", a.problem)
            for a in found
        ],
        empty="no account",
    )  # fmt: skip
