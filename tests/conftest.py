"""Slow proofs run when they are asked for; Ctrl-C means Ctrl-C, however the suite was started."""

import signal

import pytest

# A shell without job control starts what it puts into the background with SIGINT ignored, and children inherit that:
# tests that interrupt a process would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "nightly" in config.option.markexpr:
        return
    slow = pytest.mark.skip(reason="a slow proof: run it with -m nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(slow)
