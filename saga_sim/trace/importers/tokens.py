"""How many tokens a text has: by a tokenizer where one is at hand, else by its length; and what to call that."""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from saga_core.errors import UserError

# A chat template's marks around each message: `<|im_start|>role\n` and `<|im_end|>\n`.
MESSAGE_TOKENS = 4
# English and code under current vocabularies: 3.5 to 4.5 bytes a token.
BYTES_PER_TOKEN = 4
ENCODING: Final = "o200k_base"
# Where tiktoken keeps an encoding is named by the address it comes from.
RANKS = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
VALID = f"auto, {ENCODING}, bytes/4 or the path of a tokenizer.json"


@dataclass(frozen=True, slots=True)
class Counter:
    """`name` is what the format calls these counts. A tokenizer of the person's own has no name there."""

    name: Literal["o200k_base", "estimated"]
    text: Callable[[str], int]

    def message(self, text: str) -> int:
        """A message in a prompt: its text and the template's marks."""
        return self.text(text) + MESSAGE_TOKENS


def counter(choice: str) -> Counter:
    """`auto` never loads anything from elsewhere: o200k_base if tiktoken has it on this machine, else bytes/4.

    Raises UserError for a tokenizer that cannot be had.
    """
    if choice in {"", "auto"}:
        return _tiktoken() if _at_hand() else Counter("estimated", by_bytes)
    if choice == "bytes/4":
        return Counter("estimated", by_bytes)
    if choice == ENCODING:
        return _tiktoken()
    return _tokenizer_file(Path(choice).expanduser())


def by_bytes(text: str) -> int:
    """UTF-8 bytes over four, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def _at_hand() -> bool:
    """Is the encoding in tiktoken's own store? Asking tiktoken would fetch it."""
    try:
        importlib.import_module("tiktoken")
    except ImportError:
        return False
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    store = Path(named) if named else Path(tempfile.gettempdir()) / "data-gym-cache"
    return (store / hashlib.sha1(RANKS.encode(), usedforsecurity=False).hexdigest()).is_file()


def _tiktoken() -> Counter:
    try:
        encoding = importlib.import_module("tiktoken").get_encoding(ENCODING)
    except Exception as error:  # noqa: BLE001 - whatever a foreign package raises
        raise UserError(
            f"--tokenizer {ENCODING} needs tiktoken and its ranks: {error} (valid: {VALID})"
        ) from None
    return Counter(ENCODING, lambda text: len(encoding.encode_ordinary(text)))


def _tokenizer_file(path: Path) -> Counter:
    if not path.is_file():
        raise UserError(f"--tokenizer {path}: no such file (valid: {VALID})")
    try:
        tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - whatever a foreign package raises
        raise UserError(f"--tokenizer {path}: cannot be used: {error} (valid: {VALID})") from None
    return Counter("estimated", lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))
