"""What a person says about an import, and what an importer hands back."""

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from saga_core.errors import UserError, choose
from saga_sim.trace.records import MAX_NAME_CHARS, Step, Workflow, Workload

WORKLOADS: tuple[str, ...] = get_args(Workload)
MAX_BLOCK_TOKENS = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """`workload`, `block_size`, `tokenizer`: None or empty means the importer's own."""

    tenant: str | None = None
    workload: Workload | None = None
    block_size: int | None = None
    tokenizer: str = ""

    def __post_init__(self) -> None:
        if self.block_size is not None and not 1 <= self.block_size <= MAX_BLOCK_TOKENS:
            raise UserError(f"--block-size {self.block_size} is not valid (valid: 1 to {MAX_BLOCK_TOKENS})")
        if self.tenant is not None and not 1 <= len(self.tenant) <= MAX_NAME_CHARS:
            raise UserError(
                f"--tenant {self.tenant[:40]!r} is not valid (valid: 1 to {MAX_NAME_CHARS} characters)"
            )

    def workflow(
        self,
        *,
        workflow_id: str,
        source: str,
        workload: Workload,
        harness: str,
        arrival_s: float | None,
        timing: Literal["measured", "partial", "none"],
        steps: tuple[Step, ...],
        block_size: int | None = None,
        tokens: Literal["reported", "o200k_base", "estimated"] = "reported",
        instance: str | None = None,
    ) -> Workflow:
        """A workflow with what was asked for all of them."""
        return Workflow(
            version=1,
            workflow_id=workflow_id,
            source=source,
            workload=self.workload or workload,
            harness=harness,
            tenant=self.tenant,
            arrival_s=arrival_s,
            block_size=block_size,
            hash_scope=None if block_size is None else "source",
            tokens=tokens,
            timing=timing,
            steps=steps,
            instance=instance,
        )


@dataclass(slots=True, kw_only=True)
class Imported:
    """The workflows of an import in order of arrival, and what had to be left out, by reason."""

    workflows: list[Workflow]
    left_out: dict[str, int] = field(default_factory=dict)


def workload_named(name: str) -> Workload:
    """The format's word for a workload. Raises UserError for one that it has not."""
    if name not in WORKLOADS:
        raise choose("workload", name, WORKLOADS, "--workload")
    return cast("Workload", name)
