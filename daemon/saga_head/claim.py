"""Which head of a folder may act: the one whose epoch stands in `head.json`.

Rules of this file
  1. A head claims its folder by an epoch above the one that stands there, and acts only while it has read within
     `LEASE_S` that no newer one does. After a pause, however long and wherever, it reads again before it acts.
  2. Who takes a folder over from a head that may live waits for `LEASE_S` after the claim, and looks whether the claim
     still stands. So two heads never both act.
  3. A head that finds a newer epoch ends at once and writes nothing more.
  4. `head.lock` (flock) tells on one machine whether another head lives. On shared storage it may lie both ways, so
     between machines only the claim counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from saga_core.errors import ClusterError
from saga_shell import log
from saga_shell.files import write_private

FILE: Final = "head.json"
LEASE_S: Final = 5.0
"""How long a look at the claim is good for: longer than a shared file system usually takes for anything."""
LOOK_EVERY_S: Final = 1.0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the folder is."""

    epoch: int
    """Nanoseconds since the epoch at the claim, but above every earlier one."""
    host: str
    pid: int
    job: str = ""
    """Slurm's number of the job it runs in; empty: none."""
    restarts: int = 0
    """How often Slurm had requeued that job."""
    released: bool = False
    """That head has ended, in peace."""


class Superseded(ClusterError):  # noqa: N818 - a fact, and a case callers tell apart
    """A newer head has the folder."""


def read(folder: Path) -> Claim | None:
    """The claim that stands; None: none. Raises `ClusterError` for a file that cannot be read.

    It is opened each time: a shared file system shows then what another machine has written.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Claim)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClusterError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ClusterError(f"{path} is damaged ({error}): remove it if no head of this folder runs") from None


@contextlib.contextmanager
def locked(folder: Path, *, take_over: bool = False) -> Iterator[bool]:
    """Be the only head of this folder on this machine; whether that is so. Raises `ClusterError` naming the other one.

    take_over: go on without the lock where another process has it, or nobody can have one.
    """
    path = folder / "head.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(fd, 256, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        if take_over:
            log.warning("no-lock", owner=owner, reason=error.strerror)
            yield False
            return
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ClusterError(
                f"a head is already running on {folder}: {owner} (--take-over takes the folder over from it)"
            ) from None
        raise ClusterError(f"{path}: {error.strerror} (--take-over does without it)") from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield True
    finally:
        os.close(fd)


def take(folder: Path, *, locked: bool, sleep: Callable[[float], None] = time.sleep) -> tuple[Claim, bool]:
    """Claim `folder`; the claim, and whether the head before may live, so that its journal is not to be gone on with.

    `locked`: this process holds the folder's lock. Raises `Superseded` where another head claims it meanwhile.
    """
    before = read(folder)
    claim = Claim(
        epoch=max(time.time_ns(), before.epoch + 1 if before is not None else 0),
        host=os.uname().nodename,
        pid=os.getpid(),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restarts=_number(os.environ.get("SLURM_RESTART_COUNT", "")),
    )
    _write(folder, claim)
    contested = before is not None and not before.released and not (locked and before.host == claim.host)
    if contested:
        sleep(LEASE_S)
    Fence(folder, claim).look()
    return claim, contested


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _write(folder: Path, claim: Claim) -> None:
    write_private(folder / FILE, msgspec.json.encode(claim) + b"\n")


class Fence:
    """Keeps a head from acting once a newer one has its folder."""

    def __init__(self, folder: Path, claim: Claim, clock: Callable[[], float] | None = None) -> None:
        """`clock`: seconds that also pass while this machine sleeps."""
        self.folder, self.claim = folder, claim
        self._clock = clock or _boot_s
        self._looked_at = self._clock()

    def check(self) -> None:
        """Call before acting. Raises `Superseded`, or `ClusterError` where nobody can tell any more."""
        if self._clock() - self._looked_at > LEASE_S:
            self.look()

    def look(self) -> None:
        """Read the claim. Raises as `check`; a folder without one has been removed, and is nobody else's."""
        at, found = self._clock(), read(self.folder)
        if found is not None and found.epoch > self.claim.epoch:
            raise Superseded(
                f"the head with pid {found.pid} on {found.host} has taken {self.folder} over: this one ends"
            )
        self._looked_at = at

    def release(self) -> None:
        """Say that this head ends: who comes next need not wait for it."""
        with contextlib.suppress(ClusterError, OSError):
            self.look()
            if read(self.folder) is not None:
                _write(self.folder, replace(self.claim, released=True))


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
