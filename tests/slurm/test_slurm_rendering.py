"""Batch scripts: whole ones against goldens, and what may not stand in one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from saga_core.errors import UserError
from saga_slurm.allocation import Allocation, Role
from saga_slurm.rendering import directives, environment, render
from saga_slurm.site import Site, read_site, site_of

ROOT = Path(__file__).parents[2]
SITES = ROOT / "docs" / "sites"
GOLDEN = ROOT / "tests" / "golden" / "slurm"


def allocation(**changes) -> Allocation:
    said = {
        "role": Role.CLUSTER, "tag": "0123456789abcdef" * 2, "name": "agents", "folder": "/home/ann/.saga/default",
        "nodes": 4, "gpus_per_node": 8, "time_s": 8 * 3600, "python": "/opt/saga/bin/python",
    }  # fmt: skip
    return Allocation(**{**said, **changes})


CASES = {
    "cluster": (allocation(), None),
    "cluster-flags": (allocation(partition="gpu", account="a1", qos="high"), None),
    "successor": (allocation(predecessor="f" * 32, predecessor_job="41", lead_s=600), None),
    "join": (allocation(role=Role.JOIN, nodes=2, settings={"workers.count": "8", "workers.extra_args": "--a --b"}), None),
    "elastic": (allocation(elastic=True), None),
    "tools": (allocation(role=Role.TOOLS, nodes=1, gpus_per_node=0, settings={"workers.count": "0"}), None),
    "odd-names": (allocation(name="it's mine; rm -rf", folder="/home/an n's/.saga/d"), None),
    **{f"site-{path.stem}": (allocation(gpus_per_node=0 if path.stem == "cpu" else 8), path) for path in sorted(SITES.glob("*.toml"))},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    wanted, path = CASES[case]
    text = render(wanted, read_site(path) if path else Site(), version="1.0")
    golden = GOLDEN / f"{case}.sbatch"
    if os.environ.get("SAGA_UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()
    script = tmp_path / "script"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    assert "{{" not in text


def test_directives_stand_before_the_first_command() -> None:
    lines = render(allocation(), Site(), version="1.0").splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_an_unknown_placeholder_is_named() -> None:
    with pytest.raises(
        UserError, match=r"unknown placeholder \{\{colour\}\} in a job template \(have: command, "
    ):
        render(allocation(), Site(), version="1", templates=lambda _: "#!/bin/bash\n{{colour}}\n")


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"jobs": {}}, "unknown section 'jobs' in s.toml, did you mean 'job'?"),
        (
            {"job": {"partitions": "x"}},
            "unknown name in [job] 'partitions' in s.toml, did you mean 'partition'?",
        ),
        ({"job": 3}, "job is a value, not a section"),
        ({"job": {"exclusive": "yes"}}, "Expected `bool`, got `str`"),
        (
            {"job": {"gpus": "tres"}},
            "unknown job.gpus 'tres', did you mean 'gres'? (have: gpus-per-node, gres, none)",
        ),
        ({"software": {"container": "docker"}}, "unknown software.container 'docker'"),
        ({"software": {"container": "pyxis"}}, "needs software.image"),
        ({"job": {"extra": ["-p gpu"]}}, "is not a directive"),
        ({"software": {"env": {"A B": "c"}}}, "is not a name of a variable"),
        ({"job": {"silent_s": 0}}, "job.silent_s = 0: at least 1 is valid"),
        ({"job": {"deputies": -1}}, "job.deputies = -1: at least 0 is valid"),
        ({"slurm": {"backend": "rest"}}, "unknown slurm.backend 'rest' (have: auto, cli, pyslurm)"),
    ],
)
def test_a_site_that_cannot_be_says_what_and_what_is_valid(tables: dict, words: str) -> None:
    with pytest.raises(UserError) as raised:
        site_of(tables, "s.toml")
    assert words in str(raised.value)
    assert "s.toml" in str(raised.value)


def test_site_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_site(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[job")
    with pytest.raises(UserError, match="not valid TOML"):
        read_site(tmp_path / "bad.toml")


def test_flags_win_over_the_site() -> None:
    site = site_of({"job": {"partition": "slow", "account": "a"}}, "s")
    found = directives(allocation(partition="fast"), site)
    assert "--partition=fast" in found
    assert "--account=a" in found


@pytest.mark.parametrize("field", ["partition", "account", "qos"])
def test_words_that_would_end_a_directive_are_refused(field: str) -> None:
    with pytest.raises(UserError, match="not a word that can stand in a directive"):
        directives(allocation(**{field: "x\n#SBATCH --uid=0"}), Site())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 0}, "--nodes 0: at least 1"),
        ({"gpus_per_node": -1}, "--gpus-per-node -1"),
        ({"time_s": 30}, "at least 0:01:00"),
        ({"folder": '/a"b'}, "must not have"),
        ({"folder": "/a%j"}, "must not have"),
    ],
)
def test_allocations_that_cannot_be(changes: dict, words: str) -> None:
    with pytest.raises(UserError) as raised:
        allocation(**changes)
    assert words in str(raised.value)


def test_values_of_the_environment_expand_variables_and_nothing_else(tmp_path: Path) -> None:
    value = '$HERE/a "b" `touch x` $(touch y) \\ ${HERE}z $1'
    site = site_of({"software": {"env": {"WHERE": value}}}, "s")
    script = environment(site) + '\nprintf %s "$WHERE"'
    done = subprocess.run(
        ["bash", "-u", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"HERE": "/h"},
    )
    assert done.stdout == '/h/a "b" `touch x` $(touch y) \\ /hz $1'
    assert not list(tmp_path.iterdir())
