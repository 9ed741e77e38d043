"""Where things are on this node: the daemon's private folder, its address, a free port."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from saga_core.errors import ClusterError
from saga_vllm.launch import SCRATCH_PATH_BYTES

_NAME_BYTES = len("/saga-4294967295-xxxxxxxx/00-xxxxxxxx")
"""What this module puts behind the base: user, daemon, worker and start."""


def make_run_folder() -> Path:
    """A new folder, open to this user only (0700), on this machine's own disk and short enough for sockets."""
    bases = [os.environ.get("XDG_RUNTIME_DIR") or "", tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp is safe
    problems = []
    for base in filter(None, bases):
        if len(base.encode()) + _NAME_BYTES > SCRATCH_PATH_BYTES:
            problems.append(f"{base}: its path is too long for sockets")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=f"saga-{os.getuid()}-", dir=base))
        except OSError as error:
            problems.append(f"{base}: {error.strerror}")
    raise ClusterError(f"no folder for the daemon's sockets ({'; '.join(problems)})")


def own_address(control: str) -> str:
    """The address of this node on the way to the head at `control` (tcp://host:port); nothing is sent."""
    target = urlsplit(control)
    if target.hostname is None or target.port is None:
        raise ClusterError(f"control address {control!r} is not tcp://host:port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            target.hostname, target.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ClusterError(f"no way to the head at {control}: {error.strerror or error}") from None


def free_port(host: str) -> int:
    """A port that was free on `host` a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
