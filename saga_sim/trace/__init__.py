"""Trace files: recordings and synthetic workloads of agent programs, reduced to counts, times and names."""

from saga_sim.trace.format import load_trace, parse_source, read_trace, write_trace
from saga_sim.trace.records import Blocks, Step, Tool, Workflow, session_names, shared_tokens

__all__ = [
    "Blocks",
    "Step",
    "Tool",
    "Workflow",
    "load_trace",
    "parse_source",
    "read_trace",
    "session_names",
    "shared_tokens",
    "write_trace",
]
