"""What `saga submit` does with a program and with a workload; each returns the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saga_cli.options import Given
from saga_core.errors import UserError
from saga_core.views import ProgramSpec, SubmitRequest

if TYPE_CHECKING:
    from saga_cli.replaying import Report, Workload

INTERRUPTED = 130
INTERPRETERS = frozenset({"bash", "bun", "deno", "node", "ruby", "sh", "zsh"})
INLINE = frozenset({"-c", "-e", "--eval"})
"""What follows is the program's text, which names nothing."""


def request(
    program: Sequence[str],
    *,
    name: str,
    agent_type: str,
    tenant: str,
    env: Sequence[str],
    workdir: Path | None,
) -> SubmitRequest:
    """The submission of a program. Raises UserError for a folder that is not there and bad K=V pairs."""
    where = (workdir or Path.cwd()).expanduser().absolute()
    if not where.is_dir():
        raise UserError(f"--workdir {where}: no such folder")
    spec = ProgramSpec(argv=list(program), cwd=str(where), env=_pairs(env))
    called = _called(program)
    return SubmitRequest(
        name=name or called, tenant=tenant, agent_type=agent_type or called, program=spec, kind="program"
    )


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
