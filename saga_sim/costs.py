"""What an engine step costs, and the engines we have figures for, each with its source.

One step takes `step + prefill * tokens + attention * tokens * context + decode * n + context * sum of contexts` seconds.
The same formula as the engine double's and as the policy study's (there: a, b, e, c, d); the table itself is the core's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from saga_core.costs import CostTable
from saga_core.errors import UserError, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The limits of one engine, named as vLLM's flags. `blocks` counts the usable ones, without the null block."""

    block_tokens: int
    blocks: int
    max_model_len_tokens: int
    max_num_seqs: int
    step_tokens: int
    """max_num_batched_tokens: the chunk of chunked prefill."""
    priority: bool = False
    """`--scheduling-policy priority` instead of first come, first served."""
    host_tokens: int = 0
    """KV of so many tokens fits into host memory, as a second tier (`saga_sim.host`)."""
    link_tokens_per_s: float = 200e3
    """How fast it is loaded back; all GPUs of the engine together. 25 GB/s and 128 KiB per token where not said."""

    def __post_init__(self) -> None:
        if self.step_tokens < self.max_num_seqs:
            raise UserError(
                f"{self.step_tokens} tokens per step cannot serve {self.max_num_seqs} sequences (vLLM asks for as many)"
            )
        if self.max_model_len_tokens > self.capacity_tokens:
            raise UserError(
                f"a context of {self.max_model_len_tokens} tokens does not fit a pool of {self.capacity_tokens}"
            )
        if self.host_tokens < 0 or self.link_tokens_per_s <= 0:
            raise UserError(
                f"{self.host_tokens} tokens of host memory at {self.link_tokens_per_s} per second"
            )

    @property
    def capacity_tokens(self) -> int:
        return self.blocks * self.block_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of worker: what it is, how many GPUs it takes, its limits and its costs."""

    name: str
    what: str
    source: str
    gpus: int
    shape: Shape
    costs: CostTable
    start_s: float = 0.0
    """From spawn to ready."""
    way_s: float = 3e-3
    """Client, gateway and HTTP, there and back, beside the engine: some 3 ms where both are on one machine."""

    def with_host(self, multiple: float) -> Preset:
        """The same with host memory of that many pools as a second tier of KV."""
        tokens = round(multiple * self.shape.capacity_tokens)
        return replace(self, shape=replace(self.shape, host_tokens=tokens))


LLAMA_70B_A100 = Preset(
    name="llama3-70b-a100",
    what="Llama-3-70B FP16, TP=4, A100-80GB",
    source="policy study, section 1; not calibrated on this hardware",
    gpus=4,
    shape=Shape(
        block_tokens=16,
        # 4 x 80 GB x 0.9 less 141 GB of weights, at 320 KiB of KV per token: some 450k tokens.
        blocks=450_000 // 16,
        max_model_len_tokens=32_768,
        max_num_seqs=128,
        step_tokens=2048,
        link_tokens_per_s=305e3,  # policy study, section 7: four links of 25 GB/s, 320 KiB per token
    ),
    costs=CostTable(
        step_s=25e-3,
        prefill_token_s=222e-6,
        attention_token2_s=4.2e-9,
        decode_s=0.10e-3,
        context_token_s=58.5e-9,
    ),
)
LLAMA_8B_H100 = Preset(
    name="llama3-8b-h100",
    what="Llama-3-8B BF16, H100-80GB",
    source="policy study, section 1; not calibrated on this hardware",
    gpus=1,
    shape=Shape(
        block_tokens=16,
        blocks=400_000 // 16,
        max_model_len_tokens=120_000,
        max_num_seqs=128,
        step_tokens=8192,
        link_tokens_per_s=190e3,  # policy study, section 7: 25 GB/s, 128 KiB per token
    ),
    costs=CostTable(
        step_s=6e-3,
        prefill_token_s=40e-6,
        attention_token2_s=1.3e-9,
        decode_s=0.03e-3,
        context_token_s=49e-9,
    ),
)
MOE_30B_H100 = Preset(
    name="moe-30b-a3b-h100",
    what="a 30B mixture of experts with 3B active (as Qwen3-30B-A3B), BF16, H100-80GB",
    # An estimate, not a measurement: the 8B table with its prefill and batch cost scaled by active parameters
    # (3.3 of 8.0), the weights read per step (a batch touches most experts: 57 GB at 3.35 TB/s and 60 % of it are
    # 28 ms at full batches, 12 ms is a middle), 48 layers of 4 KV heads of 128: 96 KiB of KV per token.
    source="estimated from the 8B table by active parameters and bytes per step; not calibrated",
    gpus=1,
    shape=Shape(
        block_tokens=16,
        blocks=150_000 // 16,
        max_model_len_tokens=120_000,
        max_num_seqs=128,
        step_tokens=8192,
        link_tokens_per_s=250e3,  # 25 GB/s, 96 KiB per token
    ),
    costs=CostTable(
        step_s=12e-3,
        prefill_token_s=17e-6,
        attention_token2_s=0.8e-9,
        decode_s=0.03e-3,
        context_token_s=37e-9,
    ),
)
AGENT_CPU = Preset(
    name="agent-cpu",
    what="the demo model `agent` (3 M parameters), one CPU core, vLLM 0.32",
    # Cold prefills of 4k, 8k and 16k tokens measured at another time, by text: 0.33, 1.1 and 3.9 s; here 0.39, 1.2, 4.2.
    source="`saga calibrate`, one worker busy: 44 measurements, mean error 7 %; of the 11 ms a call, 3 are its way",
    gpus=0,
    shape=Shape(
        block_tokens=32,  # what saga asks for where nothing is said
        blocks=32_768 // 32,
        max_model_len_tokens=16_384,
        max_num_seqs=128,
        step_tokens=2048,
        # 16,384 tokens were loaded from /dev/shm within 0.20 s, 24 decode steps included: at least this.
        link_tokens_per_s=82e3,
    ),
    costs=CostTable(
        step_s=2.3e-3,
        prefill_token_s=2.81e-5,
        attention_token2_s=2.63e-8,
        decode_s=0.32e-3,
        context_token_s=7.0e-8,
        call_s=7.8e-3,
        prompt_token_s=1.05e-5,
    ),
)

PRESETS = {preset.name: preset for preset in (LLAMA_70B_A100, LLAMA_8B_H100, MOE_30B_H100, AGENT_CPU)}


def preset(name: str) -> Preset:
    """The preset of that name, or of the file that `saga calibrate` wrote. Raises `UserError` with the valid ones."""
    if name.endswith(".json"):
        return read(Path(name).expanduser())
    if name not in PRESETS:
        raise choose("preset", name, [*PRESETS, "FILE.json"])
    return PRESETS[name]


def read(path: Path) -> Preset:
    """A calibrated preset. Raises `UserError` naming the file and what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Preset)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a preset as `saga calibrate` writes it: {error}") from None


def write(path: Path, made: Preset) -> None:
    """The inverse. Raises `UserError` when nothing can be written there."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
