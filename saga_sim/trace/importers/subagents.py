"""Sessions named in a trace: the chain of each, and where sub-agents leave their parents and join them again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from saga_core.errors import UserError
from saga_sim.trace.importers.dynamo_records import ClaudeTool
from saga_sim.trace.importers.requests import Request


@dataclass(slots=True, eq=False)
class Session:
    """One growing context, its requests in order of their start."""

    name: str
    parent: str | None = None
    requests: list[Request] = field(default_factory=list)

    def chain(self) -> None:
        """Sort the requests; each comes after the latest that had ended, and continues its prompt."""
        self.requests.sort(key=lambda request: (request.start_s or 0.0, request.end_s or 0.0))
        running: list[tuple[float, int, Request]] = []
        latest: Request | None = None
        for index, request in enumerate(self.requests):
            while running and running[0][2].ended_before(request):
                latest = heappop(running)[2]
            if latest is not None:
                request.context = latest
                request.after.append(latest)
            heappush(running, (request.end_s or 0.0, index, request))

    @property
    def last(self) -> Request:
        """The request that ends last."""
        return max(self.requests, key=lambda request: (request.end_s or 0.0, request.start_s or 0.0))


def join(
    sessions: Mapping[str, Session],
    launches: Mapping[str, tuple[str, ClaudeTool]],
    requests: Mapping[str, Request],
) -> dict[str, list[Session]]:
    """Tie sub-agents to their parents; the families by root session, parents before children."""
    families: dict[str, list[Session]] = {}
    for session in sessions.values():
        families.setdefault(_root(session, sessions), []).append(session)
        parent = sessions.get(session.parent or "")
        if parent is not None:
            _tie(session, parent, launches.get(session.name), requests)
    for root, family in families.items():
        family.sort(key=lambda s: (s.name != root, s.requests[0].start_s or 0.0))
    return families


def _root(session: Session, sessions: Mapping[str, Session]) -> str:
    passed = [session.name]
    while session.parent is not None and session.parent in sessions:
        session = sessions[session.parent]
        if session.name in passed:
            raise UserError(
                f"{session.requests[0].where}: session {session.name!r} is its own ancestor (valid: a tree)"
            )
        passed.append(session.name)
    return session.name


def _tie(
    child: Session, parent: Session, launch: tuple[str, ClaudeTool] | None, requests: Mapping[str, Request]
) -> None:
    """By the tool that launched it where that is recorded, else by the clock."""
    first, last = child.requests[0], child.last
    if launch is not None:
        where, told = launch
        source = _known(told.source_request_id, requests, where)
        if source.ended_before(first):
            first.after.append(source)
        if told.consumer_request_id is not None:
            _known(told.consumer_request_id, requests, where).after.append(last)
        return
    before = [r for r in parent.requests if r.ended_before(first)]
    if before:
        first.after.append(max(before, key=lambda r: (r.end_s or 0.0, r.start_s or 0.0)))
    following = next((r for r in parent.requests if last.ended_before(r)), None)
    if following is not None:
        following.after.append(last)


def _known(name: str, requests: Mapping[str, Request], where: str) -> Request:
    if name not in requests:
        raise UserError(f"{where}: names request {name!r}, which is not in the trace")
    return requests[name]
