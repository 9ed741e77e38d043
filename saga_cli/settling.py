"""The settings that a cluster runs with: said at its `saga up`, kept in its folder until it is down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saga_cli.config import Resolved
from saga_cli.folder import ClusterFolder
from saga_core.config import Config, with_settings
from saga_core.errors import UserError


def settle(folder: ClusterFolder, wanted: Resolved, *, running: bool) -> Config:
    """The settings of the cluster in the folder: those it runs with, or now the wanted ones."""
    held = folder.settings() if running else None
    if held is not None:
        _compare({n: v for n, v in concrete(wanted).items() if n in wanted.asked}, held, folder)
        return with_settings(Config(), held, where=str(folder.settings_file))
    values = concrete(wanted)
    folder.write_settings(values)
    return with_settings(Config(), values, where="saga up")


def _compare(asked: Mapping[str, Any], held: Mapping[str, Any], folder: ClusterFolder) -> None:
    """What was asked for on purpose must be what runs."""
    other = [
        f"{name} is {_plain(held.get(name))!r}, not {_plain(value)!r}"
        for name, value in asked.items()
        if _plain(value) != _plain(held.get(name))
    ]
    if other:
        raise UserError(
            f"a cluster with other settings runs at {folder.path}: {'; '.join(other)}. "
            "Take it down first (`saga down`), or use another --cluster-dir"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def concrete(wanted: Resolved) -> dict[str, Any]:
    """The wanted settings with a name, and a model's folder as daemons find it from anywhere."""
    import getpass

    values = dict(wanted.values)
    values["name"] = values["name"] or f"saga-{getpass.getuser()}"
    values["workers.model"] = _findable(str(values["workers.model"]))
    return values


def _findable(model: str) -> str:
    from saga_vllm.model import MODEL_SIZES

    path = Path(model).expanduser()
    return str(path.absolute()) if model not in MODEL_SIZES and path.is_dir() else model
