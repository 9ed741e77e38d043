"""Block hashes of foreign traces as ids of ours, and what two prompts share."""

from collections.abc import Hashable, Sequence

from saga_sim.trace.records import Blocks


class BlockIds:
    """Small ids in the order of first appearance: what a hash was cannot be read from them."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, int] = {}

    def of(self, hashes: Sequence[int], scope: Hashable = None) -> tuple[int, ...]:
        """The ids of a prompt's hashes; equal hashes of different scopes are different blocks."""
        return tuple(self._ids.setdefault((scope, value), len(self._ids)) for value in hashes)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading ids two prompts share."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def full_blocks(prompt_tokens: int, block_size: int) -> int:
    """Blocks that a prompt fills: the last id of a list may stand for a partial one."""
    return prompt_tokens // block_size


def described(ids: Sequence[int], keep: int) -> Blocks:
    """A prompt's list as `keep` ids of its context parent and runs of the rest."""
    runs: list[tuple[int, int]] = []
    for value in ids[keep:]:
        if runs and value == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return Blocks(keep=keep, add=tuple(runs))


def kept(
    prompt_tokens: int, ids: Sequence[int], parent_tokens: int, parent_ids: Sequence[int], size: int
) -> int:
    """Blocks that a prompt shares with its context parent's: full ones, and at least one token is new."""
    most = min(full_blocks(parent_tokens, size), (prompt_tokens - 1) // size)
    return min(common(ids, parent_ids), most)
