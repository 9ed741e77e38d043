"""Every bound the gateway puts on strangers, in one place."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in bytes, seconds and counts. Deadlines are swept, so they are exact to `sweep_s`."""

    # Open client connections, those handed to the fallback included; 503 beyond. The process needs about
    # three file descriptors for each (client, worker, spare): `ulimit -n` >= 3 x this.
    connections: int = 8192
    head_bytes: int = 32 * KIB
    headers: int = 100
    body_bytes: int = 64 * MIB
    bodies_bytes: int = 1024 * MIB  # all request bodies held at one time; 503 beyond
    # Streams are kept so that another worker can go on with them: a request and what was said, of one and of all.
    resume_bytes: int = 4 * MIB
    resumes_bytes: int = 256 * MIB
    header_timeout_s: float = 15.0  # first byte of a head to its last
    body_idle_s: float = 30.0  # between two reads of a request body
    keep_alive_idle_s: float = 75.0  # nginx's default; longer than the SDKs' pools keep theirs
    stalled_reader_s: float = 300.0  # a client that takes no reply byte this long is let go
    # A step that waits: silence until a stream gets its head and comments, and a JSON reply its head and white space
    # (the SDKs of OpenAI and Anthropic give up after 600 s without a byte, many proxies after 60 s); then between beats.
    held_stream_s: float = 15.0
    held_json_s: float = 240.0
    held_beat_s: float = 15.0
    linger_s: float = (
        2.0  # after an early error: drop what is still on its way, so that no RST eats the answer
    )
    pipelined_bytes: int = 64 * KIB  # requests sent ahead; beyond it the connection closes after this reply
    reply_head_bytes: int = 64 * KIB
    connect_timeout_s: float = 5.0
    # Idle worker connections: below vLLM's own 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE), or a POST meets a closing socket.
    worker_idle_s: float = 3.5
    worker_idle_connections: int = 512  # per worker; more are closed when they fall idle
    sweep_s: float = 0.5
