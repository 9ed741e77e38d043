"""What programs ask of a node beside a slot: cores and memory. Counted among programs; engines have shares of their own."""

from __future__ import annotations

from collections.abc import Iterable

from saga_core.fleet import Node
from saga_core.views import ProgramSpec


def asks(program: ProgramSpec) -> bool:
    """Whether it wants more than a slot."""
    return bool(program.cpus or program.memory_bytes)


def could_hold(node: Node, program: ProgramSpec) -> bool:
    """Whether `program` would fit if nothing else ran there. A node that does not say what it has takes any."""
    return _within(program.cpus, node.cpus) and _within(program.memory_bytes, node.memory_bytes)


def has_room(node: Node, program: ProgramSpec, there: Iterable[ProgramSpec]) -> bool:
    """Whether it fits beside those that are `there`."""
    if node.programs >= node.program_slots:
        return False
    if not asks(program):
        return True
    cpus = memory_bytes = 0
    for other in there:
        cpus += other.cpus
        memory_bytes += other.memory_bytes
    return _within(cpus + program.cpus, node.cpus) and _within(
        memory_bytes + program.memory_bytes, node.memory_bytes
    )


def _within(wanted: int, has: int) -> bool:
    return not has or wanted <= has


def too_large(program: ProgramSpec, nodes: list[Node]) -> str:
    """Why none of `nodes` can ever run it; empty: one can, or there are none yet."""
    if not nodes or any(could_hold(node, program) for node in nodes):
        return ""
    cpus, memory_gib = max(n.cpus for n in nodes), max(n.memory_bytes for n in nodes) / 2**30
    return (
        f"it asks for {program.cpus} cores and {program.memory_bytes / 2**30:.1f} GiB, and no node has both "
        f"(the most are {cpus} cores and {memory_gib:.1f} GiB)"
    )
