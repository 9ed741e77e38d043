"""The ways in which the engine can misbehave, chosen at start (`--fault MODE[=VALUE]`) or by `POST /fake/mode`."""

from enum import StrEnum

import msgspec

from saga_core.errors import UserError


class Mode(StrEnum):
    """What goes wrong; `value` of the fault in brackets."""

    OK = "ok"
    CRASH = "crash"
    """Exit 1 now."""
    CRASH_AFTER_CHUNKS = "crash_after_chunks"
    """Exit 1 before the streamed chunk after this many [chunks, default 1]."""
    HANG = "hang"
    """Accept and never answer, /health included; the engine stands still. /fake/mode still works."""
    STALL = "stall"
    """The engine stands still; everything else answers, /health and /metrics included."""
    SLOW = "slow"
    """Every engine step takes longer by this [factor, default 10]."""
    REFUSE = "refuse"
    """Answer generation with 503, as vLLM does when its queue is full."""
    RESET = "reset"
    """Close the connection in mid-stream after this many [chunks, default 1], without an end."""
    BAD_START = "bad_start"
    """Exit 1 at start with an error on stderr."""
    SLOW_START = "slow_start"
    """Answer nobody for this long after the start [seconds, default 5]."""


DEFAULT_VALUES = {Mode.CRASH_AFTER_CHUNKS: 1.0, Mode.SLOW: 10.0, Mode.RESET: 1.0, Mode.SLOW_START: 5.0}
ONLY_AT_START = frozenset({Mode.BAD_START, Mode.SLOW_START})


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mode with its value; stays until the next one is set."""

    mode: Mode = Mode.OK
    value: float | None = None

    @property
    def amount(self) -> float:
        """The value, or the mode's default."""
        return DEFAULT_VALUES.get(self.mode, 0.0) if self.value is None else self.value

    def __post_init__(self) -> None:
        if self.value is not None and (self.mode not in DEFAULT_VALUES or not 0 <= self.value < float("inf")):
            takers = ", ".join(DEFAULT_VALUES)
            raise ValueError(
                f"mode {self.mode}: value {self.value} is not valid; a value >= 0 goes with {takers}"
            )


def parse_fault(text: str) -> Fault:
    """A fault from `MODE` or `MODE=VALUE`. UserError lists the modes."""
    mode, _, value = text.partition("=")
    try:
        return Fault(mode=Mode(mode), value=float(value) if value else None)
    except ValueError as error:
        modes = ", ".join(Mode)
        raise UserError(
            f"--fault {text}: {error}; valid: MODE or MODE=VALUE with MODE one of {modes}"
        ) from error
