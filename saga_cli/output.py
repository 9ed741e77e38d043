"""Where answers go: commands hand over data, a renderer prints it as a table, as JSON or barely.

Rules of this file
  1. stdout carries the answer and nothing else; in JSON mode exactly one value.
  2. Notes and errors go to stderr; in JSON mode an error is `{"error": {"message", "type"}}`.
  3. In JSON every timestamp (a field called `at` or `..._at`) is ISO 8601 in UTC, every duration
     a float in seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from saga_core.errors import ClusterError, SagaError, UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

T = TypeVar("T")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    QUIET = "quiet"
    HTML = "html"


class Color(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Renderer:
    """Prints in one mode. Made once per command."""

    mode: Output
    color: Color

    def show(
        self,
        data: T,
        *,
        table: Callable[[T], RenderableType],
        quiet: Callable[[T], Iterable[str]],
        html: Callable[[T], str] | None = None,
    ) -> None:
        """Print the one answer of a command. `table` and `quiet` are asked only in their mode."""
        match self.mode:
            case Output.JSON:
                sys.stdout.write(json_text(data) + "\n")
            case Output.QUIET:
                sys.stdout.writelines(f"{line}\n" for line in quiet(data))
            case Output.HTML:
                assert html is not None, "options.Command lets only commands with a page come here"
                sys.stdout.write(html(data))
            case Output.TABLE:
                self._print(table(data))
        sys.stdout.flush()

    def _print(self, answer: RenderableType) -> None:
        """Text goes out as it is: nobody wants a path or a key broken into lines."""
        if isinstance(answer, str):
            sys.stdout.write(answer + "\n")
            return
        console = self.console()
        with console.capture() as rendered:
            console.print(answer)
        sys.stdout.writelines(line.rstrip() + "\n" for line in rendered.get().splitlines())

    def note(self, text: str) -> None:
        """A remark beside the answer, for people only."""
        if self.mode is Output.TABLE:
            print(text, file=sys.stderr, flush=True)

    def error(self, error: SagaError) -> None:
        """What went wrong, on stderr."""
        if self.mode is Output.JSON:
            body = {"error": {"message": str(error), "type": _kind(error)}}
            print(json_text(body), file=sys.stderr)
        else:
            print(f"saga: {error}", file=sys.stderr)

    def console(self, *, stderr: bool = False) -> Console:
        """A Rich console on stdout or stderr: 80 columns wide in a pipe, with the chosen colours."""
        from rich.console import Console

        return Console(
            stderr=stderr,
            force_terminal=True if self.color is Color.ALWAYS else None,
            no_color=True if self.color is Color.NEVER else None,
            highlight=False,
            markup=False,
            emoji=False,
        )


def _kind(error: SagaError) -> str:
    match error:
        case UserError():
            return "usage"
        case ClusterError():
            return "cluster"
        case _:
            return "protocol"


def json_text(data: Any) -> str:
    """`data` as one JSON value on one line."""
    import msgspec

    return msgspec.json.encode(dated(msgspec.to_builtins(data))).decode()


def dated(value: Any) -> Any:
    """A copy with seconds since the epoch turned into ISO 8601 wherever a field's name says it is a time."""
    if isinstance(value, dict):
        return {key: iso(item) if _is_time(key, item) else dated(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [dated(item) for item in value]
    return value


def _is_time(key: object, value: object) -> bool:
    named = isinstance(key, str) and (key == "at" or key.endswith("_at"))
    return named and isinstance(value, int | float)


def iso(at: float) -> str:
    """`2026-01-31T12:00:00.250Z`"""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
