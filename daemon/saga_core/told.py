"""What clients say of their workflows, checked: by header, by option, or in a file of its steps.

Whatever is wrong is an error that says what is valid: a hint that is silently dropped would never be mended.
How far hints are believed is another matter (`saga_core.aeg.hints`).
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Final

import msgspec

from saga_core.aeg.hints import EDGES, MOST_STEPS, MOST_WORK_S, NODES, ROUNDING, expected_steps
from saga_core.aeg.words import UNKNOWN, Declared
from saga_core.errors import UserError, choose
from saga_core.views import SubmitRequest

MOST_PRIORITY: Final = 10
MOST_TOKENS: Final = 1 << 20
"""Of one answer: no model writes more."""
MOST_NAME: Final = 128
"""Characters of an instance's or a tool's name."""
END: Final = "end"
"""Stands for the end of the workflow among a step's successors."""
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,4}")


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client says of the whole workflow beside one of its steps. Of each, its first word counts."""

    work_s: float = 0.0
    """Engine seconds that it will take; 0: it does not say."""
    steps: int = 0
    instance: str = ""
    """What it works on: workflows of one instance resemble each other."""
    deadline_s: float = 0.0
    """Seconds from its submission within which it should be over; 0: whenever."""
    priority: int = 0
    """As of a submission; what its tenant may ask for."""


def seconds(text: str, where: str) -> float:
    """Seconds above 0, or 0 for an empty text. `where` names the header or option for the error."""
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and 0.0 < value <= MOST_WORK_S):
        raise UserError(
            f"{where}: {_short(text)} is not valid (valid: seconds above 0, at most {MOST_WORK_S:.0f})"
        )
    return value


def steps(text: str, where: str, most: int = MOST_STEPS) -> int:
    """A number of steps, or 0 for an empty text."""
    if not text:
        return 0
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_NAME else 0
    if not 0 < value <= most:
        raise UserError(f"{where}: {_short(text)} is not valid (valid: a whole number from 1 to {most})")
    return value


def tokens(text: str, where: str) -> int:
    """A number of tokens of one answer, or 0 for an empty text."""
    return steps(text, where, MOST_TOKENS)


def priority(text: str, where: str, most: int = MOST_PRIORITY) -> int:
    """A priority up to `most`, or 0 for an empty text."""
    value = int(text) if _WHOLE.fullmatch(text) else None
    if text and (value is None or not -MOST_PRIORITY <= value <= most):
        more = "" if most == MOST_PRIORITY else "; `saga tenant limit --priority` grants more"
        raise UserError(
            f"{where}: {_short(text)} is not valid (valid: a whole number from -{MOST_PRIORITY} to {most}{more})"
        )
    return value or 0


def name(text: str, where: str) -> str:
    """A printable name, or nothing."""
    if len(text) > MOST_NAME or not text.isprintable():
        raise UserError(
            f"{where}: {_short(text)} is not valid (valid: at most {MOST_NAME} printable characters)"
        )
    return text


def check(asked: SubmitRequest) -> None:
    """Raise `UserError` for what a submission says of its workflow and cannot be."""
    for what, value in (("work_s", asked.work_s), ("deadline_s", asked.deadline_s)):
        if value != 0.0:
            seconds(repr(value), what)
    priority(str(asked.priority), "priority")
    program = asked.program
    if program is not None and (program.cpus < 0 or program.memory_bytes < 0):
        raise UserError(f"cpus {program.cpus}, memory {program.memory_bytes}: valid is nothing below 0")
    if asked.steps:
        steps(str(asked.steps), "steps")
    name(asked.instance, "instance")
    if asked.graph and expected_steps(asked.graph) is None:
        raise UserError(
            f"graph: it does not end, or has odd successors, or more than {NODES} steps or {EDGES} successors"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


class _Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step as it stands in a file."""

    name: str
    tool: str = UNKNOWN
    session: str = ""
    """Own name of the session that takes it, where several take turns."""
    next: str | dict[str, float] = ""
    """The step that follows, or names of steps with their probabilities; what is missing to 1 ends the workflow."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: list[_Node]


def graph_of(data: object, where: str) -> tuple[Declared, ...]:
    """The graph that a file declares, its first step first. Raises `UserError` naming `where` and the step."""
    try:
        nodes = msgspec.convert(data, _File).steps
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}") from None
    if not 0 < len(nodes) <= NODES:
        raise UserError(f"{where}: {len(nodes)} steps (valid: 1 to {NODES})")
    numbers = {node.name: index for index, node in enumerate(nodes)}
    if len(numbers) < len(nodes) or END in numbers:
        twice = next((n.name for i, n in enumerate(nodes) if numbers[n.name] != i), END)
        raise UserError(
            f"{where}: the name {twice!r} is taken (each step has its own, and {END!r} is the end)"
        )
    graph = tuple(_declared(node, numbers, where) for node in nodes)
    if sum(len(step.next) for step in graph) > EDGES:
        raise UserError(f"{where}: more than {EDGES} successors in all")
    if expected_steps(graph) is None:
        raise UserError(f"{where}: the workflow would never end (somewhere {END!r} must have a probability)")
    return graph


def _declared(node: _Node, numbers: dict[str, int], where: str) -> Declared:
    here = f"{where}: step {node.name!r}"
    shares = {node.next: 1.0} if isinstance(node.next, str) and node.next else node.next or {}
    assert isinstance(shares, dict)
    for to, share in shares.items():
        if to not in numbers and to != END:
            raise choose("next", to, [*numbers, END], here)
        if not 0.0 <= share <= 1.0:
            raise UserError(f"{here}: next.{to} = {share:g} is not a probability (valid: 0 to 1)")
    if sum(shares.values()) > 1.0 + ROUNDING:
        raise UserError(f"{here}: its successors add up to {sum(shares.values()):g} (valid: at most 1)")
    return Declared(
        tool=name(node.tool, f"{here}: tool"),
        session=name(node.session, f"{here}: session"),
        next=tuple((numbers[to], share) for to, share in shares.items() if to != END),
    )
