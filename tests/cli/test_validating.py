"""`saga sim validate`: what is compared with what, and how it is said."""

from dataclasses import fields, replace
from io import StringIO

import pytest
from rich.console import Console

from saga_cli import validating
from saga_cli.folder import ClusterFolder
from saga_cli.local import neighbours
from saga_cli.replaying import Workload
from saga_cli.validating import Plan, Validation
from saga_sim.costs import AGENT_CPU

PLAN = Plan(
    profiles=("sticky",),
    pressures=(0.4,),
    workers=2,
    workload=Workload(synth="demo", workflows=4),
    engine="fake",
    seed=1,
    rounds=2,
)


class Quiet:
    def phase(self, *_):
        pass


@pytest.fixture(scope="module")
def compared():
    """A cell whose live runs are what the simulator says for the table as it is, the second one a tenth slower."""
    from msgspec.structs import replace

    spec = validating._spec(PLAN, AGENT_CPU)
    cell = validating._Cell(profile="sticky", pressure=0.4)
    cell.workflows = validating._arriving(PLAN, spec, 0.4)
    for before, factor in ((0, 1.0), (40, 1.1)):
        said = validating._simulated(PLAN, spec, cell, before)[0]
        live = replace(said, tct_mean_s=said.tct_mean_s * factor)
        cell.lives.append((live, before, 0.25))
    return validating._compared(PLAN, spec, cell, Quiet())


def test_live_and_simulated_means_are_compared_and_both_scatters_said(compared):
    live = [run.live.tct_mean_s for run in compared.runs]
    assert compared.tct_live_s == pytest.approx(sum(live) / 2)
    assert compared.tct_spread == pytest.approx((max(live) - min(live)) / compared.tct_live_s)
    assert compared.tct_error == pytest.approx(compared.tct_simulated_s / compared.tct_live_s - 1)
    assert compared.tct_error == pytest.approx(1 / 1.05 - 1, abs=0.02), (
        "live is a twentieth slower on average"
    )
    assert abs(compared.cached_error) < 0.01
    assert 0 < compared.tct_scatter < 0.5
    assert compared.others_cores == 0.25


def test_each_live_run_is_simulated_under_its_own_numbers(compared):
    """A hash places by the number of a workflow: the same number of runs under other numbers is another run."""
    first, second = ([s.tct_mean_s for s in run.simulated] for run in compared.runs)
    assert len(first) == len(second) == validating.SHAKEN
    assert first != second


def test_costs_are_shaken_by_a_hundredth_at_most_and_one_run_has_them_as_they_are():
    costs = AGENT_CPU.costs
    assert validating._shaken(costs, 0) == costs
    for number in range(1, 50):
        shaken = validating._shaken(costs, number)
        assert shaken != costs
        for each in fields(costs):
            assert getattr(shaken, each.name) == pytest.approx(
                getattr(costs, each.name), rel=validating.SHAKE
            )


def test_what_others_take_of_the_machine_is_counted_without_us(tmp_path, monkeypatch):
    class Times:
        idle, iowait = 0.0, 0.0

        def __init__(self, busy):
            self.busy = busy

        def __iter__(self):
            return iter((self.busy,))

    class Us:
        user, system = 0.0, 0.0

    busy = iter((100.0, 107.0))
    now = iter((10.0, 12.0))
    used = iter((1.0, 4.0))
    monkeypatch.setattr(neighbours.psutil, "cpu_times", lambda: Times(next(busy)))
    monkeypatch.setattr(neighbours, "monotonic", lambda: next(now))

    def ours(_):
        times = Us()
        times.user = next(used)
        return times

    monkeypatch.setattr(neighbours.psutil.Process, "cpu_times", ours)
    monkeypatch.setattr("saga_cli.local.processes.find", lambda _: [])
    assert neighbours.others_cores(ClusterFolder(tmp_path))() == pytest.approx((7.0 - 3.0) / 2.0)


def test_the_table_says_errors_spreads_and_means(compared):
    validation = Validation(
        workers=2, workflows=4, rounds=2, preset=None, calibration_error=0.05, cells=[compared],
        mean_tct_error=0.047, mean_cached_error=0.001,
    )  # fmt: skip
    console = Console(width=140, file=StringIO())
    console.print(validating.table(validation))
    text = console.file.getvalue()
    assert "mean TCT 4.7%, cached tokens 0.1% (calibration 5.0%" in text
    assert f"{compared.tct_error:+.1%}" in text
    assert f"{compared.tct_spread:.1%}" in text
    assert "0.25" in text


@pytest.mark.parametrize(
    ("profiles", "first"), [(["sticky", "saga-paper", "las"], "saga-paper"), (["sticky", "saga"], "sticky")]
)
def test_the_engines_order_by_priority_where_one_of_the_profiles_wants_it(profiles, first):
    plan = replace(PLAN, profiles=profiles)
    assert validating._settings(plan)["profile"] == first
