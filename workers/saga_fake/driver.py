"""Runs the engine model in real time on the event loop and hands each request its tokens."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from saga_fake.engine import Engine
from saga_fake.kv_events import KVEvent
from saga_fake.requests import EngineRequest, Output

SHORTEST_SLEEP_S = 1e-3
"""epoll's resolution: shorter steps are slept together, so that a high --speed is really reached."""


class Driver:
    """Steps the engine while it has work. `speed` divides all times; infinity never sleeps."""

    def __init__(
        self, engine: Engine, *, speed: float, publish: Callable[[list[KVEvent]], None] | None
    ) -> None:
        self.engine = engine
        self.speed = speed
        self.slow_factor = 1.0
        self._publish = publish
        self._outputs: dict[EngineRequest, asyncio.Queue[Output]] = {}
        self._work = asyncio.Event()
        self._moving = asyncio.Event()
        self._moving.set()
        self._task = asyncio.create_task(self._run(), name="engine")
        self._task.add_done_callback(_report)

    @property
    def in_flight(self) -> int:
        return len(self._outputs)

    def freeze(self, *, frozen: bool) -> None:
        """Stand still, or go on."""
        if frozen:
            self._moving.clear()
        else:
            self._moving.set()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[Output, None]:
        """Tokens of a new request as they are made; leaving the iteration early aborts the request."""
        outputs: asyncio.Queue[Output] = asyncio.Queue()
        self._outputs[request] = outputs
        try:
            self.engine.submit(request, time.monotonic())
            self._work.set()
            finished = False
            while not finished:
                output = await outputs.get()
                finished = output.finish is not None
                yield output
        finally:
            del self._outputs[request]
            self.engine.abort(request)

    async def close(self) -> None:
        """Stop stepping."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            await self._moving.wait()
            step = self.engine.schedule(time.monotonic())
            if step is None:
                self._send_events()
                self._work.clear()
                await self._work.wait()
                due_s = time.monotonic()
                continue
            due_s = (
                max(due_s, time.monotonic() - SHORTEST_SLEEP_S)
                + step.duration_s * self.slow_factor / self.speed
            )
            await self._sleep_until(due_s)
            outputs = self.engine.complete(step, time.monotonic())
            self._send_events()
            for output in outputs:
                self._outputs[output.request].put_nowait(output)

    async def _sleep_until(self, due_s: float) -> None:
        ahead_s = due_s - time.monotonic()
        await asyncio.sleep(ahead_s if ahead_s >= SHORTEST_SLEEP_S else 0)
        await self._moving.wait()

    def tell(self) -> None:
        """Publish what happened, if the engine steps: it would be told with the next step otherwise."""
        if self._moving.is_set():
            self._send_events()

    def _send_events(self) -> None:
        events = self.engine.pool.take_events()
        if self._publish is not None:
            self._publish(events)


def _report(task: asyncio.Task[None]) -> None:
    """A model that broke must not look like an engine that hangs."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "the engine model broke", "exception": error, "task": task}
        task.get_loop().call_exception_handler(context)
