"""Which KV blocks a prompt consists of, without a single token: streams that fork.

A stream is one growing row of tokens. The block at position i of a stream has one content, for ever; a context that
leaves a stream at some point goes on in a stream of its own that forks there. So a prompt is a stream and a length, and
two prompts share exactly the blocks before the point where their streams part. The rules of what continues what are
those of `saga_sim.prompts`, which makes the real token ids of a live replay.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from saga_sim.trace.records import Step, Workflow, shared_tokens

Piece = tuple["Stream", int, int]
"""The blocks `low` to `high` (without it) of a stream."""
ENDLESS = 1 << 62


class Stream:
    """One row of tokens; before block `fork` it is its parent's."""

    __slots__ = ("end_tokens", "fork", "owner", "trunk")

    def __init__(self, parent: Stream | None = None, fork: int = 0, owner: Contexts | None = None) -> None:
        self.owner = owner
        """Whose contexts these are; None: of everybody."""
        self.fork = fork if parent is not None else 0
        self.trunk: tuple[Piece, ...] = () if parent is None else tuple(parent.pieces(fork))
        """The blocks before `fork`, from the root on."""
        self.end_tokens = 0
        """How far the row is written: a step that ends elsewhere in it cannot continue it."""

    def pieces(self, blocks: int = ENDLESS, start: int = 0) -> Iterator[Piece]:
        """The blocks `start` to `blocks` (without it) of this row, piece by piece from the root on."""
        if start < self.fork:
            for stream, low, high in self.trunk:
                if low >= blocks:
                    return
                if high > start:
                    yield stream, max(low, start), min(high, blocks)
            start = self.fork
        if start < blocks:
            yield self, start, blocks


class Groups:
    """Streams of the system prompts that workflows share, by group name."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def stream(self, group: str) -> Stream:
        found = self._streams.get(group)
        if found is None:
            found = self._streams[group] = Stream()
        return found


class Prompt(msgspec.Struct, frozen=True):
    """The first `tokens` tokens of `stream`, of which the workflow's earlier steps computed `computed_before`."""

    stream: Stream
    tokens: int
    computed_before: int


class Contexts:
    """The prompts of one workflow, step by step; a step's context parent is built before it."""

    def __init__(self, workflow: Workflow, groups: Groups, block_tokens: int) -> None:
        self._workflow = workflow
        self._groups = groups
        self._block_tokens = block_tokens
        self._streams: dict[int, Stream] = {}
        self.over = False
        """The workflow has ended: nobody will ask for its streams again."""

    def close(self) -> None:
        self.over = True
        self._streams.clear()

    def build(self, step: Step) -> Prompt:
        """The prompt of `step`. Once per step: it may lengthen the stream of its context parent."""
        if step.ctx_parent is None:
            stream, before = self._opening(step), 0
        else:
            stream, before = self._extended(step, self._workflow.steps[step.ctx_parent])
        stream.end_tokens = step.prompt_tokens + step.output_tokens
        self._streams[step.id] = stream
        return Prompt(stream, step.prompt_tokens, before)

    def _opening(self, step: Step) -> Stream:
        if not step.shared_prefix_group:
            return Stream(owner=self)
        common = min(step.shared_prefix_tokens or 0, step.prompt_tokens)
        return Stream(self._groups.stream(step.shared_prefix_group), common // self._block_tokens, self)

    def _extended(self, step: Step, parent: Step) -> tuple[Stream, int]:
        base = self._streams[parent.id]
        shared = shared_tokens(self._workflow, step)
        appended = shared == parent.prompt_tokens
        fed = min(parent.output_tokens, step.prompt_tokens - shared) if appended else 0
        whole = fed == parent.output_tokens
        # The last generated token was never an input, so its KV does not exist.
        before = shared + fed - (1 if whole else 0)
        end = parent.prompt_tokens + parent.output_tokens
        if whole and base.end_tokens == end:
            return base, before
        return Stream(base, (shared + fed) // self._block_tokens, self), before
