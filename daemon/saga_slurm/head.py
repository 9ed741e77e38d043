"""The running head of a folder, whoever that is, asked over HTTP with the key in the folder: from inside an allocation."""

from __future__ import annotations

import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Final

import msgspec

from saga_core.access import Access
from saga_core.errors import SagaError
from saga_core.views import ClusterView, DrainRequest, ShutdownRequest
from saga_shell import cluster

ANSWER_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024


def look(folder: Path) -> ClusterView | None:
    """The cluster as its head sees it; None while no head answers."""
    answer = _ask(folder, "cluster")
    try:
        return None if answer is None else msgspec.json.decode(answer, type=ClusterView)
    except msgspec.DecodeError:
        return None


def answers(access: Access) -> bool:
    """Whether the head of an access file is there."""
    try:
        with urllib.request.urlopen(f"{access.url}/health", timeout=ANSWER_S) as answer:  # noqa: S310 - http, by our file
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, HTTPException):
        return False


def remove(folder: Path, node: str, *, reason: str, within_s: float) -> None:
    """Have a node drained, and its daemon end."""
    wanted = DrainRequest(reason=reason, within_s=within_s, remove=True)
    _ask(folder, f"nodes/{node}/drain", msgspec.json.encode(wanted))


def shut_down(folder: Path, *, within_s: float) -> bool:
    """Have the cluster take nothing new and end, at the latest after `within_s`; whether the head has heard it."""
    wanted = ShutdownRequest(drain=True, within_s=within_s)
    return _ask(folder, "shutdown", msgspec.json.encode(wanted)) is not None


def hand_over(folder: Path, *, within_s: float) -> bool:
    """Have the head leave to another one, and finish within that time what it has begun; whether it has heard it."""
    wanted = ShutdownRequest(hand_over=True, within_s=within_s)
    return _ask(folder, "shutdown", msgspec.json.encode(wanted)) is not None


def _ask(folder: Path, path: str, body: bytes | None = None) -> bytes | None:
    """The head's answer; None while there is none."""
    try:
        access = cluster.read_access(folder)
        if access is None:
            return None
        request = urllib.request.Request(  # noqa: S310 - http, by our own access file
            f"{access.url}/saga/v1/{path}",
            body,
            {"Authorization": f"Bearer {access.admin_key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 - the same
            return bytes(answer.read(MAX_ANSWER_BYTES))
    except (OSError, HTTPException, SagaError):
        return None
