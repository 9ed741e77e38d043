"""Answers of any length do not hold the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from saga_head.replies import PIECE, json_list


@pytest.mark.parametrize("count", [0, 1, PIECE, 3 * PIECE + 1])
async def test_a_list_is_made_in_pieces_and_the_loop_turns_between_them(count: int) -> None:
    turns: list[int] = []
    made = 0

    async def others() -> None:
        while True:
            turns.append(made)
            await asyncio.sleep(0)

    def values() -> Iterator[dict[str, object]]:
        nonlocal made
        for made in range(1, count + 1):
            yield {"id": made, "name": "a, [b]"}

    beside = asyncio.create_task(others())
    answer = await json_list(values())
    beside.cancel()
    assert answer.content_type == "application/json"
    expected = [{"id": number, "name": "a, [b]"} for number in range(1, count + 1)]
    assert msgspec.json.decode(answer.body) == expected
    assert turns == [*range(PIECE, count, PIECE), count][: len(turns)]
    assert len(turns) == -(-count // PIECE)
