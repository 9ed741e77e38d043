"""Which APIs' streams can be gone on with, and what each of them brings for it: how it is read, asked for and told."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from saga_head.gateway.choices import ChoicesSaid
from saga_head.gateway.choices_continued import ChoicesContinuation
from saga_head.gateway.enquiry import Enquiry, Found
from saga_head.gateway.messages import MessagesSaid
from saga_head.gateway.messages_continued import MessagesContinuation
from saga_head.gateway.port import Usage
from saga_head.gateway.responses import ResponsesSaid
from saga_head.gateway.responses_continued import ResponsesContinuation
from saga_head.gateway.spoken import Said, Spoken


class Continuation(Protocol):
    """How one stream goes on after one loss. `Unable` from every method: it does not."""

    usage: Usage | None
    """Of all workers together, as far as they have told it."""

    @property
    def over(self) -> bool:
        """Whether nothing is missing but `end`."""

    @property
    def end(self) -> bytes:
        """The last events, where all else is with the client."""

    def enquiry(self) -> Enquiry:
        """What the next worker is to be asked first."""

    def body(self, found: Found) -> bytes:
        """The request for the rest."""

    def tell(self, event: bytes) -> bytes:
        """An event of the rest, as whole events of the stream that the client reads; empty: it is not told."""


@dataclass(frozen=True, slots=True)
class Speech:
    """One API's streams."""

    said: Callable[[], Said]
    goes_on: Callable[[Spoken[Any], Usage | None], Continuation]
    """Raises `Unable`; the usage is what the lost worker told."""


SPEECHES: dict[str, Speech] = {
    "/v1/chat/completions": Speech(ChoicesSaid, partial(ChoicesContinuation, chat=True)),
    "/v1/completions": Speech(ChoicesSaid, partial(ChoicesContinuation, chat=False)),
    "/v1/messages": Speech(MessagesSaid, MessagesContinuation),
    "/v1/responses": Speech(ResponsesSaid, ResponsesContinuation),
}
