"""Slurm's accounts as tenants: words of sshare and sacctmgr into weights, and into the cluster's tenants."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import typer
from slurm_rig import Slurm
from typer.testing import CliRunner

from saga_cli.commands.submit_options import Tenant
from saga_cli.slurm.accounts import AccountTenant, apply, compared
from saga_slurm import accounts
from saga_slurm.accounts import By, by_fair_share, by_qos, by_shares, read_associations, read_qos, read_shares
from saga_slurm.commands import Commands
from saga_slurm.facts import SlurmError

SHARES = """root||0.000000|
root|root|0.250000|1.000000
 physics||0.500000|
  physics|ann|0.500000|0.250000
  physics|bob|0.500000|0.750000
 biology||0.250000|
  biology|eve|parent|0.900000
 empty||0.000000|
"""
ASSOCIATIONS = "root|||normal\nphysics||high|high,normal\nphysics|ann||high\nbiology|||normal,low\n"
QOS = "normal|0\nhigh|3\nlow|\n"


def test_promised_parts_are_weights_around_one() -> None:
    assert by_shares(read_shares(SHARES)) == {"physics": 1.333, "biology": 0.667}


def test_what_is_owed_is_the_mean_of_the_users() -> None:
    found = by_fair_share(read_shares(SHARES))
    assert found == {"root": 2.0, "physics": 1.0, "biology": 1.8}


def test_priorities_of_the_default_qos() -> None:
    defaults = read_associations(ASSOCIATIONS)
    assert defaults == {"physics": "high", "biology": "normal"}
    assert by_qos(read_qos(QOS), defaults) == {"physics": 1.6, "biology": 0.4}


def test_what_sshare_does_not_say() -> None:
    with pytest.raises(SlurmError, match="no slurmdbd"):
        read_shares("\n")
    with pytest.raises(SlurmError, match=r"sshare said 'a\|b'"):
        read_shares("a|b\n")


async def test_the_commands_are_asked_for_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, cases in (
        ("sshare", {accounts.SSHARE[-1]: SHARES}),
        ("sacctmgr", {accounts.QOS[-1]: QOS, accounts.ASSOCIATIONS[-1]: ASSOCIATIONS}),
    ):
        lines = [f"case \"$*\" in *'{words}') cat <<'E'\n{text}E\n;; esac" for words, text in cases.items()]
        (tmp_path / name).write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    commands = Commands(timeout_s=10)
    assert await commands.account_weights(By.SHARES) == {"physics": 1.333, "biology": 0.667}
    assert (await commands.account_weights(By.FAIRSHARE))["biology"] == 1.8
    assert await commands.account_weights(By.QOS) == {"physics": 1.6, "biology": 0.4}


class Tenants:
    """What a head is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float | None]] = []

    def add_tenant(self, name: str, weight: float | None, *_: object) -> None:
        self.told.append(("add", name, weight))

    def limit_tenant(self, name: str, weight: float | None, *_: object) -> None:
        self.told.append(("limit", name, weight))


def test_only_what_changes_is_told_and_odd_names_are_left_out() -> None:
    found = compared({"a": 1.0, "b": 2.0, "c": 3.0, "two words": 1.0}, {"a": 1.0, "b": 1.0, "default": 1.0})
    assert found[0] == AccountTenant(tenant="a", weight=1.0, before=1.0)
    assert "is no name for a tenant" in found[3].problem
    head = Tenants()
    apply(head, found)  # type: ignore[arg-type]
    assert head.told == [("limit", "b", 2.0), ("add", "c", 3.0)]


def test_a_program_counts_for_the_slurm_account_it_is_submitted_under(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = typer.Typer()

    @app.command()
    def submit(tenant: Tenant = "default") -> None:
        print(tenant)

    def said(*words: str, **env: str) -> str:
        blank = {"SAGA_TENANT": None, "SLURM_JOB_ACCOUNT": None, "SBATCH_ACCOUNT": None}
        return CliRunner().invoke(app, words, env=blank | env).output.strip()

    assert said() == "default"
    assert said(SBATCH_ACCOUNT="physics") == "physics"
    assert said(SBATCH_ACCOUNT="physics", SLURM_JOB_ACCOUNT="biology") == "biology"
    assert said("--tenant", "me", SLURM_JOB_ACCOUNT="biology") == "me"


@pytest.mark.slurm
@pytest.mark.parametrize("by", list(By))
def test_a_slurm_without_accounts_says_so(slurm: Slurm, monkeypatch: pytest.MonkeyPatch, by: By) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    with pytest.raises(SlurmError, match=r"keeps no accounts \(no slurmdbd\)"):
        asyncio.run(Commands(timeout_s=15).account_weights(by))
