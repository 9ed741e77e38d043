"""What the gateway and the scheduler behind it say to each other.

The gateway owns sockets and bytes, the scheduler owns decisions. Everything here is called on the event
loop's thread, and nothing here waits: an answer that takes time comes later through the `Exchange`.

One request is one *step*. Its life, seen from the scheduler:

    authenticate -> next_step -> arrive -> [dispatch -> [lost -> dispatch]* -> first_byte?] -> finish

`lost` also comes after `first_byte` where a stream can be gone on with by another worker.

`finish` comes exactly once for each `arrive`, also when the client leaves before any `dispatch`.

What is made for every step is a `msgspec.Struct`: built in C, a fifth of the time of a frozen dataclass.
"""

from typing import Protocol

import msgspec

from saga_core.events import Outcome


class Caller(msgspec.Struct, frozen=True):
    """Who owns the key, or the token in the path."""

    tenant: str
    workflow: int | None


NO_JSON = msgspec.Raw()  # stands for an absent field; a JSON null reads b"null"
NO_TOOLS = len(b"null")  # an empty list is shorter
OPENING_BYTES = 4096  # of a prompt and of its tools: by these, programs are told apart


class Fields(msgspec.Struct, kw_only=True, gc=False):
    """The few body fields that decide something; the rest of the body is never looked at.

    Compound fields stay raw JSON, copied out so that a kept `Call` does not keep a 200 KB body alive.
    """

    model: str
    stream: bool | None = False
    session_id: str | None = None
    program_id: str | None = None  # ThunderAgent
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    user: str | None = None
    priority: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None  # Responses API
    metadata: msgspec.Raw = NO_JSON
    conversation: msgspec.Raw = NO_JSON  # a string or an object, Responses API
    session_params: msgspec.Raw = NO_JSON
    vllm_xargs: msgspec.Raw = NO_JSON
    nvext: msgspec.Raw = NO_JSON
    cache_salt: str | None = None
    store: bool | None = None  # Responses API
    # Of these, the first OPENING_BYTES.
    messages: msgspec.Raw = NO_JSON
    system: msgspec.Raw = NO_JSON  # Messages API
    instructions: msgspec.Raw = NO_JSON  # Responses API
    tools: msgspec.Raw = NO_JSON

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("`model` is empty")
        if self.metadata is not NO_JSON:
            self.metadata = self.metadata.copy()
        if self.conversation is not NO_JSON:
            self.conversation = self.conversation.copy()
        if self.session_params is not NO_JSON:
            self.session_params = self.session_params.copy()
        if self.vllm_xargs is not NO_JSON:
            self.vllm_xargs = self.vllm_xargs.copy()
        if self.nvext is not NO_JSON:
            self.nvext = self.nvext.copy()
        if self.messages is not NO_JSON:
            self.messages = _opening(self.messages)
        if self.tools is not NO_JSON:
            self.tools = _opening(self.tools) if len(memoryview(self.tools)) > NO_TOOLS else NO_JSON
        if self.system is not NO_JSON:
            self.system = _opening(self.system)
        if self.instructions is not NO_JSON:
            self.instructions = _opening(self.instructions)


def _opening(value: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(bytes(memoryview(value)[:OPENING_BYTES]))


class Call(msgspec.Struct):
    """One request as the scheduler sees it: no socket."""

    step: int
    caller: Caller
    api: str  # '/v1/chat/completions'; the token is stripped, the query is not part of it
    fields: Fields
    # Lower-case names; only those of head.IDENTITY_PREFIXES, head.IDENTITY_NAMES and head.TRACE. To be read only: the
    # next call of the connection may have the same dictionary.
    headers: dict[bytes, bytes]
    body_bytes: int
    # What a worker is sent, and arrive() may look into. The exchange empties it when a worker answers or the step is over.
    body: bytes | bytearray = b""


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where a step goes, and what is said on the way there and back."""

    worker: str
    host: str
    port: int
    key: str  # bearer for the worker; never logged
    session: str | None = None  # sent as X-Session-ID
    reply_headers: tuple[tuple[bytes, bytes], ...] = ()  # put into the reply's head
    priority: int | None = None  # for an engine that serves by it; takes the place of the client's own
    cache_salt: bytes | None = (
        None  # parts this tenant's prefix cache from others'; visible ASCII without quotes
    )
    trace: bytes = (
        b""  # header lines of W3C Trace Context in the place of the client's; empty: its own are passed on
    )


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """An error answer in OpenAI's words; `message` says what, where and what is valid."""

    status: int
    type: str
    code: str
    message: str
    retry_after_s: int | None = None
    param: str | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The worker's own token counts of one step."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Result(msgspec.Struct, frozen=True, gc=False):
    """How a step ended. `status` is what the client was sent, 0 if nothing was."""

    outcome: Outcome
    status: int
    usage: Usage | None
    ttft_s: float | None  # arrival to the first byte of the reply's body
    duration_s: float  # arrival to this moment
    detail: str
    tool: str = ""  # what the answer asks for; "-": for nothing; "": not seen
    response: str = ""  # id under which the answer is kept for a later step to continue


class Exchange(Protocol):
    """The gateway's side of one request. Calls after `finish` do nothing."""

    def dispatch(self, target: Target) -> None:
        """Send the step to a worker: inside arrive() or lost(), or any time later; one at a time."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer the client with an error; only while the step is not on a worker."""

    def abort(self) -> None:
        """Stop at once, wherever it is: the client gets an error, the worker sees a closed connection."""

    def lose(self, detail: str) -> None:
        """The worker is known to be dead although its connection is not: as if it had closed."""


class Scheduler(Protocol):
    """The head's side."""

    def authenticate(self, token: str | None, bearer: str | None) -> Caller | Refusal:
        """Say who is calling; compares in constant time."""

    def next_step(self) -> int:
        """Return a number no other step of this cluster has."""

    def arrive(self, call: Call, exchange: Exchange) -> None:
        """Take a complete, well-formed request; dispatch() or refuse() follows, now or later."""

    def first_byte(self, step: int, ttft_s: float) -> None:
        """Note the first byte of the reply's body."""

    def finish(self, step: int, result: Result) -> None:
        """Note the end; exactly once for each arrive()."""

    def lost(self, step: int, worker: str, detail: str, *, begun: bool) -> bool:
        """Decide after a worker died: before any byte reached the client, or `begun`: with a part of the answer there.

        True: dispatch() or refuse() follows (it may come inside this call). False: the gateway answers
        502, or ends the stream with an error event, and calls finish().
        """
