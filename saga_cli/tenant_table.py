"""`saga tenant list` as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from saga_core.tenants import TenantSettings


def tenant_settings(tenants: Sequence[TenantSettings]) -> RenderableType:
    """One line per tenant; keys by their first characters."""
    table = Table.grid(padding=(0, 2, 0, 0))
    titles = ("tenant", "weight", "workflows", "steps/min", "priority", "keys")
    for name in titles:
        table.add_column(no_wrap=name != "keys", justify="left")
    table.add_row(*titles, style="bold")
    for item in tenants:
        most = f"{item.live} of {item.max_workflows}" if item.max_workflows else str(item.live)
        rate = str(item.steps_per_min) if item.steps_per_min else "any"
        keys = " ".join(key.id for key in item.keys)
        table.add_row(
            item.name,
            f"{item.weight:g}",
            most,
            rate,
            f"to {item.priority}",
            keys or ("access.json" if item.name == "default" else "none"),
        )
    return table
