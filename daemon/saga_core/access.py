"""The cluster's address and keys: what `access.json` in the cluster folder holds (mode 0600).

Encoding only; the head writes the file, the CLI and the node daemons read it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from saga_core.errors import ClusterError

FILE: Final = "access.json"
SETTINGS: Final = "settings.json"
"""Beside it: the settings of the running cluster, by dotted name (`saga_core.config.settings`)."""
MOVING: Final = "moving"
"""Folder beside it: KV of sessions on their way between nodes, one folder for each node that writes some."""
VERSION: Final = 1


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a cluster and prove that one may."""

    version: int = VERSION
    name: str
    pid: int
    """Of the head, on `host`."""
    host: str
    started_at: float
    epoch: int = 0
    """Of the head: of two files, the one with the larger epoch is of the newer head."""
    job: str = ""
    """Slurm's number of the job that the head runs in; empty: none."""
    job_node: str = ""
    """Slurm's name of the machine, which need not be `host`."""
    restarts: int = 0
    """How often Slurm had requeued that job when the head started."""
    url: str
    """`http://host:port` of the gateway; the OpenAI API is below `/v1`."""
    api_key: str
    """Key of the default tenant."""
    admin_key: str
    """Key of the control API below `/saga/v1`."""
    control: str
    """`tcp://host:port` of the head's ZeroMQ socket for nodes."""
    head_public: str
    """CURVE key of the head, Z85."""
    node_public: str
    node_secret: str
    """CURVE key pair of the cluster's node daemons, Z85."""


class _Version(msgspec.Struct):
    """Read first: the rest of another version may look different."""

    version: int = VERSION


def encode(access: Access) -> bytes:
    return msgspec.json.format(msgspec.json.encode(access), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Access:
    """Raises `ClusterError` naming `where` when the file is not ours or of another version."""
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise ClusterError(f"{where} has version {version}, this saga reads {VERSION}")
        return msgspec.json.decode(data, type=Access)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClusterError(f"{where} is damaged ({error}); `saga down` and `saga up` make it anew") from None
