"""A book as bytes and back: what replaces a long journal."""

from __future__ import annotations

import msgspec

from saga_core.accounts import Accounts, Service
from saga_core.aeg import Learner
from saga_core.aeg import snapshot as learned
from saga_core.book import Book, Counts, Drain, Step, Workflow
from saga_core.costs import CostTable
from saga_core.errors import ClusterError
from saga_core.events import JOURNAL_VERSION
from saga_core.ids import NodeId, WorkflowId
from saga_core.paces import Pace, Paces
from saga_core.usage import Usage


class _Saved(msgspec.Struct, kw_only=True):
    version: int = JOURNAL_VERSION
    profile: str
    workflows: list[Workflow]
    steps: list[Step]
    ended: list[WorkflowId]
    counts: Counts
    last_workflow: int
    last_step: int
    head: int
    services: dict[str, Service] = {}
    """Accounts of unfinished workflows by model; none in snapshots of before they were kept: then accounts begin anew."""
    usage: Usage | None = None
    drains: dict[NodeId, Drain] = {}
    paces: dict[str, Pace] = {}
    learned: bytes = b""
    learned_version: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Saved)


def encode(book: Book) -> bytes:
    """The whole durable state."""
    return _encoder.encode(
        _Saved(
            profile=book.profile,
            workflows=list(book.workflows.values()),
            steps=list(book.steps.values()),
            ended=book.ended,
            counts=book.counts,
            last_workflow=book.last_workflow,
            last_step=book.last_step,
            head=book.head,
            services=book.accounts.services,
            usage=book.usage,
            drains=book.drains,
            paces=book.accounts.paces.by_kind,
            learned=learned.encode(book.accounts.learner),
            learned_version=learned.VERSION,
        )
    )


def decode(data: bytes, where: str, costs: CostTable | None = None) -> Book:
    """The inverse. Raises `ClusterError` naming `where` for damaged or foreign data.

    `costs`: by which work is weighed from now on; what was attained stays as it was weighed.
    """
    try:
        saved = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{where}: not a snapshot of saga ({error})") from None
    if saved.version != JOURNAL_VERSION:
        raise ClusterError(f"{where}: version {saved.version}, this saga reads {JOURNAL_VERSION}")
    book = Book(saved.profile, costs)
    paces = Paces(saved.paces)
    book.accounts = Accounts(book.accounts.costs, saved.services, _learner(saved, where), paces)
    book.workflows = {w.id: w for w in saved.workflows}
    book.steps = {s.id: s for s in saved.steps}
    book.usage = saved.usage if saved.usage is not None else Usage()
    book.drains = saved.drains
    book.ended, book.counts = saved.ended, saved.counts
    book.last_workflow, book.last_step, book.head = saved.last_workflow, saved.last_step, saved.head
    book.sessions = {s.id: s for w in saved.workflows if w.live for s in w.sessions.values()}
    book.live = sum(w.live for w in saved.workflows)
    book.keys = {(w.tenant, w.key): w.id for w in saved.workflows if w.key and w.live}
    return book


def _learner(saved: _Saved, where: str) -> Learner:
    """What was learned; of another version of saga it is no state worth failing for, and begins anew."""
    if saved.learned_version != learned.VERSION:
        return Learner()
    return learned.decode(saved.learned, where)
