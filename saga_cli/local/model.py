"""The demo models: made on this machine once, with random weights, and kept in the user's cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from saga_cli.progress import Progress
from saga_core.errors import ClusterError


def local_model(name: str, show: Progress) -> str:
    """`name` itself if it is a path or a hub name, else the folder of that demo model, made if it is not there."""
    from saga_vllm.model import MODEL_SIZES, build_command, is_built

    if name not in MODEL_SIZES:
        return str(Path(name).expanduser().absolute()) if Path(name).expanduser().is_dir() else name
    out = models_folder() / name
    if not is_built(out, name):
        show.phase(f"making the model {name!r} (random weights, once)")
        out.parent.mkdir(parents=True, exist_ok=True)
        _build(build_command(out, name), name)
    return str(out)


def models_folder() -> Path:
    """`$XDG_CACHE_HOME/saga/models`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saga" / "models"


def _build(command: list[str], name: str) -> None:
    """In a process of its own: building imports torch, which this one does without."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise ClusterError(
            "\n".join([f"the model {name!r} could not be made:", *(f"  | {line}" for line in last)])
        )
