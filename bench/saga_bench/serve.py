"""`python -m saga_bench.serve FOLDER BACKEND_PORT`: the whole head, with one worker that is the backend.

Everything of the daemon is there: gateway, shell, journal on disk, metrics, control API, ticks, the
ZeroMQ socket. Only the node daemon is played: its hello and its reports go straight to the shell,
once a second as from a real one. Writes `{"port": ..., "key": ...}` to FOLDER/ready.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from saga_bench.crowd import MODEL
from saga_core import wire
from saga_core.errors import SagaError
from saga_core.ids import NodeId, worker_id
from saga_core.states import WorkerState
from saga_head import claim, garbage
from saga_head.app import App
from saga_shell.files import write_private

NODE = NodeId("bench")
MAX_SEQS = 4096
"""More than there are clients: load never takes a step away from the one worker."""
POLL_S = 0.01


async def play_node(app: App, backend_port: int) -> None:
    """Be the node of one ready worker, until cancelled."""
    while not app.shell.url:  # noqa: ASYNC110 - once, at the start
        await asyncio.sleep(POLL_S)
    hello = wire.Hello(protocol=wire.PROTOCOL, version="bench", node=NODE, incarnation=1, host="127.0.0.1")
    app.shell.handle(hello)
    seq = 0
    while True:
        seq += 1
        app.shell.handle(wire.Report(node=NODE, incarnation=1, seq=seq, workers=[_worker(backend_port)]))
        if seq == 1:
            found = {"port": int(app.shell.url.rpartition(":")[2]), "key": app.keys.api_key}
            write_private(app.folder / "ready.json", json.dumps(found).encode())
        await asyncio.sleep(app.config.head.report_every_s)


def _worker(port: int) -> wire.WorkerFact:
    return wire.WorkerFact(
        worker=worker_id(NODE, 0),
        incarnation=1,
        state=WorkerState.READY,
        model=MODEL,
        host="127.0.0.1",
        port=port,
        key="backend",
        capacity_tokens=1_000_000,
        max_model_len=262_144,
        max_seqs=MAX_SEQS,
    )


async def serve(folder: Path, fence: claim.Fence, backend_port: int) -> None:
    """Run the head until a signal ends it."""
    app = App(folder, fence)
    node = asyncio.create_task(play_node(app, backend_port))
    try:
        with garbage.brief():
            await app.run()
    finally:
        node.cancel()


def _run(folder: Path, backend_port: int, *, with_uvloop: bool) -> None:
    claimed, _ = claim.take(folder, locked=True)
    fence = claim.Fence(folder, claimed)
    runner = asyncio.run
    if with_uvloop:
        import uvloop

        runner = uvloop.run
    try:
        runner(serve(folder, fence, backend_port))
    finally:
        fence.release()


def main() -> int:
    """Exit code 0 after a signal, 1 on a problem."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.serve", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("backend_port", type=int)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="asyncio")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        with claim.locked(given.folder):
            _run(given.folder, given.backend_port, with_uvloop=given.loop == "uvloop")
    except SagaError as error:
        print(f"saga_bench.serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
