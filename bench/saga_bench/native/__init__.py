"""The two C programs of the gateway benchmark, compiled on first use into the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

from saga_core.errors import ClusterError, UserError

FLAGS = ("-O2", "-Wall")


def built(name: str) -> Path:
    """Path of the program `name` (`backend` or `load`), compiled now if its source is new.

    Raises `UserError` where there is no C compiler, `ClusterError` where it fails.
    """
    source = files(__name__).joinpath(f"{name}.c").read_bytes()
    digest = blake2b(source + " ".join(FLAGS).encode(), digest_size=8).hexdigest()
    program = _cache() / f"{name}-{digest}"
    if not program.exists():
        _compile(name, source, program)
    return program


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "saga" / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _compile(name: str, source: bytes, program: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or shutil.which(compiler) is None:
        raise UserError(
            "`saga bench gateway` needs a C compiler for its load generator: "
            f"found no {compiler or 'cc, gcc or clang'} on PATH (set CC, or install e.g. gcc and libc6-dev)"
        )
    temporary = program.with_name(f".{program.name}.{os.getpid()}")
    command = [compiler, *FLAGS, "-x", "c", "-", "-o", str(temporary)]
    done = subprocess.run(command, input=source, capture_output=True, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"{compiler} cannot compile {name}.c: {done.stderr.decode(errors='replace')[-800:]}"
        )
    temporary.replace(program)
