"""`python -m saga_node --cluster-dir DIR --node NAME`: the node daemon. Exit code 0 after a stop, 1 when it cannot go on."""

import argparse
import asyncio
import os
import re
import sys
from pathlib import Path

from saga_core.ids import NodeId
from saga_node import app
from saga_shell import log


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m saga_node", description="The node daemon of a saga cluster."
    )
    parser.add_argument("--cluster-dir", type=Path, required=True, help="the cluster's folder")
    parser.add_argument("--node", type=_name, required=True, help="this node's name, unique in the cluster")
    parser.add_argument(
        "--ends-in",
        type=_seconds,
        metavar="S",
        help="the machine is taken away in S seconds (default: what SLURM_JOB_END_TIME says, else never)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="a setting of this node alone, over those of the cluster (repeatable)",
    )
    parser.add_argument("--log-level", choices=log.LEVELS, default=os.environ.get("SAGA_LOG_LEVEL", "info"))
    arguments = parser.parse_args()
    log.start(arguments.log_level)
    folder: Path = arguments.cluster_dir.absolute()
    return asyncio.run(app.serve(folder, NodeId(arguments.node), arguments.ends_in, dict(arguments.settings)))


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: section.name=value is valid")
    return name, value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: seconds are valid, 0 or more")
    return value


def _name(text: str) -> str:
    """Names end in file names, worker names and ZeroMQ identities."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits and . _ - are valid, at most 64")
    return text


if __name__ == "__main__":
    sys.exit(main())
