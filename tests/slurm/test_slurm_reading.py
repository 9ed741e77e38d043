"""Slurm's answers, as recorded from 22.05.8, 24.11.5 and 26.05.5, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from saga_core.errors import UserError
from saga_slurm import reading
from saga_slurm.allocation import slurm_time, wall_time
from saga_slurm.calls import Answer
from saga_slurm.commands import is_away
from saga_slurm.facts import JobState, SlurmError, Version
from saga_slurm.reading import SEPARATOR

DATA = Path(__file__).parent / "data"
VERSIONS = ("22.05", "24.11", "26.05")
TAG = "0123456789abcdef" * 2


@pytest.fixture(params=VERSIONS)
def said(request: pytest.FixtureRequest):
    return lambda name: (DATA / request.param / f"{name}.txt").read_text()


def test_jobs(said) -> None:
    jobs = reading.read_jobs(said("squeue"))
    assert sorted(jobs) == ["1", "2", "3", "4", "5", "6"]
    one = jobs["1"]
    assert (one.state, one.name, one.comment) == (JobState.RUNNING, "saga-one", f"saga:{TAG}")
    assert (one.nodelist, one.node_count, one.batch_host, one.partition) == ("node[1-2]", 2, "node1", "main")
    assert one.ends_at is not None
    assert one.ends_at - one.starts_at == 3600
    assert not one.over
    assert not one.waiting
    assert (jobs["2"].name, jobs["2"].comment, jobs["2"].reason) == ("saga two words", "", "Resources")
    assert jobs["2"].starts_at > jobs["2"].submitted_at  # Slurm's estimate
    assert jobs["2"].waiting
    assert (jobs["4"].reason, jobs["4"].starts_at) == ("JobHeldUser", None)
    assert (jobs["6"].state, jobs["6"].reason, jobs["6"].over) == (JobState.FAILED, "NonZeroExitCode", True)


def test_the_same_job_by_scontrol(said) -> None:
    by_squeue = reading.read_jobs(said("squeue"))
    assert reading.read_job_record(said("scontrol-job")) == by_squeue["1"]
    assert reading.read_job_record(said("scontrol-failed")) == by_squeue["6"]


def test_nodes_and_partitions(said) -> None:
    nodes = {node.name: node for node in reading.read_nodes(said("sinfo-nodes"))}
    assert sorted(nodes) == ["node1", "node2", "node3", "node4"]
    assert (nodes["node1"].cpus, nodes["node1"].memory_mb, nodes["node1"].gres) == (16, 64000, "gpu:8")
    assert (nodes["node4"].state, nodes["node4"].reason) == ("drained", "bad fan, see ticket")
    partitions = {part.name: part for part in reading.read_partitions(said("sinfo-partitions"))}
    assert sorted(partitions) == ["high", "main", "nosubmit"]
    assert [name for name, part in partitions.items() if part.default] == ["main"]
    assert (partitions["main"].time_limit_s, partitions["main"].nodes, partitions["main"].gres) == (
        None,
        4,
        "gpu:8",
    )


def test_steps_without_the_script_itself(said) -> None:
    steps = reading.read_steps(said("steps"))
    assert sorted(step.name for step in steps) == ["head", "node-node1"]
    assert all(step.id.startswith("1.") for step in steps)


def test_ids_and_versions(said, request: pytest.FixtureRequest) -> None:
    assert reading.read_job_id(said("sbatch")) == "1"
    assert str(reading.read_version(said("version"))).startswith(request.node.callspec.params["said"])


def test_a_controller_that_is_away_is_told_from_one_that_refuses(said) -> None:
    for name in ("away-sbatch", "away-squeue"):
        assert is_away(Answer(1, "", said(name)))
    for name in ("refused-gres", "refused-partition", "scontrol-missing"):
        assert not is_away(Answer(1, "", said(name)))


@pytest.mark.parametrize(
    ("text", "id_"), [("12", "12"), ("12;other\n", "12"), ("sbatch: warning: no\n12\n", "12")]
)
def test_an_id_among_other_words(text: str, id_: str) -> None:
    assert reading.read_job_id(text) == id_


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("slurm 25.11.2", Version(25, 11, 2)),
        ("slurm-wlm 24.05.0-0rc1", Version(24, 5)),
        ("slurm 23.02", Version(23, 2)),
    ],
)
def test_versions_as_builds_name_them(text: str, version: Version) -> None:
    assert reading.read_version(text) == version


def test_versions_are_in_order() -> None:
    assert Version(22, 5, 8) < Version(24, 11, 5) < Version(25, 11) < Version(26, 5, 5)


@pytest.mark.parametrize("word", ["CANCELLED by 1000", "CANCELLED+", "CANCELLED", "CANCELLED,REQUEUED"])
def test_states_with_more_to_say(word: str) -> None:
    assert reading.job_state(word) is JobState.CANCELLED


def test_nodes_that_differ_are_taken_by_the_least() -> None:
    line = SEPARATOR.join(["n1", "idle*", "16+", "64000+", "(null)", "Not responding"])
    (node,) = reading.read_nodes(line)
    assert (node.cpus, node.memory_mb, node.gres, node.reason) == (16, 64000, "", "Not responding")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (reading.read_jobs, SEPARATOR.join(["1", "DANCING", *[""] * 10])),
        (reading.read_jobs, "1|RUNNING"),
        (reading.read_job_id, "sbatch: error: no"),
        (reading.read_job_record, "nothing of the kind"),
        (reading.read_version, "slurm"),
        (reading.read_partitions, SEPARATOR.join(["main", "up", "sometimes", "4", ""])),
        (
            reading.read_jobs,
            SEPARATOR.join(["1", "RUNNING", *[""] * 5, "1", "2026-01-01T00:00:00", *[""] * 3]),
        ),
    ],
)
def test_what_is_not_understood_is_shown(read, text: str) -> None:
    with pytest.raises(SlurmError) as raised:
        read(text)
    assert "not understood" in str(raised.value)
    assert text.split(SEPARATOR, maxsplit=1)[0] in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("infinite", None), ("30:00", 1800), ("8:00:00", 28800), ("1-12:00:00", 129600), ("UNLIMITED", None)],
)
def test_limits(text: str, seconds: float | None) -> None:
    assert reading.read_limit(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [
        ("90", 5400, "01:30:00"),
        ("90m", 5400, "01:30:00"),
        ("8h", 28800, "08:00:00"),
        ("2d", 172800, "2-00:00:00"),
        ("8:00:00", 28800, "08:00:00"),
        ("30:00", 1800, "00:30:00"),
        ("1-12:00:00", 129600, "1-12:00:00"),
        ("1-12:00", 129600, "1-12:00:00"),
    ],
)
def test_wall_times(text: str, seconds: int, written: str) -> None:
    assert wall_time(text) == seconds
    assert slurm_time(seconds) == written


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "8 hours"])
def test_no_wall_times(text: str) -> None:
    with pytest.raises(UserError, match="valid: 8:00:00"):
        wall_time(text)


def test_a_submit_line_says_nothing_of_the_job(said) -> None:
    """26.05 quotes what was typed, in the same line."""
    text = (
        said("scontrol-job").strip() + " SubmitLine=sbatch --wrap echo JobState=FAILED JobId=9 WorkDir=/tmp"
    )
    job = reading.read_job_record(text)
    assert (job.id, job.state) == ("1", JobState.RUNNING)
