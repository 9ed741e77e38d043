"""Trains the tokenizer that this package ships: python -m saga_vllm.tokenizer.train CORPUS_FOLDER OUT."""

import sys
from pathlib import Path
from typing import Any

from saga_vllm.model import CONTEXT_TOKENS, VOCABULARY_TOKENS

END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [
    END_OF_TEXT,
    START_OF_MESSAGE,
    END_OF_MESSAGE,
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
]
CORPUS_FILES = 120


def train(corpus: Path, out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for `corpus`/*.py into `out`."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(sorted(corpus.glob("*.py"))[:CORPUS_FILES]),
        eos_token=END_OF_MESSAGE,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.model_max_length = 2 * CONTEXT_TOKENS
    tokenizer.save_pretrained(out)


def _byte_pairs(corpus: list[Path]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in corpus], trainer)
    return tokenizer


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
