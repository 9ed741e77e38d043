"""What decides a cell's result beside the cell: the code, without its comments, and the input.

A result is kept under a digest of all of it: a changed policy runs again, a changed comment does not.
"""

from __future__ import annotations

import ast
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import msgspec

import saga_core
import saga_sim
from saga_sim.evaluation.plan import Cell

APART = ("report", "evaluation")
"""Folders of the simulator that only look at results; `evaluation`'s own `cells` and `sets` count."""
COUNTED = tuple(f"evaluation/{name}.py" for name in ("cells", "sets", "twists", "variants"))


def key(cell: Cell, inputs: str) -> str:
    """The name of a cell's result. inputs: digest of its recording."""
    told = (msgspec.json.encode(cell), version("saga-llm").encode(), code().encode(), inputs.encode())
    return blake2b(b"\0".join(told), digest_size=12).hexdigest()


@cache
def code() -> str:
    """A digest of the scheduler's and the simulator's code as this process found it."""
    state = blake2b(digest_size=12)
    for module in sorted(_modules()):
        state.update(module.name.encode() + b"\0" + meaning(module.read_text(encoding="utf-8")).encode())
    return state.hexdigest()


def _modules() -> list[Path]:
    core, simulator = (Path(package.__path__[0]) for package in (saga_core, saga_sim))
    own = [path for path in simulator.rglob("*.py") if path.relative_to(simulator).parts[0] not in APART]
    return [*core.rglob("*.py"), *own, *(simulator / name for name in COUNTED)]


def meaning(source: str) -> str:
    """The program without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(part: ast.stmt) -> bool:
    return (
        isinstance(part, ast.Expr)
        and isinstance(part.value, ast.Constant)
        and isinstance(part.value.value, str)
    )
