"""Stands for the module `pyslurm` in tests: the names of 25.11 that the bridge uses, over a Slurm of its own making.

STUB_PYSLURM says how it behaves: `hang`, `exit` (as the real one does at import without a slurm.conf), `away`, `old`.
"""

import os
import time
from types import SimpleNamespace

__version__ = "25.11.2"
MODE = os.environ.get("STUB_PYSLURM", "")
if MODE == "exit":
    os._exit(1)


class RPCError(Exception):
    def __init__(self, errno, text):
        super().__init__(text)
        self.errno = errno


def _check():
    if MODE == "hang":
        time.sleep(600)
    if MODE == "away":
        raise RPCError(1800, "Unable to contact slurm controller (connect failure)")


class Config:
    @staticmethod
    def load():
        _check()
        return SimpleNamespace(version="24.11.5" if MODE == "old" else "26.05.1")


slurmctld = SimpleNamespace(Config=Config)


def _job(id_, state, **more):
    plain = {
        "state_reason": "None", "name": "saga-one", "comment": None, "partition": "main", "allocated_nodes": None,
        "num_nodes": 2, "submit_time": 1000, "start_time": 1010, "end_time": 4610, "batch_host": None,
    }  # fmt: skip
    return SimpleNamespace(id=id_, state=state, **(plain | more))


JOBS = {
    1: _job(1, "RUNNING", comment="saga:" + "a" * 32, allocated_nodes="node[1-2]", batch_host="node1"),
    2: _job(2, "PENDING", state_reason="Resources", name="other", start_time=0, end_time=0),
    3: _job(3, "CANCELLED+"),
}


class Jobs:
    @staticmethod
    def load():
        _check()
        return JOBS


class Job:
    def __init__(self, id_):
        self.id = id_

    def _known(self):
        if self.id not in JOBS:
            raise RPCError(2017, "Invalid job id specified")

    def cancel(self):
        self._known()
        JOBS[self.id].state = "CANCELLED"

    def send_signal(self, signal, steps="children"):
        self._known()
        if not signal.startswith("SIG"):
            raise ValueError(signal)
        JOBS[self.id].comment = f"{signal} {steps}"

    def requeue(self):
        self._known()
        JOBS[self.id].state = "PENDING"

    def hold(self):
        raise RPCError(2002, "Access/permission denied")

    def release(self):
        raise ValueError("something of its own")


class Nodes:
    @staticmethod
    def load():
        node = SimpleNamespace(
            name="node1",
            state="IDLE+DRAIN",
            total_cpus=16,
            real_memory=64000,
            configured_gres={"gpu": 8},
            reason=None,
        )
        return {"node1": node}


class Partitions:
    @staticmethod
    def load():
        main = SimpleNamespace(name="main", is_default=True, state="UP", max_time="UNLIMITED", total_nodes=4)
        short = SimpleNamespace(name="short", is_default=False, state="DOWN", max_time=60, total_nodes=1)
        return {"main": main, "short": short}
