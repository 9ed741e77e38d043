"""One session's KV as a file: written by the engine that has it, read by another of the same model.

Rules of this file
  1. Nothing is taken from where it is: whoever moves a session drops it at its old home once the new one has it.
  2. A file is complete or not there: it is written beside its name, and renamed. It is private to its user.
  3. What does not fit exactly (model, layout, number type, a damaged byte) is refused before a block is taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from vllm.distributed.kv_events import BlockStored
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from saga_core.errors import ClusterError

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool

VERSION = 1
MAX_HEADER_BYTES = 16 << 20


class Layer(msgspec.Struct, frozen=True):
    """One tensor of a rank: its shape with 0 where the blocks are counted."""

    shape: tuple[int, ...]
    dtype: str


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds."""

    version: int
    model: str
    block_tokens: int
    hashes: tuple[bytes, ...]
    ranks: tuple[tuple[Layer, ...], ...]
    sizes: tuple[int, ...]
    """Bytes of each rank."""
    digest: bytes
    """Of all that follows the header."""


class Cannot(ClusterError):  # noqa: N818 - the condition
    """It was not done, and nothing has changed."""


class NotYet(Cannot):
    """It can be done in a moment, when something else is through."""


# -- in a rank ---------------------------------------------------------------------------


def layers(worker: Any, blocks: int) -> tuple[Layer, ...]:
    """The layout of a rank's pool of `blocks`."""
    return tuple(
        Layer(tuple(0 if i == at else n for i, n in enumerate(tensor.shape)), str(tensor.dtype))
        for tensor in worker.model_runner.kv_caches
        for at in [_dimension(tensor, blocks)]
    )


def read(worker: Any, blocks: int, ids: list[int]) -> bytes:
    """These blocks of every layer of a rank, one after the other."""
    import torch

    parts = []
    for tensor in worker.model_runner.kv_caches:
        where = torch.tensor(ids, device=tensor.device)
        rows = tensor.index_select(_dimension(tensor, blocks), where).contiguous().cpu()
        parts.append(rows.view(torch.uint8).numpy().tobytes())
    return b"".join(parts)


def write(worker: Any, blocks: int, ids: list[int], data: bytes, rows: list[int], whole: int) -> None:
    """The reverse of `read`: of `whole` blocks in `data`, those at `rows` into the blocks `ids`."""
    import torch

    buffer, start = bytearray(data), 0
    for tensor in worker.model_runner.kv_caches:
        at = _dimension(tensor, blocks)
        shape = [whole if i == at else n for i, n in enumerate(tensor.shape)]
        count = tensor.element_size() * _product(shape)
        flat = torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=start)
        wanted = flat.view(tensor.dtype).view(shape).index_select(at, torch.tensor(rows))
        tensor.index_copy_(at, torch.tensor(ids, device=tensor.device), wanted.to(tensor.device))
        start += count
    if start != len(data):
        raise ValueError(f"{len(data)} bytes where {start} fit")


def _dimension(tensor: Any, blocks: int) -> int:
    """Which dimension counts the blocks."""
    found = [i for i, n in enumerate(tensor.shape) if n == blocks]
    if len(found) != 1:
        raise ValueError(f"a pool of {blocks} blocks has a tensor of the shape {tuple(tensor.shape)}")
    return found[0]


def _product(numbers: Sequence[int]) -> int:
    whole = 1
    for number in numbers:
        whole *= number
    return whole


# -- the file ----------------------------------------------------------------------------


def save(
    path: Path,
    *,
    model: str,
    block_tokens: int,
    hashes: Sequence[bytes],
    ranks: Sequence[tuple[Layer, ...]],
    data: Sequence[bytes],
) -> int:
    """Write one; its size in bytes. OSError: it could not be, and nothing is there."""
    digest = hashlib.blake2b(digest_size=32)
    for part in data:
        digest.update(part)
    header = msgspec.msgpack.encode(
        Header(
            version=VERSION,
            model=model,
            block_tokens=block_tokens,
            hashes=tuple(hashes),
            ranks=tuple(ranks),
            sizes=tuple(map(len, data)),
            digest=digest.digest(),
        )
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(len(header).to_bytes(8, "big") + header)
            file.writelines(data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return 8 + len(header) + sum(map(len, data))


def load(path: Path) -> tuple[Header, list[bytes]]:
    """Read one. Cannot: it is not there, not one of these, or damaged."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "big")
            if size > MAX_HEADER_BYTES:
                raise Cannot(f"{path} is not a session's KV")
            header = msgspec.msgpack.decode(file.read(size), type=Header)
            data = [file.read(count) for count in header.sizes]
    except OSError as error:
        raise Cannot(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError:
        raise Cannot(f"{path} is not a session's KV") from None
    digest = hashlib.blake2b(digest_size=32)
    for part in data:
        digest.update(part)
    if header.version != VERSION or digest.digest() != header.digest:
        raise Cannot(f"{path} is damaged, or of another version")
    return header, data


def announce(pool: BlockPool, session: str, header: Header, taken: Sequence[int]) -> None:
    """Let those who follow the pool's events know of blocks that were filled from `header`'s file."""
    for at in taken if pool.enable_kv_cache_events else ():
        parent = maybe_convert_block_hash(header.hashes[at - 1]) if at else None
        pool.kv_event_queue.append(
            BlockStored(
                block_hashes=[maybe_convert_block_hash(header.hashes[at])], parent_block_hash=parent,
                token_ids=[], block_size=header.block_tokens, lora_id=None, medium=pool.medium,
                lora_name=None, group_idx=0, session_id=session,
            )
        )  # fmt: skip
