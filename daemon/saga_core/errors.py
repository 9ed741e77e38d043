"""Every error saga raises on purpose.

    SagaError
    ├── UserError                  the caller asked for something impossible   exit code 2
    ├── ClusterError               the cluster could not do it                 exit code 1
    ├── ProtocolError              two saga processes disagree (never raised itself)
    │   ├── LocalProtocolError     we are about to break the rules
    │   └── RemoteProtocolError    the peer did
    └── InvalidTransition          a bug: a life cycle left its table, with its story

Outcomes of requests (refused, lost, cancelled) are data, not exceptions. Any other
exception that leaves saga is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence


class SagaError(Exception):
    """Root of the tree: its text is fit to be shown to a person as it is."""


class UserError(SagaError):
    """The request itself is wrong; the text says what, where, and what is valid."""


class ClusterError(SagaError):
    """The request was fine and the cluster could not do it."""


class ProtocolError(SagaError):
    """Two saga processes disagree about the protocol."""


class LocalProtocolError(ProtocolError):
    """We were about to send something that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""


class InvalidTransition(SagaError):  # noqa: N818 - it is a fact about a life cycle
    """A life cycle has no such step. Carries the last things that happened to the object."""

    def __init__(self, what: str, state: str, cause: str, story: Sequence[str] = ()) -> None:
        self.what, self.state, self.cause, self.story = what, state, cause, tuple(story)
        told = "; ".join(self.story) or "nothing yet"
        super().__init__(f"{what}: no transition from {str(state)!r} by {cause!r} (story: {told})")


def choose(kind: str, name: str, valid: Sequence[str], where: str = "") -> UserError:
    """The error for a name that is not among the valid ones, with the nearest of them.

    `unknown policy 'lur', did you mean 'lru'? (have: lru, ttl)`
    """
    from difflib import get_close_matches

    at = f" in {where}" if where else ""
    near = get_close_matches(name, valid, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{at}{hint} (have: {', '.join(sorted(valid)) or 'none'})")
