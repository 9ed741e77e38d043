"""A profile with something changed, by its name: `saga+declared~0.7`, `saga+instance`, `saga+no-pause+half_life_s=15`.

Additions say what clients tell (`declared`, `instance`), what workers have (`host~2`: host memory of two pools), take one
mechanism away (`no-…`, `lru`, `by-arrival`), set a constant of admission, or a mode (`mode=throughput`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, cast

import msgspec

from saga_core.errors import UserError
from saga_core.policy import ordering
from saga_core.policy.admission import NEVER, Admission
from saga_core.policy.modes import MODES
from saga_core.policy.ordering import Key
from saga_core.policy.profiles import PROFILES, Profile, profile_of

DECLARED, INSTANCE, HOST = "declared", "instance", "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """sigma: of the log-normal error of the work that workflows declare; None: they declare none. instance: whether they
    name the item that they work on. host: memory behind each worker's, in pools. changes: of the scheduler, as given.
    """

    profile: str
    sigma: float | None = None
    instance: bool = False
    host: float = 0.0
    changes: tuple[str, ...] = ()

    @property
    def scheduler(self) -> str:
        """What the head runs by: the profile's name with what is changed of it."""
        return "+".join((self.profile, *self.changes))


def _gate(**constants: Any) -> Callable[[Profile], Profile]:
    def changed(profile: Profile) -> Profile:
        if profile.admission is None:
            raise UserError("it has no gate")
        return replace(profile, admission=replace(profile.admission, **constants))

    return changed


def _by(key: Key) -> Callable[[Profile], Profile]:
    """Let in and paused in that order."""
    return lambda profile: replace(profile, key=key, victim=None)


TAKEN_AWAY: Mapping[str, tuple[str, Callable[[Profile], Profile]]] = {
    "no-gate": ("every step goes to its worker as it comes", lambda p: replace(p, admission=None)),
    "no-pause": ("who is in is never paused", _gate(high=NEVER)),
    "no-gap": ("paused and resumed at the same limit", _gate(low=1.0, high=1.0)),
    "no-adapting": ("the limit is the memory, whatever the worker does", _gate(adaptive=False)),
    "no-half-life": ("a session in a tool counts fully", _gate(half_life_s=0.0)),
    "no-reserve": ("growth is not counted before it happens", _gate(reserve_tokens=0)),
    "no-grace": ("nobody is overdue", _gate(grace_s=NEVER, patience_s=NEVER)),
    "no-rehoming": ("the paused come back to their home only", _gate(rehome_share=0.0)),
    "lru": ("engines forget what was used least recently", lambda p: replace(p, retention=None)),
    "by-arrival": ("in the order of arrival", _by(ordering.arrival)),
    "by-virtual-finish": (
        "in the order of virtual finish times",
        _by(ordering.virtual_finish),
    ),
    "newest-first": ("the newest first, whatever its work", _by(ordering.newest)),
    "engine-order": ("engines serve by the key too", lambda p: replace(p, engine_order=True)),
    "smallest-first": ("the smallest context first", _by(ordering.smallest)),
}
"""What may be taken away of a profile, or put in its place."""
MODE = "mode"
CONSTANTS = {field.name: type(field.default) for field in fields(Admission)}


def variant(name: str) -> Variant:
    """Of a name. Raises UserError for an addition that there is not; the profile itself is not checked."""
    profile, *additions = name.split("+")
    named = Variant(profile=profile)
    for addition in additions:
        word, tilde, value = addition.partition("~")
        if word == DECLARED:
            named = replace(named, sigma=_number(name, value) if tilde else 0.0)
        elif word == HOST:
            named = replace(named, host=_number(name, value))
        elif addition == INSTANCE:
            named = replace(named, instance=True)
        else:
            _check(name, addition)
            named = replace(named, changes=(*named.changes, addition))
    return named


def _number(name: str, written: str) -> float:
    with suppress(ValueError):
        number = float(written)
        if 0 <= number < inf:
            return number
    raise UserError(
        f"profile {name!r}: {written!r} is no number from 0 on (valid: +{DECLARED}~0.7, +{HOST}~2)"
    )


def _check(name: str, addition: str) -> None:
    constant, equal, value = addition.partition("=")
    if equal and constant == MODE and value in MODES:
        return
    if equal and constant in CONSTANTS:
        _value(constant, value)
    elif addition not in TAKEN_AWAY:
        valid = ", ".join(
            (
                f"{DECLARED}[~SIGMA]",
                INSTANCE,
                f"{HOST}~POOLS",
                *TAKEN_AWAY,
                *(f"{c}=VALUE" for c in CONSTANTS),
            )
        )
        raise UserError(f"profile {name!r}: not known after '+': {addition!r} (valid: {valid})")


def _value(constant: str, written: str) -> Any:
    try:
        return msgspec.convert(written, CONSTANTS[constant], strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"admission.{constant}={written}: {error}") from None


def changed(named: Variant) -> Profile:
    """The profile with its changes. Raises UserError for those that it cannot have."""
    profile = profile_of(named.profile, Admission())
    for change in named.changes:
        try:
            profile = _rule(change)(profile)
        except UserError as error:
            raise UserError(f"{named.scheduler}: {error}") from None
    if profile.admission is not None and profile.admission.low > profile.admission.high:
        raise UserError(f"{named.scheduler}: admission.low is above admission.high")
    return profile


def _rule(change: str) -> Callable[[Profile], Profile]:
    constant, equal, value = change.partition("=")
    if constant == MODE:
        low, high = MODES[value]
        return _gate(low=low, high=high)
    return _gate(**{constant: _value(constant, value)}) if equal else TAKEN_AWAY[change][1]


@contextmanager
def known(named: Variant) -> Iterator[str]:
    """The name under which heads of this process may run by the variant meanwhile. Profiles that are not changed stay themselves."""
    if not named.changes:
        yield named.profile
        return
    table = cast("dict[str, Profile]", PROFILES)
    table[named.scheduler] = changed(named)
    try:
        yield named.scheduler
    finally:
        del table[named.scheduler]
