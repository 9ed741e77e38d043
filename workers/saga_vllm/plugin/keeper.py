"""Session control of one engine: whose blocks are whose, and what the node daemon's orders do.

Everything here runs in the engine's thread. A fault of ours never stops the engine: the pool gets a queue of vLLM's
own again, and every later order is answered by why (`retreat`).
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, assert_never

import vllm
from vllm.logger import init_logger
from vllm.v1.core.kv_cache_utils import (
    FreeKVCacheBlockQueue,
    make_block_hash_with_group_id,
    maybe_convert_block_hash,
)

from saga_core.errors import RemoteProtocolError
from saga_core.kv import commands
from saga_core.kv.commands import Answer, Command
from saga_core.kv.retention import OVER, Worth
from saga_vllm.plugin import moving
from saga_vllm.plugin.ahead import Ahead
from saga_vllm.plugin.moving import Cannot, NotYet
from saga_vllm.plugin.queue import SessionQueue

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from saga_vllm.plugin.shelf import Shelf

MOST_CHAINS = 4096
"""Sessions of which the latest prompt's block hashes are kept, for snapshots; the longest unused are forgotten."""

logger = init_logger("vllm.saga")
P = ParamSpec("P")


def _guarded(method: Callable[Concatenate[Keeper, P], None]) -> Callable[Concatenate[Keeper, P], None]:
    """A hook of the engine's: nothing when we are out of order, and what goes wrong puts us out of order."""

    def guarded(self: Keeper, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.fault is None:
            try:
                method(self, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - serving goes on, whatever it is
                self.retreat(f"{method.__qualname__}: {type(error).__name__}: {error}")

    return guarded


class Keeper:
    """The session control of one pool."""

    def __init__(
        self,
        pool: BlockPool,
        block_tokens: int,
        now: Callable[[], float] = time.monotonic,
        *,
        smallest_first: bool | None = None,
    ) -> None:
        """`block_tokens`: of the first attention group, as KV events count. `smallest_first`: for `Holdings`."""
        self.pool, self.block_tokens = pool, block_tokens
        self.smallest_first = smallest_first
        self.incarnation = int(os.environ.get(commands.INCARNATION_VARIABLE) or 0)
        self.fault: str | None = None
        """Why it does nothing any more."""
        self.queue = SessionQueue(pool, now)
        self.order = self.queue.order
        self.orders = [self.order]
        """Whose worths are set: the pool's, and that of the host memory behind it."""
        self.ahead: Ahead | None = None
        self.copying: Callable[[Any, list[int]], bool] = lambda _, __: False
        """Whether these free blocks are still read for host memory: vLLM fences only what a step of its own takes."""
        pool.free_block_queue = self.queue
        self.model, self.groups = "", 1
        """Its name, and how many kinds of KV it has."""
        self._requests: dict[str, Request] = {}
        self._chains: OrderedDict[str, Sequence[Any]] = OrderedDict()
        """Block hashes of each session's latest prompt and answer."""

    def put_behind(self, shelf: Shelf) -> None:
        """There is host memory behind the pool."""
        self.orders.append(shelf.order)
        self.ahead = Ahead(self, shelf)

    # -- what the engine does ------------------------------------------------------------

    @_guarded
    def arrived(self, request: Request) -> None:
        """A request was added to the engine."""
        if request.session_id:
            self._requests[request.request_id] = request
            if self.ahead is not None:
                self.ahead.forget(request.session_id)  # it has come

    @_guarded
    def admitted(self, request: Request, groups: Iterable[Sequence[KVCacheBlock]]) -> None:
        """All blocks of a request that begins, or begins again after a preemption: found and new ones."""
        if request.session_id:
            for blocks in groups:
                self.order.use(request.session_id, self._numbers([block.block_id for block in blocks]))
            self._leave(request)
            self._chain(request.session_id, request.block_hashes)

    @_guarded
    def scheduled(self, output: SchedulerOutput) -> None:
        """One step was planned: the new blocks of requests that were running already."""
        cached = output.scheduled_cached_reqs
        for name, groups in compress(
            zip(cached.req_ids, cached.new_block_ids, strict=True), cached.new_block_ids
        ):
            if name not in cached.resumed_req_ids and (request := self._requests.get(name)):
                for numbers in groups:
                    self.order.use(request.session_id, self._numbers(numbers))

    @_guarded
    def finished(self, request: Request) -> None:
        """A request is over; its blocks are freed next."""
        if self._requests.pop(request.request_id, None) is not None:
            if request.session_id not in self._chains:  # dropped meanwhile
                self._chain(request.session_id, request.block_hashes)
            if self.ahead is not None:
                self.ahead.remember(request)

    def _numbers(self, numbers: list[int]) -> list[int]:
        """Null blocks stand where a model with a window needs nothing any more."""
        null = self.pool.null_block.block_id
        return [number for number in numbers if number != null] if null in numbers else numbers

    def _leave(self, request: Request) -> None:
        """What its session's latest prompt and answer had, and this prompt has not, is in no context any more.

        Only behind a beginning of both: a prompt that begins otherwise is beside the context (a title, a check), and
        does not take its place. And only where the session has a worth: without any the order is vLLM's.
        """
        session, now = request.session_id, request.block_hashes
        before = self._chains.get(session)
        if not before or not now or before is now or before[0] != now[0] or not self.order.valued(session):
            return
        most = min(len(before), len(now))
        if before[most - 1] == now[most - 1] and most == len(before):
            return
        # Each hash is of all before it as well: from the first that differs on all do.
        same = bisect_left(range(most), True, key=lambda at: before[at] != now[at])
        left = [block.block_id for name in before[same:] if (block := self.find(name)) is not None]
        self.order.leave(session, left[::-1])

    def _chain(self, session: str, hashes: Sequence[Any]) -> None:
        self._chains[session] = hashes
        self._chains.move_to_end(session)
        if len(self._chains) > MOST_CHAINS:
            self._chains.popitem(last=False)

    def retreat(self, reason: str) -> None:
        """Something of ours or of vLLM's is not as we know it: its own queue is back, serving goes on."""
        logger.error("saga: session control is off: %s", reason)
        self.fault = reason
        free = [block for block in self.pool.blocks if self.order.is_free(block.block_id)]
        free.sort(key=lambda block: block.block_hash is not None)
        queue = FreeKVCacheBlockQueue([])
        queue.append_n(free)
        self.pool.free_block_queue = queue

    # -- what the node daemon orders -----------------------------------------------------

    def answer(self, frame: bytes, engine: Any = None) -> bytes:
        """Do what `frame` orders; never raises. `engine`: vLLM's core, which takes requests and reaches the ranks."""
        try:
            return commands.encode(self._answer(commands.decode_order(frame), engine))
        except (RemoteProtocolError, Cannot, ValueError, OSError) as error:
            return commands.encode(commands.Failed(reason=str(error), again=isinstance(error, NotYet)))
        except Exception as error:  # noqa: BLE001 - serving goes on, whatever it is
            self.retreat(f"order: {type(error).__name__}: {error}")
            return commands.encode(commands.Failed(reason=self.fault or ""))

    def _answer(self, order: commands.Order, engine: Any) -> Answer:
        if self.fault is not None:
            return commands.Failed(reason=self.fault)
        if order.incarnation != self.incarnation:
            return commands.Stale(incarnation=self.incarnation)
        self.queue.follow_reset()
        return self._do(order.command, engine)

    def _do(self, command: Command, engine: Any) -> Answer:
        match command:
            case commands.Retain():
                self._value(command.session, command.worth, command.ttl_s)
            case commands.Release():
                self._value(command.session, None)
            case commands.Value():
                for session, worth in command.worths.items():
                    self._value(session, worth)
            case commands.Drop():
                return self._drop(command.session)
            case commands.Stats():
                return self._holdings()
            case commands.Snapshot():
                return self._resident(command.sessions)
            case commands.Prefetch():
                if self.ahead is None:
                    raise Cannot("there is no host memory behind the pool")
                return commands.Done(blocks=self.ahead.load(command.session, engine))
            case commands.Export():
                return self._export(command, engine.model_executor)
            case commands.Adopt():
                return self._adopt(command, engine)
            case _:
                assert_never(command)
        return commands.Done()

    def _value(self, session: str, worth: Worth | None, ttl_s: float | None = None) -> None:
        for order in self.orders:
            if worth is None:
                order.release(session)
            else:
                order.retain(session, worth, inf if ttl_s is None else ttl_s)
        if self.ahead is not None and worth is not None and worth[0] <= OVER[0]:
            self.ahead.forget(session)

    def _drop(self, session: str) -> Answer:
        blocks = self.order.drop(session)
        self.pool.evict_blocks(set(blocks))
        self._chains.pop(session, None)
        for behind in self.orders[1:]:  # its manager alone gives chunks back
            behind.retain(session, OVER)
        if self.ahead is not None:
            self.ahead.forget(session)
        return commands.Done(blocks=len(blocks))

    def _holdings(self) -> Answer:
        sessions = {
            session: commands.Held(alone, shared, *self.order.queue.worth(session))
            for session, (alone, shared) in self.order.sessions().items()
        }
        return commands.Holdings(
            blocks=self.pool.num_gpu_blocks - 1,
            block_tokens=self.block_tokens,
            free=self.queue.num_free_blocks,
            evicted=self.order.evicted_blocks,
            sessions=sessions,
            requests=len(self._requests),
            version=vllm.__version__,
            smallest_first=self.smallest_first,
        )

    def _resident(self, sessions: Sequence[str]) -> Answer:
        names = [name for name in sessions or self._chains if name in self._chains]
        chains = [commands.Chain(name, list(self._found(name))) for name in names]
        return commands.Resident(at_s=time.time(), block_tokens=self.block_tokens, chains=chains)

    # -- moving --------------------------------------------------------------------------

    def _export(self, command: commands.Export, executor: Any) -> Answer:
        ranks = self._ranks(executor)
        hashes, ids = [], []
        for block_hash in self._chains.get(command.session, ()):
            block = self.find(block_hash)
            if block is None:
                break
            hashes.append(block_hash)
            ids.append(block.block_id)
        if not ids:
            raise Cannot(f"nothing of session {command.session} is here")
        copied_bytes = moving.save(
            Path(command.path),
            model=self.model,
            block_tokens=self.block_tokens,
            hashes=hashes,
            ranks=ranks,
            data=executor.collective_rpc(moving.read, args=(self.pool.num_gpu_blocks, ids)),
        )
        return commands.Moved(tokens=len(ids) * self.block_tokens, copied_bytes=copied_bytes)

    def _adopt(self, command: commands.Adopt, engine: Any) -> Answer:
        header, data = moving.load(Path(command.path))
        mine = (self.model, self.block_tokens, self._ranks(engine.model_executor))
        theirs = (header.model, header.block_tokens, header.ranks)
        if theirs != mine:
            raise Cannot(f"{command.path} is of another model or layout than this engine's")
        if len(data) > 1:
            raise Cannot(f"{command.path} is of {len(data)} ranks: only one can be moved so far")
        found = [self.find(name) for name in header.hashes]
        here = [block for block in found if block is not None]
        missing = [at for at, block in enumerate(found) if block is None]
        self.pool.touch(here)  # or the rest might take the place of what is there already
        try:
            if len(missing) > self.queue.num_free_blocks:
                raise Cannot(f"{len(missing)} blocks are needed, {self.queue.num_free_blocks} are free")
            if missing:
                self._take_in(command.session, header, missing, data, engine)
            self.order.use(command.session, [block.block_id for block in here])
        finally:
            self.pool.free_blocks(reversed(here))
        self._chain(command.session, header.hashes)
        return commands.Moved(
            tokens=len(header.hashes) * self.block_tokens, copied_bytes=sum(map(len, data)) if missing else 0
        )

    def _take_in(
        self, session: str, header: moving.Header, missing: list[int], data: list[bytes], engine: Any
    ) -> None:
        """Blocks for what is missing: filled, named, the session's, and free to be found."""
        blocks = self.pool.get_new_blocks(len(missing))
        try:
            ids = [block.block_id for block in blocks]
            if self.copying(engine.scheduler, ids):
                raise NotYet("blocks are on their way to host memory")
            where = (self.pool.num_gpu_blocks, ids, data[0], missing, len(header.hashes))
            engine.model_executor.collective_rpc(moving.write, args=where)
            for at, block in zip(missing, blocks, strict=True):
                name = make_block_hash_with_group_id(header.hashes[at], 0)
                self.pool._insert_block_hash(name, block, num_tokens=(at + 1) * self.block_tokens)  # noqa: SLF001
            self.order.use(session, ids)
            moving.announce(self.pool, session, header, missing)
        finally:
            self.pool.free_blocks(reversed(blocks))  # those that got no name hold nothing

    def _ranks(self, executor: Any) -> tuple[tuple[moving.Layer, ...], ...]:
        if self.groups != 1:
            raise Cannot(f"a model with {self.groups} kinds of KV cannot be moved so far")
        found = executor.collective_rpc(moving.layers, args=(self.pool.num_gpu_blocks,))
        return tuple(found)

    def find(self, block_hash: Any) -> KVCacheBlock | None:
        """The block of the pool that holds this; None: it has to be computed, or loaded."""
        index = self.pool.cached_block_hash_to_block
        return index.get_one_block(make_block_hash_with_group_id(block_hash, 0))

    def _found(self, session: str) -> Iterator[int | bytes]:
        """The leading blocks of its chain that can be found, named as in KV events."""
        for block_hash in self._chains[session]:
            if self.find(block_hash) is None:
                return
            yield maybe_convert_block_hash(block_hash)
