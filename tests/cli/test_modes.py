"""The mode is a setting like others: file < environment < flag, and only these three."""

from __future__ import annotations

import pytest

from saga_cli import simulating
from saga_cli.config import resolve
from saga_core.errors import UserError


def test_a_flag_goes_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    file = tmp_path / "saga.toml"
    file.write_text('mode = "latency"\n')
    assert resolve({}, file=file).config.mode == "latency"
    monkeypatch.setenv("SAGA_MODE", "throughput")
    assert resolve({}, file=file).config.mode == "throughput"
    assert resolve({"mode": "balanced"}, file=file).config.mode == "balanced"


def test_another_mode_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"speed.*balanced, latency, throughput"):
        simulating.mode("speed")
    with pytest.raises(UserError, match=r"speed.*balanced, latency, throughput"):
        resolve({"mode": "speed"}, file=None)
