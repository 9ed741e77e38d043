"""What a server is started with."""

from dataclasses import dataclass, field
from pathlib import Path

from saga_fake.costs import CostTable
from saga_fake.engine import EngineShape
from saga_fake.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeConfig:
    """Everything that a server is started with; port 0 lets the system choose."""

    models: tuple[str, ...] = ("fake",)
    adapters: tuple[str, ...] = ()
    """Names served beside, as adapters of the first model."""
    host: str = "127.0.0.1"
    port: int = 0
    shape: EngineShape = field(default_factory=EngineShape)
    costs: CostTable = field(default_factory=CostTable)
    kv_events_endpoint: str | None = None
    kv_replay_endpoint: str | None = None
    kv_topic: str = ""
    speed: float = 1.0
    seed: int = 0
    script: Path | None = None
    reply_tokens: int | None = None
    """Length after which an invented reply stops by itself; None: at the request's limit, or at 64 without one."""
    api_key: str | None = field(default=None, repr=False)
    control: bool = True
    """Whether it takes orders about sessions' KV, for this `incarnation`."""
    incarnation: int = 0
    fault: Fault = field(default_factory=Fault)

    @property
    def served(self) -> tuple[str, ...]:
        """Every name that a request may have."""
        return (*self.models, *self.adapters)
