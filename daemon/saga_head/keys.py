"""Secrets of a cluster: made once, kept in `keys.json` (0600), told apart in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from pathlib import Path
from typing import Final

import msgspec
import zmq

from saga_core.book import KEEP_ENDED
from saga_core.errors import ClusterError
from saga_core.ids import TenantId, WorkflowId
from saga_core.tenants import DEFAULT
from saga_head.gateway.port import Caller
from saga_shell.files import write_private

FILE: Final = "keys.json"


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """CURVE pairs (Z85) of the head and of its nodes, and the two HTTP keys."""

    head_public: str
    head_secret: str
    node_public: str
    node_secret: str
    admin_key: str
    api_key: str


def load_keys(folder: Path) -> Keys:
    """The cluster's keys; new ones on the first start. Raises `ClusterError` for a damaged file."""
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keys)
    except FileNotFoundError:
        keys = _make()
        write_private(path, msgspec.json.encode(keys))
        return keys
    except msgspec.DecodeError as error:
        raise ClusterError(
            f"{path} is damaged ({error}); without it nodes and clients are strangers"
        ) from None


def _make() -> Keys:
    head_public, head_secret = zmq.curve_keypair()
    node_public, node_secret = zmq.curve_keypair()
    return Keys(
        head_public=head_public.decode(),
        head_secret=head_secret.decode(),
        node_public=node_public.decode(),
        node_secret=node_secret.decode(),
        admin_key=f"saga-admin-{secrets.token_urlsafe(32)}",
        api_key=f"sk-saga-{secrets.token_urlsafe(32)}",
    )


def new_token() -> str:
    """A workflow's credential: 192 random bits, fit for a URL path."""
    return f"wf-{secrets.token_urlsafe(24)}"


class Callers:
    """Who owns which key. Looked up by digest, so the time taken tells nothing about a key."""

    def __init__(self, api_key: str) -> None:
        self._by_digest: dict[bytes, Caller] = {_digest(api_key): Caller(DEFAULT, None)}
        self._digests: dict[WorkflowId, bytes] = {}
        self._over: deque[WorkflowId] = deque()

    def add(self, token: str, tenant: TenantId, workflow: WorkflowId) -> None:
        digest = self._digests[workflow] = _digest(token)
        self._by_digest[digest] = Caller(tenant, workflow)

    def let_in(self, digest: bytes, tenant: TenantId) -> None:
        """A tenant's key, by its SHA-256."""
        self._by_digest[digest] = Caller(tenant, None)

    def shut_out(self, digest: bytes) -> None:
        self._by_digest.pop(digest, None)

    def over(self, workflow: WorkflowId) -> None:
        """It has ended; its token is known for as long as the book knows the workflow."""
        self._over.append(workflow)
        while len(self._over) > KEEP_ENDED:
            digest = self._digests.pop(self._over.popleft(), None)
            if digest is not None:
                self._by_digest.pop(digest, None)

    def find(self, key: str) -> Caller | None:
        return self._by_digest.get(_digest(key))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def same(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(_digest(given), _digest(expected))
