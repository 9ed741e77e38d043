"""What may be different about a set, for all profiles alike: `cv~3`, `slow~10`, `then~kvct`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf, log
from statistics import fmean, median, pstdev

from msgspec.structs import replace

from saga_core.errors import UserError
from saga_sim.trace.records import Step, Tool, Workflow

FEWEST = 8
"""Measured times of a tool from which its spread is known."""
Spread = tuple[float, float]
"""Median in seconds, and the standard deviation of the logarithm."""
Rule = Callable[[Tool, float], float]
"""What a tool's time becomes."""


class Kind(StrEnum):
    """What is different."""

    NONE = ""
    CV = "cv"
    """Each tool's times are spread wider or narrower about their median, as a log-normal with that coefficient of variation is."""
    SLOW = "slow"
    """From the middle on, tools take so many times as long."""
    THEN = "then"
    """From the middle on, workflows are those of another set: other agents."""


SHIFTS = (Kind.SLOW, Kind.THEN)


@dataclass(frozen=True, slots=True)
class Twist:
    """number: the value where it is one; other: the set that follows."""

    kind: Kind = Kind.NONE
    number: float = 0.0
    other: str = ""


def twist(name: str) -> Twist:
    """Of `cv~2`; empty: none. Raises UserError with the valid ones."""
    word, tilde, value = name.partition("~")
    if not name:
        return Twist()
    if word == Kind.THEN and value:
        return Twist(Kind.THEN, other=value)
    try:
        number = float(value) if tilde else -1.0
    except ValueError:
        number = -1.0
    if word in (Kind.CV, Kind.SLOW) and 0 < number < inf:
        return Twist(Kind(word), number)
    raise UserError(f"unknown twist {name!r} (valid: cv~2, slow~10, then~SET, with numbers above 0)")


def words(name: str) -> str:
    """What it says of a set in a report; empty for none."""
    found = twist(name)
    match found.kind:
        case Kind.NONE:
            return ""
        case Kind.CV:
            return f"tool times with a CV of {found.number:g}"
        case Kind.SLOW:
            return f"tools {found.number:g} times as slow from the middle on"
        case Kind.THEN:
            return f"{found.other} from the middle on"


def twisted(workflows: Sequence[Workflow], found: Twist) -> list[Workflow]:
    """The workflows with other tool times; other twists leave them."""
    match found.kind:
        case Kind.CV:
            spreads = tool_spreads(workflows)
            sigma = log(1 + found.number**2) ** 0.5
            return [
                _retimed(w, lambda tool, s: _respread(s, spreads.get(_name(tool)), sigma)) for w in workflows
            ]
        case Kind.SLOW:
            half = len(workflows) // 2
            slow = [_retimed(w, lambda _, s: found.number * s) for w in workflows[half:]]
            return [*workflows[:half], *slow]
        case _:
            return list(workflows)


def tool_spreads(workflows: Sequence[Workflow]) -> dict[str, Spread]:
    """Of each tool with times enough."""
    times: dict[str, list[float]] = defaultdict(list)
    for workflow in workflows:
        for step in workflow.steps:
            if step.tool is not None and step.tool.kind == "tool" and step.tool.latency_s:
                times[_name(step.tool)].append(step.tool.latency_s)
    return {
        name: (median(found), pstdev(map(log, found), fmean(map(log, found))))
        for name, found in times.items()
        if len(found) >= FEWEST
    }


def _name(tool: Tool) -> str:
    return tool.name or ""


def _respread(latency_s: float, spread: Spread | None, sigma: float) -> float:
    """The same rank in a log-normal of the same median and another sigma; as it was where the spread is not known."""
    if spread is None or not latency_s or not spread[1]:
        return latency_s
    middle_s, was = spread
    return middle_s * exp(log(latency_s / middle_s) * sigma / was)


def _retimed(workflow: Workflow, rule: Rule) -> Workflow:
    """With `rule` on what a tool took and on the gap after it, which may hold other things than the tool."""
    tools = {
        step.id: step.tool for step in workflow.steps if step.tool is not None and step.tool.kind == "tool"
    }
    return replace(workflow, steps=tuple(_step(step, tools, rule) for step in workflow.steps))


def _step(step: Step, tools: dict[int, Tool], rule: Rule) -> Step:
    tool, gap_s = step.tool, step.gap_s
    if tool is not None and step.id in tools and tool.latency_s is not None:
        tool = replace(tool, latency_s=rule(tool, tool.latency_s))
    before = next((tools[parent] for parent in reversed(step.parents) if parent in tools), None)
    if gap_s is not None and before is not None:
        gap_s = rule(before, gap_s)
    return replace(step, tool=tool, gap_s=gap_s)
