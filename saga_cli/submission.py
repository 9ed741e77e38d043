"""A submission as a person gives it: the program, its name, and what is said of it before it has run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from saga_core import told
from saga_core.aeg import Declared
from saga_core.errors import UserError
from saga_core.views import ProgramSpec, SubmitRequest

MAX_FILE_BYTES = 1 << 20
"""Of a declared workflow: 256 steps take a few KB."""
INTERPRETERS = frozenset({"bash", "bun", "deno", "node", "ruby", "sh", "zsh"})
INLINE = frozenset({"-c", "-e", "--eval"})
"""What follows is the program's text, which names nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a person says of the workflow before it has run."""

    work_s: float | None = None
    steps: int | None = None
    instance: str = ""
    deadline_s: float | None = None
    priority: int = 0
    """Larger goes sooner."""
    file: Path | None = None
    """Its declared steps (docs/aeg.md)."""

    def put(self, asked: SubmitRequest) -> SubmitRequest:
        """`asked` with it. Raises UserError for what cannot be."""
        return msgspec.structs.replace(
            asked,
            work_s=_given(self.work_s, told.seconds, "--work-s"),
            steps=_given(self.steps, told.steps, "--steps"),
            instance=told.name(self.instance, "--instance"),
            deadline_s=_given(self.deadline_s, told.seconds, "--deadline"),
            priority=self.priority,
            graph=() if self.file is None else _declared(self.file),
        )


MOST_CPUS = 65_536
"""Of one machine: anything beyond is a mistake."""
_MEMORY = re.compile(r"(\d{1,9})([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"K": 10, "": 20, "M": 20, "G": 30, "T": 40}


def memory(text: str) -> int:
    """Bytes of `500M` or `4G`; a number alone is of MiB, as in Slurm. Raises UserError for anything else."""
    if not text:
        return 0
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise UserError(f"--mem {text!r} is not valid (valid: a number and K, M, G or T, such as 4G)")
    return int(found[1]) << _UNITS[found[2].upper()]


N = TypeVar("N", int, float)


def _given(value: N | None, check: Callable[[str, str], N], option: str) -> N:
    """An option's number, checked as a header's is; 0 where it was not given."""
    return check("" if value is None else str(value), option)


def _declared(path: Path) -> tuple[Declared, ...]:
    """The graph in a file. Raises UserError with the file, the place and what is valid."""
    readers: dict[str, Callable[[bytes], Any]] = {".toml": _toml, ".json": msgspec.json.decode}
    if path.suffix not in readers:
        raise UserError(f"--aeg {path}: not a known kind of file (valid: {', '.join(readers)})")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--aeg {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"--aeg {path}: {len(data)} bytes (valid: at most {MAX_FILE_BYTES})")
    try:
        return told.graph_of(readers[path.suffix](data), str(path))
    except (ValueError, RecursionError, msgspec.DecodeError) as error:  # bad TOML, bad JSON, no text
        raise UserError(f"--aeg {path}: {error}") from None


def _toml(data: bytes) -> Any:
    return tomllib.loads(data.decode())


def request(
    program: Sequence[str],
    *,
    name: str,
    agent_type: str,
    tenant: str,
    env: Sequence[str],
    workdir: Path | None,
    said: Said | None = None,
    cpus: int = 0,
    memory_bytes: int = 0,
) -> SubmitRequest:
    """The submission of a program. Raises UserError for a folder that is not there, bad K=V pairs and odd hints.

    cpus, memory_bytes: what it takes of its node; 0: it counts for none.
    """
    where = (workdir or Path.cwd()).expanduser().absolute()
    if not where.is_dir():
        raise UserError(f"--workdir {where}: no such folder")
    if not 0 <= cpus <= MOST_CPUS:
        raise UserError(f"--cpus {cpus} is not valid (valid: 0 to {MOST_CPUS})")
    spec = ProgramSpec(
        argv=list(program), cwd=str(where), env=_pairs(env), cpus=cpus, memory_bytes=memory_bytes
    )
    called = _called(program)
    asked = SubmitRequest(
        name=name or called, tenant=tenant, agent_type=agent_type or called, program=spec, kind="program"
    )
    return asked if said is None else said.put(asked)


def _called(program: Sequence[str]) -> str:
    """The script's or module's name where an interpreter runs one, else the program's."""
    first = Path(program[0]).name
    if first == "uv" and program[1:2] == ["run"] and program[2:]:
        return _called(program[2:])
    if not (first.startswith("python") or first in INTERPRETERS):
        return first
    for number, word in enumerate(program[1:], start=1):
        if word in INLINE:
            return first
        if word == "-m" and first.startswith("python"):
            return program[number + 1] if number + 1 < len(program) else first
        if not word.startswith("-"):
            return Path(word).name
    return first


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, found, value = text.partition("=")
        if not found or not key:
            raise UserError(f"--env {text!r} is not K=V")
        pairs[key] = value
    return pairs
