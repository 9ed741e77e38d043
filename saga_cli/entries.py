"""A list of things to run one program on: JSON lines, and the words that each puts into the command line.

{"instance": "django__django-11099", "repo": "/data/django"}      python solve.py {instance} --repo {repo}
"django__django-11099"                                            the same as {"instance": "..."}
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from saga_cli.submission import Said, request
from saga_core.errors import UserError
from saga_core.views import SubmitRequest

_PLACE: Final = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
"""`{name}` is replaced, `{{name}}` stands for `{name}`; other braces (awk, JSON) stay as they are."""
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
INSTANCE: Final = "instance"
STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list."""

    line: int
    values: Mapping[str, Any]
    key: str
    """The same for the same content, wherever it stands: what a later call knows it by."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return str(self.values.get(INSTANCE) or f"line-{self.line}")

    def put(self, text: str) -> str:
        """`text` with its values in the places. Raises UserError for a place that it has no value for."""
        return _PLACE.sub(self._value, text)

    def _value(self, found: re.Match[str]) -> str:
        if found[1] is not None:
            return "{" + found[1] + "}"
        if found[2] not in self.values:
            have = ", ".join(self.values) or "nothing"
            raise UserError(
                f"line {self.line} of the list has no {found[2]!r} for {{{found[2]}}} (it has: {have}; "
                f"{{{{{found[2]}}}}} stands for the braces themselves)"
            )
        value = self.values[found[2]]
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A program with what is said of it: run once as it is, or once for each entry that is put into it."""

    program: tuple[str, ...]
    name: str = ""
    agent_type: str = ""
    tenant: str = "default"
    env: tuple[str, ...] = ()
    workdir: Path | None = None
    said: Said = field(default_factory=Said)
    cpus: int = 0
    memory_bytes: int = 0

    def of(self, entry: Entry) -> SubmitRequest:
        """What to submit for `entry`. Raises UserError as a single submission does."""
        asked = self._request(entry.put)
        if not self.name:
            asked = msgspec.structs.replace(asked, name=f"{asked.name} {entry.name}"[:200])
        if INSTANCE in entry.values and not asked.instance:
            asked = msgspec.structs.replace(asked, instance=entry.name[:128])
        return asked

    def alone(self) -> SubmitRequest:
        """What to submit without a list, every word as it is. Raises UserError as `request` does."""
        return self._request(str)

    def _request(self, put: Callable[[str], str]) -> SubmitRequest:
        return request(
            [put(word) for word in self.program],
            name=put(self.name),
            agent_type=self.agent_type,
            tenant=self.tenant,
            env=[put(pair) for pair in self.env],
            workdir=Path(put(str(self.workdir))) if self.workdir is not None else None,
            said=self.said,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
        )


def read(path: Path) -> list[Entry]:
    """The entries of a file, `-` for stdin. Raises UserError with the line that is none."""
    try:
        data = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except OSError as error:
        raise UserError(f"--tasks {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"--tasks {path}: {len(data)} bytes (valid: at most {MAX_FILE_BYTES})")
    entries = _keyed(_decoded(data.splitlines(), path))
    if not entries:
        raise UserError(f"--tasks {path}: it is empty (valid: one JSON object or string per line)")
    return entries


def _decoded(lines: Iterable[bytes], path: Path) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(f"--tasks {path}, line {number}: not JSON ({error})") from None
        if isinstance(value, str):
            value = {INSTANCE: value}
        if not isinstance(value, dict):
            raise UserError(f"--tasks {path}, line {number}: neither an object nor a string")
        found.append((number, value))
    return found


def _keyed(lines: Sequence[tuple[int, dict[str, Any]]]) -> list[Entry]:
    """Lines of the same content are told apart by their order."""
    seen: Counter[str] = Counter()
    entries = []
    for number, values in lines:
        digest = sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:16]
        seen[digest] += 1
        key = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        entries.append(Entry(number, values, key))
    return entries
