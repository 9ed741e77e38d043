"""Sessions from block hashes alone: a request continues the latest request whose full blocks it contains."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from saga_sim.trace.importers.blocks import full_blocks
from saga_sim.trace.importers.requests import Request

# The first block is the service's own system prompt, which every request begins with: to contain
# only that is no sign of a session.
MIN_SHARED_BLOCKS = 2


@dataclass(slots=True)
class _Prefix:
    """A node of the tree of all prompts: what goes on from here, and who ended here with its full blocks."""

    longer: dict[int, "_Prefix"] = field(default_factory=dict)
    owner: Request | None = None


def sessions(requests: Iterable[Request], block_size: int) -> list[list[Request]]:
    """Requests in order of arrival, grouped; sets `after` and `context` of those that continue another.

    The longest contained prompt wins, of equal ones the latest. A request is continued once, by a
    longer prompt: what comes again from the same one (a retry, a branch) opens a session of its own.
    """
    root = _Prefix()
    group: dict[int, list[Request]] = {}
    for request in requests:
        parent = _contained(root, request)
        if parent is not None:
            request.after, request.context = [parent], parent
        row = group[id(parent)] if parent is not None else []
        row.append(request)
        group[id(request)] = row
        _add(root, request, full_blocks(request.prompt_tokens, block_size))
    return [row for first, row in _rows(group)]


def _rows(group: dict[int, list[Request]]) -> list[tuple[int, list[Request]]]:
    seen: dict[int, list[Request]] = {}
    for row in group.values():
        seen.setdefault(id(row), row)
    return list(seen.items())


def _contained(root: _Prefix, request: Request) -> Request | None:
    """The request with the longest list of full blocks that `request` begins with; it is taken out."""
    node, found = root, None
    for block in request.ids:
        following = node.longer.get(block)
        if following is None:
            break
        node = following
        if node.owner is not None and _goes_on(node.owner, request):
            found = node
    if found is None:
        return None
    owner, found.owner = found.owner, None
    return owner


def _goes_on(earlier: Request, request: Request) -> bool:
    """A prompt that did not grow is a retry of the other one, not its continuation."""
    return request.prompt_tokens > earlier.prompt_tokens and earlier.ended_before(request)


def _add(root: _Prefix, request: Request, blocks: int) -> None:
    if blocks < MIN_SHARED_BLOCKS:
        return
    node = root
    for block in request.ids[:blocks]:
        node = node.longer.setdefault(block, _Prefix())
    node.owner = request
