"""What `saga submit` does with a program and with a workload; each returns the exit code."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from saga_cli.options import Given
from saga_core import told
from saga_core.aeg import Declared
from saga_core.errors import UserError
from saga_core.views import ProgramSpec, SubmitRequest

if TYPE_CHECKING:
    from saga_cli.replaying import Report, Workload

MAX_FILE_BYTES = 1 << 20
"""Of a declared workflow: 256 steps take a few KB."""
INTERRUPTED = 130
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
            graph=() if self.file is None else _declared(self.file),
        )


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
) -> SubmitRequest:
    """The submission of a program. Raises UserError for a folder that is not there, bad K=V pairs and odd hints."""
    where = (workdir or Path.cwd()).expanduser().absolute()
    if not where.is_dir():
        raise UserError(f"--workdir {where}: no such folder")
    spec = ProgramSpec(argv=list(program), cwd=str(where), env=_pairs(env))
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


def send(held: Given, asked: SubmitRequest, *, wait: bool) -> int:
    """Submit a program and print its number; with `wait`, its end decides the exit code."""
    control = held.control()
    accepted = control.submit(asked)
    if not wait:
        # Without the key: output ends up in logs, and the program gets it from the node.
        answer = {"id": accepted.id, "name": asked.name, "log": accepted.log}
        held.renderer.show(answer, table=_accepted, quiet=lambda a: [str(a["id"])])
        return 0
    from saga_cli.commands.workflows import table_of
    from saga_cli.progress import progress
    from saga_cli.waiting import await_ended

    held.renderer.note(f"workflow {accepted.id} (`saga logs {accepted.id} -f` shows its output)")
    with progress(held.renderer) as show:
        found = await_ended(control, [accepted.id], show=show)
    held.renderer.show(found, table=table_of, quiet=lambda found: [str(w.id) for w in found])
    return 0 if found[0].state == "done" else 1


def _accepted(answer: dict[str, object]) -> str:
    return f"workflow {answer['id']} accepted; output: saga logs {answer['id']} -f"


def replay_workload(held: Given, load: Workload) -> int:
    """Replay a workload on the cluster and print its figures."""
    from saga_cli.comparison import report_table
    from saga_cli.progress import progress
    from saga_cli.replaying import run

    if load.max_context is None:
        load = replace(load, max_context=_context_of(held))
    workflows = load.load()
    with progress(held.renderer) as show:
        report = run(held.control(), load, workflows, show=show)
    held.renderer.show(report, table=lambda r: report_table([r]), quiet=_ids)
    if report.summary.interrupted:
        return INTERRUPTED
    return 0 if report.ok else 1


def _context_of(held: Given) -> int | None:
    """The longest context of the cluster's workers, in tokens."""
    length = (held.folder.settings() or {}).get("workers.max_model_len")
    return length if isinstance(length, int) and length > 0 else None


def _ids(report: Report) -> list[str]:
    return [str(w.id) for w in report.workflows if w.id is not None]
