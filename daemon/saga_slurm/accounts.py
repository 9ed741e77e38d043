"""Slurm's accounts as tenants: what `sshare` and `sacctmgr` say of them, made into weights.

Both need slurmdbd; where there is none, they say so, and accounts stay without a weight of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from saga_core.tenants import LEAST_WEIGHT, MOST_WEIGHT
from saga_slurm.facts import SlurmError

SSHARE: Final = (
    "sshare", "--all", "--parsable2", "--noheader", "--format=Account,User,NormShares,FairShare",
)  # fmt: skip
QOS: Final = ("sacctmgr", "--parsable2", "--noheader", "show", "qos", "format=Name,Priority")
ASSOCIATIONS: Final = (
    "sacctmgr", "--parsable2", "--noheader", "show", "assoc", "format=Account,User,DefaultQOS,QOS",
)  # fmt: skip
NO_ACCOUNTING: Final = (
    "this Slurm keeps no accounts (no slurmdbd): tenants are set by hand (`saga tenant add NAME --weight N`)"
)
ROOT: Final = "root"
"""The account at the top of every tree, which nobody submits under."""


class By(StrEnum):
    """What of Slurm's sets a weight."""

    SHARES = "shares"
    """The part of the machine that the account was promised. saga itself counts what it uses of its cluster."""
    FAIRSHARE = "fairshare"
    """What Slurm thinks it is still owed: everything it ran in Slurm counts, not this cluster alone."""
    QOS = "qos"
    """The priority of the account's quality of service."""


@dataclass(frozen=True, slots=True)
class Share:
    """One line of sshare; without a user it is the account's own."""

    account: str
    user: str
    norm_shares: float | None
    """Part of the whole machine."""
    fair_share: float | None
    """Of a user, 0 to 1; 0.5 in balance."""


def read_shares(text: str) -> list[Share]:
    """What `SSHARE` printed. Raises SlurmError for a line that is none, or none at all."""
    found = [_share(line) for line in text.splitlines() if line.strip()]
    if not found:
        raise SlurmError(NO_ACCOUNTING)
    return found


def _share(line: str) -> Share:
    parts = [part.strip() for part in line.split("|")]
    if len(parts) != 4:
        raise SlurmError(f"sshare said {line[:200]!r}: Account|User|NormShares|FairShare was asked for")
    return Share(parts[0], parts[1], _number(parts[2]), _number(parts[3]))


def _number(text: str) -> float | None:
    """None: Slurm has none (the root's shares, an account's fair share; `parent` where shares are inherited)."""
    try:
        return float(text)
    except ValueError:
        return None


def by_shares(shares: Iterable[Share]) -> dict[str, float]:
    """Weights by promised parts: 1 for an account that has the average one."""
    own = {s.account: s.norm_shares for s in shares if not s.user and s.account != ROOT and s.norm_shares}
    mean = sum(own.values()) / len(own) if own else 1.0
    return {account: _bounded(part / mean) for account, part in own.items()}


def by_fair_share(shares: Iterable[Share]) -> dict[str, float]:
    """Weights by what is owed: 1 in balance, 2 for who had nothing yet. An account's is the mean of its users'.

    sshare gives accounts themselves no figure (Fair Tree ranks users).
    """
    users: dict[str, list[float]] = {}
    for share in shares:
        if share.user and share.fair_share is not None:
            users.setdefault(share.account, []).append(share.fair_share)
    return {account: _bounded(2 * sum(found) / len(found)) for account, found in users.items()}


def by_qos(priorities: Mapping[str, float], default: Mapping[str, str]) -> dict[str, float]:
    """Weights by priority of each account's default QOS: 1 for the average of those in use."""
    found = {account: 1.0 + priorities.get(qos, 0.0) for account, qos in default.items()}
    mean = sum(found.values()) / len(found) if found else 1.0
    return {account: _bounded(one / mean) for account, one in found.items()}


def read_qos(text: str) -> dict[str, float]:
    """What `QOS` printed: priority by name."""
    pairs = [line.split("|") for line in text.splitlines() if line.strip()]
    return {name: _number(priority) or 0.0 for name, priority in pairs}


def read_associations(text: str) -> dict[str, str]:
    """What `ASSOCIATIONS` printed: each account's QOS; its default one, else the first that it may use."""
    found = {}
    for line in text.splitlines():
        account, user, default, allowed = ([part.strip() for part in line.split("|")] + [""] * 4)[:4]
        if account and not user and account != ROOT:
            found[account] = default or allowed.split(",")[0]
    return found


def _bounded(weight: float) -> float:
    return round(min(max(weight, LEAST_WEIGHT), MOST_WEIGHT), 3)
