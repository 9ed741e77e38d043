"""The way from here to a head in an allocation: by TCP where that is open, else through a step of its job.

A step needs no port, no ssh and no rights but those of the job's owner: `srun --overlap` starts a shell on the head's
node, which joins its own input and output to the head's port. Keys travel inside, never in an argument.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from http.client import HTTPConnection
from typing import IO, Final
from urllib.parse import urlsplit

from saga_core.access import Access
from saga_core.errors import choose
from saga_slurm.backend import inside
from saga_slurm.calls import environment

VARIABLE: Final = "SAGA_WAY"
WAYS: Final = ("auto", "direct", "srun")
CONNECT_S: Final = 2.0
"""A port on the cluster's own network answers within milliseconds; a firewall never does."""
END_S: Final = 5.0
MAX_WORDS_BYTES: Final = 4096
_PIPE: Final = 'exec 3<>"/dev/tcp/$0/$1" 4<&0 || exit 1; cat <&4 >&3 & cat <&3; kill $! 2>/dev/null; exit 0'
"""For bash: an exchange that says `Connection: close` ends when the head has answered. A command in the background
would read nothing from 0, so the input is 4."""


def way_to(access: Access) -> tuple[str, ...]:
    """The command that joins its input and output to the head; none where TCP does."""
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in WAYS:
        raise choose("way", asked, WAYS, VARIABLE)
    if not access.job or not access.job_node or asked == "direct" or (asked == "auto" and _open(access.url)):
        return ()
    address = urlsplit(access.url)
    words = ["bash", "-c", _PIPE, address.hostname or "", str(address.port)]
    return tuple(inside(access.job, access.job_node, words))


def tunnel_hint(access: Access, way: tuple[str, ...]) -> str:
    """What an OpenAI client on this side needs, where only steps reach the head; empty where TCP does."""
    if not way:
        return ""
    address = urlsplit(access.url)
    return (
        f"no TCP from here to {address.netloc}: saga's own commands go through srun; for a client, where the site "
        f"allows ssh to nodes: ssh -N -L 8000:{address.netloc} {address.hostname}, then http://localhost:8000/v1"
    )


def _open(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=CONNECT_S).close()
    except OSError as error:
        # Refused by the machine itself: it is reached, and the head is not there. srun would not find it either.
        return isinstance(error, ConnectionRefusedError)
    return True


class Piped(HTTPConnection):
    """An HTTP connection over the input and output of a command."""

    def __init__(self, argv: tuple[str, ...], host: str, timeout_s: float) -> None:
        super().__init__(host, timeout=timeout_s)
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._said = ""

    def connect(self) -> None:
        """Start the command; what is wrong with it shows when it is read from."""
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                self._argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._errors,
                env=environment(), start_new_session=True,
            )  # fmt: skip
        ours.settimeout(self.timeout)
        self.sock = ours

    def words(self) -> str:
        """What the command complained of; http.client has closed the connection when it raises."""
        self.close()
        return self._said

    def close(self) -> None:
        """End the command; srun ends its step when it is told to."""
        super().close()
        process, self._process = self._process, None
        if process is not None:
            self._reap(process)
        if self._errors is not None:
            self._errors.seek(0)
            lines = self._errors.read(MAX_WORDS_BYTES).decode(errors="replace").splitlines()
            self._said = "; ".join(line.strip() for line in lines if line.strip())
            self._errors.close()
            self._errors = None

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                process.send_signal(number)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
            return
