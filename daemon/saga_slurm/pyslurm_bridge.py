"""`python pyslurm_bridge.py`: pyslurm at the other end of a pipe, JSON lines in, JSON lines out.

A process of its own, since pyslurm holds the interpreter's lock for whole calls (ten seconds where a controller is
away), ends the process where there is no slurm.conf, is built for one Python and one Slurm, and is under the GPL: none
of that is to touch a daemon of ours. Run by any Python that has pyslurm; it needs nothing else, not even saga.

A request is `{"id": 1, "call": "jobs", "with": {...}}`, its answer `{"id": 1, "ok": ...}` or
`{"id": 1, "error": {"kind": "away" | "refused" | "failed", "message": "..."}}`. Names are those of pyslurm 25.11.
Submitting, steps and attaching are not here: sbatch reads the directives of a script, pyslurm does not, and it knows
no srun.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

AWAY = {1800, 1802, 5004}
"""Cannot connect, cannot receive, timed out (slurm/slurm_errno.h)."""
UNKNOWN_JOB = {2017, 2021}
"""ESLURM_INVALID_JOB_ID, ESLURM_ALREADY_DONE."""


class _Out(Protocol):
    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class Bridge:
    """The calls, each a method; `pyslurm` is handed in, so that a test may bring its own."""

    def __init__(self, pyslurm: Any) -> None:
        self._slurm = pyslurm
        self._calls: dict[str, Callable[..., Any]] = {
            "hello": self.hello, "find": self.find, "jobs": self.jobs, "cancel": self.cancel, "signal": self.signal,
            "requeue": self.requeue, "hold": self.hold, "release": self.release, "nodes": self.nodes,
            "partitions": self.partitions,
        }  # fmt: skip

    def hello(self) -> dict[str, str]:
        """Versions; raises where the controller does not answer or is of an older Slurm."""
        config = self._slurm.slurmctld.Config.load()
        return {"pyslurm": str(self._slurm.__version__), "slurm": str(config.version)}

    def find(self, comment: str, name: str) -> str | None:
        """The job of that name and comment."""
        known = self._slurm.Jobs.load().values()
        return next((str(job.id) for job in known if job.comment == comment and job.name == name), None)

    def jobs(self, ids: list[str]) -> list[dict[str, Any]]:
        """Those that Slurm knows."""
        known = self._slurm.Jobs.load()
        return [_job(known[int(id_)]) for id_ in ids if int(id_) in known]

    def cancel(self, ids: list[str]) -> None:
        """An unknown or ended job is no error."""
        for id_ in ids:
            self._forgiving(self._slurm.Job(int(id_)).cancel)

    def signal(self, id_: str, name: str, batch: bool) -> None:
        """`name` as `USR1`: pyslurm takes SIGUSR1 or a number."""
        steps = "batch" if batch else "children"
        self._forgiving(lambda: self._slurm.Job(int(id_)).send_signal(f"SIG{name}", steps=steps))

    def requeue(self, id_: str) -> None:
        """Start it anew under its id."""
        self._slurm.Job(int(id_)).requeue()

    def hold(self, id_: str) -> None:
        """Keep it from starting."""
        self._slurm.Job(int(id_)).hold()

    def release(self, id_: str) -> None:
        """Let it start."""
        self._slurm.Job(int(id_)).release()

    def nodes(self) -> list[dict[str, Any]]:
        """Every machine."""
        return [_node(node) for node in self._slurm.Nodes.load().values()]

    def partitions(self) -> list[dict[str, Any]]:
        """Every partition."""
        return [_partition(partition) for partition in self._slurm.Partitions.load().values()]

    def _forgiving(self, call: Callable[[], object]) -> None:
        try:
            call()
        except self._slurm.RPCError as error:
            if error.errno not in UNKNOWN_JOB:
                raise

    def answer(self, request: Any) -> dict[str, Any]:
        """The answer to one request, whatever it is."""
        number, name = request.get("id"), request.get("call", "")
        if name not in self._calls:
            return _problem(number, "failed", f"unknown call {name!r}")
        try:
            return {"id": number, "ok": self._calls[name](**request.get("with", {}))}
        except self._slurm.RPCError as error:
            return _problem(number, "away" if error.errno in AWAY else "failed", str(error))
        except Exception as error:  # noqa: BLE001 - the other end decides what becomes of it
            return _problem(number, "failed", f"{type(error).__name__}: {error}")


def _problem(number: object, kind: str, message: str) -> dict[str, Any]:
    return {"id": number, "error": {"kind": kind, "message": message}}


def _job(job: Any) -> dict[str, Any]:
    """As `saga_slurm.facts.Job` has it."""
    reason = str(job.state_reason or "")
    return {
        "id": str(job.id),
        "state": str(job.state),
        "reason": "" if reason == "None" else reason,
        "name": job.name or "",
        "comment": job.comment or "",
        "partition": job.partition or "",
        "nodelist": job.allocated_nodes or "",
        "node_count": job.num_nodes or 0,
        "submitted_at": job.submit_time or None,
        "starts_at": job.start_time or None,
        "ends_at": job.end_time or None,
        "batch_host": job.batch_host or "",
    }


def _node(node: Any) -> dict[str, Any]:
    gres = node.configured_gres or {}
    return {
        "name": node.name,
        "state": str(node.state).lower(),
        "cpus": node.total_cpus or 0,
        "memory_mb": node.real_memory or 0,
        "gres": ",".join(f"{name}:{number}" for name, number in gres.items()),
        "reason": node.reason or "",
    }


def _partition(partition: Any) -> dict[str, Any]:
    minutes = partition.max_time
    return {
        "name": partition.name,
        "default": bool(partition.is_default),
        "up": str(partition.state).upper() == "UP",
        # A word where there is no limit.
        "time_limit_s": minutes * 60.0 if isinstance(minutes, int) else None,
        "nodes": partition.total_nodes or 0,
    }


def serve(bridge: Bridge, lines: Iterable[str], out: _Out) -> None:
    """Answer every line until there are no more."""
    for line in lines:
        try:
            answer = bridge.answer(json.loads(line))
        except (ValueError, AttributeError) as error:
            answer = _problem(None, "failed", f"not a request: {error}")
        out.write(json.dumps(answer) + "\n")
        out.flush()


def main() -> None:
    """Entry point. Where pyslurm is not there, or ends the process at its import, the other end reads no hello."""
    import pyslurm  # type: ignore[import-not-found]

    serve(Bridge(pyslurm), sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
