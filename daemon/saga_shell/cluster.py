"""What the cluster folder says: where the head is, and how everything shall be."""

from __future__ import annotations

from pathlib import Path

import msgspec

from saga_core import access
from saga_core.access import Access
from saga_core.config import Config, with_settings
from saga_core.errors import ClusterError, UserError


def read_access(folder: Path) -> Access | None:
    """The address and keys of the head; None while the file is not there. ClusterError: it is not ours to read."""
    data = _read(folder / access.FILE)
    return None if data is None else access.decode(data, str(folder / access.FILE))


def read_config(folder: Path) -> Config | None:
    """The settings of the cluster; None while the file is not there. UserError names what is wrong in it."""
    where = folder / access.SETTINGS
    data = _read(where)
    if data is None:
        return None
    try:
        values = msgspec.json.decode(data, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise UserError(f"{where} is damaged: {error}") from None
    return with_settings(Config(), values, where=str(where))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClusterError(f"cannot read {path}: {error.strerror}") from None
