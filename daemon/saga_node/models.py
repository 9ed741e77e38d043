"""Demo models, made on this node when a worker first needs one, and kept for the next time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from saga_core.errors import ClusterError, UserError
from saga_node.logfile import LogFile
from saga_node.processes import Processes
from saga_shell import log
from saga_vllm.diagnose import TAIL_BYTES, reason_from_log
from saga_vllm.model import MODEL_SIZES, build_command, is_built

LOCK_POLL_S = 0.1


async def ensure(name: str, processes: Processes, log_folder: Path) -> Path:
    """The folder of demo model `name`, built if need be. ClusterError says why it cannot be.

    Another daemon of this user may be building it: the lock is a file, and goes with its holder.
    """
    folder = cache() / name
    if is_built(folder, name):
        return folder
    async with _locked(folder.with_suffix(".lock")):
        if not is_built(folder, name):
            await _build(folder, name, processes, LogFile(log_folder / f"model-{name}.log"))
    return folder


def cache() -> Path:
    """Where this user's demo models are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "saga" / "models"


async def _build(folder: Path, name: str, processes: Processes, output: LogFile) -> None:
    log.info("model-building", model=name, folder=folder)
    try:
        tree = await processes.start(build_command(folder, name), env=os.environ, output=output.fd)
        try:
            exit_code = await tree.process.wait()
        finally:
            await tree.kill()
            processes.forget(tree)
        if exit_code:
            reason = reason_from_log(output.tail(TAIL_BYTES))
            raise ClusterError(f"cannot build the demo model {name}: {reason} (see {output.path})")
    finally:
        output.close()
    log.info("model-built", model=name)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClusterError(f"cannot keep demo models in {path.parent}: {error.strerror}") from None
    try:
        while not _try_lock(fd):  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kv_bytes_per_token(model: str) -> int:
    """What a token of context takes in the KV pool of `model` (a demo name or a folder), in 16-bit numbers.

    UserError for a folder whose config.json does not tell.
    """
    if model in MODEL_SIZES:
        return MODEL_SIZES[model].kv_bytes_per_token
    where = Path(model) / "config.json"
    try:
        config = json.loads(where.read_bytes())
        config = config.get("text_config", config)
        heads = int(config["num_attention_heads"])
        head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        return 2 * int(config["num_hidden_layers"]) * kv_heads * head_dim * 2
    except OSError as error:
        names = ", ".join(MODEL_SIZES)
        raise UserError(
            f"workers.model = {model!r}: {where}: {error.strerror}; valid: a model's folder, or one of {names}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{where} does not tell the size of a token's KV ({error!r})") from None
