"""Other people's traces in our format: counts, times, names and block ids; never text."""

from collections.abc import Callable, Sequence
from pathlib import Path

from saga_core.errors import UserError, choose
from saga_sim.trace.format import encode_workflow
from saga_sim.trace.importers.dynamo import read_dynamo
from saga_sim.trace.importers.mooncake import read_mooncake
from saga_sim.trace.importers.options import WORKLOADS, Imported, ImportOptions, workload_named
from saga_sim.trace.importers.sweagent import read_sweagent

__all__ = [
    "FORMATS",
    "WORKLOADS",
    "ImportOptions",
    "Imported",
    "check_limit",
    "import_trace",
    "workload_named",
]

FORMATS: dict[str, Callable[[Sequence[Path], ImportOptions], Imported]] = {
    "mooncake": read_mooncake,
    "dynamo": read_dynamo,
    "swe-agent": read_sweagent,
}


def import_trace(
    name: str, files: Sequence[Path], options: ImportOptions, limit: int | None = None
) -> Imported:
    """All of `files` in format `name`, the first `limit` workflows of them; each one passes the format's checks.

    Raises UserError for an unknown format and, with file and line, for anything a reader would refuse.
    """
    if name not in FORMATS:
        raise choose("format", name, [*FORMATS, "saga"])
    check_limit(limit)
    made = FORMATS[name](files, options)
    made.workflows = made.workflows[:limit]
    for workflow in made.workflows:
        encode_workflow(workflow)
    return made


def check_limit(limit: int | None) -> None:
    """Raise UserError for a limit that leaves nothing."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not valid (valid: 1 or more)")
