"""The Slurm that the tests here share, and a login node of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_rig import Login, Slurm, start_slurm, stop_slurm


@pytest.fixture(scope="package")
def slurm() -> Iterator[Slurm]:
    """The cluster that tests share, one after the other."""
    found = start_slurm()
    try:
        yield found
    finally:
        stop_slurm(found)


@pytest.fixture
def login(slurm: Slurm, tmp_path: Path) -> Iterator[Login]:
    """A folder of its own; what a failed test leaves in Slurm is cancelled."""
    here = Login(slurm, tmp_path / "c", frozenset(slurm.jobs()))
    try:
        yield here
    finally:
        print(here.logs())  # shown for a test that fails
        slurm.quiet(here.others)
        here.gone()
