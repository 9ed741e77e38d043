"""Names of things. Numbers count up per cluster and survive a restart of the head."""

from __future__ import annotations

from typing import Final, NewType

WorkflowId = NewType("WorkflowId", int)
"""One run of an agent program; counts from 1 per cluster."""
SessionId = NewType("SessionId", str)
"""`<workflow>.<name>`, for example `7.main` or `7.reviewer`."""
StepId = NewType("StepId", int)
"""One LLM call; counts from 1 per cluster."""
NodeId = NewType("NodeId", str)
"""A node daemon's name: host name, made unique by the person who starts it."""
WorkerId = NewType("WorkerId", str)
"""`<node>/<index>`, for example `n1/0`; stays the same over restarts (the incarnation counts them)."""
TenantId = NewType("TenantId", str)


def session_id(workflow: WorkflowId, name: str) -> SessionId:
    return SessionId(f"{workflow}.{name}")


def worker_id(node: NodeId, index: int) -> WorkerId:
    return WorkerId(f"{node}/{index}")


MAX_NAME: Final = 128
"""Longer names of clients are cut; harnesses use UUIDs (36 characters)."""


def cut_name(name: str) -> str:
    """A client's name for something, printable and short: names end in logs, tables and metrics."""
    if not name.isprintable():
        name = "".join(c for c in name if c.isprintable())
    return name[:MAX_NAME]
