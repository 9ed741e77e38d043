"""Small models with random weights, made on this machine: the real engine runs, and nothing is downloaded.

The architecture is Qwen3's (grouped-query attention, bf16). Building one imports torch and transformers, so it belongs
into a process of its own: `python -m saga_vllm.model --size agent OUT`. Importing this module stays light.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from saga_core.errors import UserError, choose

# Raise it whenever the recipe changes what is written: a model built by an older recipe is built anew.
RECIPE = 1
STAMP = "saga-model.json"

VOCABULARY_TOKENS = 4096
CONTEXT_TOKENS = 65_536

# With the usual 0.02 a random model repeats one token for ever, and a wrong KV block goes unnoticed.
INITIALIZER_RANGE = 0.12

# The shipped tokenizer numbers its special tokens first: <|endoftext|>, <|im_start|>, <|im_end|>.
PAD_TOKEN, EOS_TOKEN = 0, 2

BF16_BYTES = 2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The shape of one model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int

    @property
    def kv_bytes_per_token(self) -> int:
        """What one token of context takes in the KV pool: keys and values of every layer, in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BF16_BYTES


MODEL_SIZES = {
    "nano": ModelSize(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, feed_forward=384),
    # The default: prefill of a long context is dear enough that reuse pays 16 times at 8k tokens on one core.
    "agent": ModelSize(hidden=256, layers=2, heads=4, kv_heads=1, head_dim=64, feed_forward=1024),
    "small": ModelSize(hidden=256, layers=4, heads=4, kv_heads=2, head_dim=64, feed_forward=768),
    "demo": ModelSize(hidden=512, layers=6, heads=8, kv_heads=2, head_dim=64, feed_forward=1536),
}
DEFAULT_SIZE = "agent"


def model_size(name: str) -> ModelSize:
    """The size called `name`; UserError lists the names there are."""
    try:
        return MODEL_SIZES[name]
    except KeyError:
        raise choose("model size", name, list(MODEL_SIZES)) from None


def is_built(out: Path, size: str = DEFAULT_SIZE, seed: int = 0) -> bool:
    """Whether `out` holds this very model, made by this recipe."""
    try:
        return bool(json.loads((out / STAMP).read_bytes()) == _stamp(size, seed))
    except (OSError, ValueError):
        return False


def build_command(out: Path, size: str = DEFAULT_SIZE, seed: int = 0) -> list[str]:
    """The command line that builds it in a process of its own, so that the caller never imports torch."""
    model_size(size)
    return [sys.executable, "-m", "saga_vllm.model", "--size", size, "--seed", str(seed), str(out)]


def build_model(out: Path, size: str = DEFAULT_SIZE, seed: int = 0) -> Path:
    """Make the model folder `out` and return it; the same arguments give the same bytes.

    The folder appears whole or not at all, and a second call returns at once. UserError: the size is unknown, or
    `out` is a folder that is not ours to replace.
    """
    shape = model_size(size)
    if is_built(out, size, seed):
        return out
    if out.exists() and not (out / STAMP).exists():
        raise UserError(f"{out} exists and is no model made by saga: name another folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_tokenizer(fresh)
        _write_weights(fresh, shape, seed)
        (fresh / STAMP).write_text(json.dumps(_stamp(size, seed)), encoding="utf-8")
        _open_to_readers(fresh)
        _put_in_place(fresh, out, size, seed)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out


def _stamp(size: str, seed: int) -> dict[str, object]:
    return {"recipe": RECIPE, "size": size, "seed": seed}


def _put_in_place(fresh: Path, out: Path, size: str, seed: int) -> None:
    """Rename `fresh` to `out`; an older model makes way, and of two builders at once the first wins."""
    if is_built(out, size, seed):
        return
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
        out.replace(old / "model")
        shutil.rmtree(old)
    try:
        fresh.rename(out)
    except OSError:
        if not is_built(out, size, seed):
            raise


def _open_to_readers(folder: Path) -> None:
    """A temporary folder and safetensors' files are private; other users of a node may read a model."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _write_tokenizer(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copyfile(Path(__file__).parent / "tokenizer" / name, folder / name)


def _write_weights(folder: Path, shape: ModelSize, seed: int) -> None:
    # A model made here needs no hub; without this transformers may still ask one.
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = Qwen3Config(
        vocab_size=VOCABULARY_TOKENS,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_TOKEN,
        pad_token_id=PAD_TOKEN,
        dtype="bfloat16",
        initializer_range=INITIALIZER_RANGE,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config.architectures = ["Qwen3ForCausalLM"]
    torch.manual_seed(seed)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def main() -> None:
    """Entry point of `python -m saga_vllm.model`."""
    parser = argparse.ArgumentParser(
        prog="python -m saga_vllm.model", description="Make a small random model."
    )
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--size", default=DEFAULT_SIZE, choices=list(MODEL_SIZES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        build_model(arguments.out, arguments.size, arguments.seed)
    except UserError as error:
        sys.exit(f"saga_vllm.model: {error}")


if __name__ == "__main__":
    main()
