"""Session control of the engine double: the orders of `saga_core.kv.commands`, done as the engine's plugin does them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from saga_core.errors import RemoteProtocolError
from saga_core.kv import commands
from saga_core.kv.commands import Answer, Command
from saga_fake.engine import Engine
from saga_fake.requests import EngineRequest

MOST_CHAINS = 4096
"""As in the plugin."""


class Saved(msgspec.Struct, frozen=True):
    """What a file of this double's holds: names of blocks, for there is nothing in them."""

    model: str
    block_tokens: int
    contents: list[int]


class SessionControl:
    """Orders to one engine."""

    def __init__(self, engine: Engine, incarnation: int, version: str) -> None:
        self._engine, self._incarnation, self._version = engine, incarnation, version
        self._chains: OrderedDict[str, Sequence[int]] = OrderedDict()

    def arrived(self, request: EngineRequest) -> None:
        """A request was added; its contents grow with it."""
        if request.session:
            self._chains[request.session] = request.contents
            self._chains.move_to_end(request.session)
            if len(self._chains) > MOST_CHAINS:
                self._chains.popitem(last=False)

    def answer(self, frame: bytes) -> bytes:
        """Do what `frame` orders; never raises for what stands in it."""
        try:
            order = commands.decode_order(frame)
            if order.incarnation != self._incarnation:
                return commands.encode(commands.Stale(incarnation=self._incarnation))
            return commands.encode(self._do(order.command))
        except (RemoteProtocolError, ValueError, OSError) as error:
            return commands.encode(commands.Failed(reason=str(error)))

    def _do(self, command: Command) -> Answer:
        order = self._engine.pool.order
        match command:
            case commands.Retain():
                ttl_s = command.ttl_s if command.ttl_s is not None else float("inf")
                order.retain(command.session, command.worth, ttl_s)
            case commands.Release():
                order.release(command.session)
            case commands.Value():
                for session, worth in command.worths.items():
                    if worth is None:
                        order.release(session)
                    else:
                        order.retain(session, worth)
            case commands.Drop():
                self._chains.pop(command.session, None)
                return commands.Done(blocks=self._engine.pool.drop(command.session))
            case commands.Stats():
                return self._holdings()
            case commands.Snapshot():
                return self._resident(command.sessions)
            case commands.Prefetch():
                return commands.Failed(reason="there is no host memory behind the pool")
            case commands.Export():
                return self._export(command)
            case commands.Adopt():
                return self._adopt(command)
            case _:
                assert_never(command)
        return commands.Done()

    def _export(self, command: commands.Export) -> Answer:
        contents = list(self._found(command.session)) if command.session in self._chains else []
        if not contents:
            return commands.Failed(reason=f"nothing of session {command.session} is here")
        pool, path = self._engine.pool, Path(command.path)
        data = msgspec.msgpack.encode(Saved("double", pool.block_tokens, contents))
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        beside.replace(path)
        return commands.Moved(tokens=len(contents) * pool.block_tokens, copied_bytes=len(data))

    def _adopt(self, command: commands.Adopt) -> Answer:
        data, pool = Path(command.path).read_bytes(), self._engine.pool
        saved = msgspec.msgpack.decode(data, type=Saved)
        if saved.block_tokens != pool.block_tokens:
            return commands.Failed(reason=f"{command.path} is of another layout than this engine's")
        here = [block for content in saved.contents for block in pool.lookup([content])]
        missing = [at for at, content in enumerate(saved.contents) if not pool.holds(content)]
        pool.touch(here)  # or the rest might take the place of what is there already
        if len(missing) > pool.free_blocks:
            free = pool.free_blocks
            pool.give_back(here[::-1])
            return commands.Failed(reason=f"{len(missing)} blocks are needed, {free} are free")
        blocks = pool.take(len(missing))
        for block, at in zip(blocks, missing, strict=True):
            parent = saved.contents[at - 1] if at else None
            pool.store([block], [saved.contents[at]], [], parent=parent, session=command.session, salt=None)
        pool.use(command.session, blocks + here)
        pool.give_back(blocks[::-1] + here[::-1])
        self._chains[command.session] = saved.contents
        self._chains.move_to_end(command.session)
        whole = len(saved.contents) * pool.block_tokens
        return commands.Moved(tokens=whole, copied_bytes=len(data) if missing else 0)

    def _holdings(self) -> Answer:
        pool = self._engine.pool
        return commands.Holdings(
            blocks=pool.capacity_blocks,
            block_tokens=pool.block_tokens,
            free=pool.free_blocks,
            evicted=pool.order.evicted_blocks,
            sessions={
                session: commands.Held(alone, shared, *pool.order.queue.worth(session))
                for session, (alone, shared) in pool.order.sessions().items()
            },
            requests=len(self._engine.running) + len(self._engine.waiting),
            version=self._version,
            smallest_first=True if self._engine.shape.priority else None,
        )

    def _resident(self, sessions: Sequence[str]) -> Answer:
        names = [name for name in sessions or self._chains if name in self._chains]
        chains = [commands.Chain(name, list(self._found(name))) for name in names]
        return commands.Resident(at_s=time.time(), block_tokens=self._engine.pool.block_tokens, chains=chains)

    def _found(self, session: str) -> Iterator[int]:
        for content in self._chains[session]:
            if not self._engine.pool.holds(content):
                return
            yield content
