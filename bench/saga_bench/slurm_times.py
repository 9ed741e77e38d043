"""`python -m saga_bench.slurm_times`: launch to READY and each recovery in real Slurm, with Slurm's own share.

Runs on whatever Slurm SLURM_CONF names (`scripts/slurm-dev up` makes one), with fake engines, through the command line.
Every recovery is timed from what was done to the cluster until all its workers serve again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 180.0
_SUMMARY = re.compile(
    r"ready (\S+) after it was asked for: Slurm ([^,]+), head ([^,]+), nodes ([^,]+), workers (\S+)"
)


class Cluster:
    """One cluster folder and the commands on it."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder, self.nodes = folder, nodes

    def saga(self, *words: str) -> str:
        """Run a command; what it says beside its answer."""
        argv = [sys.executable, "-m", "saga_cli", "--cluster-dir", str(self.folder), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        return done.stderr

    def up(self, *more: str) -> tuple[float, ...]:
        """Launch it; seconds in all, of Slurm, of the head, the nodes and the workers."""
        said = self.saga(
            "up", "--slurm", "--nodes", str(self.nodes), "--workers", "1", "--engine", "fake", "--model", "nano",
            "--time", "30", *more,
        )  # fmt: skip
        found = _SUMMARY.search(said)
        if found is None:
            raise SystemExit(f"no times in: {said}")
        return tuple(_seconds(text) for text in found.groups())

    def access(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "access.json").read_text())
        return found

    def ready(self) -> dict[str, int]:
        """Incarnation of each worker that serves; none while no head answers."""
        try:
            access = self.access()
            request = urllib.request.Request(  # noqa: S310 - http, by the access file
                f"{access['url']}/saga/v1/cluster", headers={"Authorization": f"Bearer {access['admin_key']}"}
            )
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the same
                view = json.load(answer)
        except (OSError, ValueError):
            return {}
        return {w["id"]: w["incarnation"] for w in view["workers"] if w["state"] == "ready"}

    def recovers(self, harm: Callable[[], None], until: Callable[[], bool]) -> float:
        """Seconds from `harm` until `until`."""
        began = time.monotonic()
        harm()
        while not until():
            if time.monotonic() - began > PATIENCE_S:
                raise SystemExit("it does not recover")
            time.sleep(0.1)
        return time.monotonic() - began


def _seconds(text: str) -> float:
    minutes, _, rest = text.rpartition("m")
    return int(minutes or 0) * 60 + float(rest.rstrip("s"))


def _slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def recoveries(folder: Path) -> dict[str, float]:
    """Each kind of harm once, to a cluster of two nodes (one for those that take the head's node)."""
    found: dict[str, float] = {}
    two = Cluster(folder / "two", 2)
    two.up()
    before, job = two.ready(), two.access()["job"]
    node = min(before).partition("/")[0]
    found["node daemon killed"] = two.recovers(
        lambda: _kill(two, "saga_node", node), lambda: len(two.ready()) == 2 and two.ready() != before
    )
    found["head killed"] = two.recovers(lambda: _kill(two, "saga_head", ""), lambda: len(two.ready()) == 2)
    found["job requeued"] = two.recovers(
        lambda: void(_slurm("scontrol", "requeue", job)),
        lambda: two.access()["restarts"] == 1 and len(two.ready()) == 2,
    )
    two.saga("down")
    one = Cluster(folder / "one", 1)
    one.up()
    lost = one.access()["job_node"]
    found["the head's node down"] = one.recovers(
        lambda: void(_slurm("scontrol", "update", f"nodename={lost}", "state=down", "reason=bench")),
        lambda: one.access()["restarts"] == 1 and len(one.ready()) == 1,
    )
    _slurm("scontrol", "update", f"nodename={lost}", "state=resume")
    one.saga("down")
    return found


def void(_: object) -> None:
    """For what is done, not asked."""


def _kill(cluster: Cluster, module: str, node: str) -> None:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_text().split("\0")
        except OSError:
            continue
        if argv[1:3] == ["-m", module] and str(cluster.folder) in argv and (not node or node in argv):
            os.kill(int(path.parent.name), signal.SIGKILL)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.slurm_times", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder:
        print(f"Slurm {_slurm('sbatch', '--version')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print("nodes  ready_s  slurm_s  head_s  nodes_s  workers_s   (medians)")
        for nodes in options.nodes:
            runs = []
            for number in range(options.times):
                cluster = Cluster(Path(folder) / f"{nodes}-{number}", nodes)
                runs.append(cluster.up())
                cluster.saga("down")
            print(f"{nodes:5}", *(f"{statistics.median(part):8.2f}" for part in zip(*runs, strict=True)))
        for what, took_s in recoveries(Path(folder)).items():
            print(f"{what:24} {took_s:6.1f} s until all workers serve")


if __name__ == "__main__":
    main()
