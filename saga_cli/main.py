"""The `saga` command: its shape, and what becomes of an error.

Exit codes: 0 done, 1 the cluster or a workflow failed, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from saga_cli.commands import (
    bench,
    cluster,
    completion,
    config,
    demo,
    doctor,
    evaluate,
    nodes,
    sim,
    tenants,
    top,
    trace,
    up,
    usage,
    workflows,
)
from saga_cli.commands import submit as submitting
from saga_cli.options import Given, error_renderer, group
from saga_core.errors import SagaError, UserError

INTERRUPTED = 130

app = group(
    "A program-aware LLM cluster: schedules whole agent workflows on vLLM.\n\n"
    "Start with `saga demo`, or `saga up --local` and `saga submit`. --cluster-dir, --output and "
    "--color may stand before or after the command."
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"saga {version('saga-llm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


for room in (
    up,
    cluster,
    nodes,
    usage,
    submitting,
    workflows,
    tenants,
    top,
    trace,
    sim,
    evaluate,
    config,
    demo,
    doctor,
    bench,
    completion,
):
    room.declare(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """One command; its exit code. A person's mistake never shows a traceback."""
    held = Given()
    if completion.VARIABLE in os.environ:
        completion.prepare()
    try:
        return _invoke(list(arguments), held)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left (`saga ps | head`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SagaError as error:
        error_renderer(held).error(error)
        return 2 if isinstance(error, UserError) else 1


def _invoke(arguments: list[str], held: Given) -> int:
    shell = typer.main.get_command(app)
    try:
        code = shell.main(args=arguments, prog_name="saga", standalone_mode=False, obj=held)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # Typer brings its own copy of click or uses the installed one, by version; both
        # kinds of usage error look like this.
        if not hasattr(error, "format_message"):
            raise
        return _misused(error, held)
    return code if isinstance(code, int) else 0


def _misused(error: Any, held: Given) -> int:
    message = str(error.format_message()).strip()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    error_renderer(held).error(UserError(f"{message}{hint}"))
    return 2


if __name__ == "__main__":
    main()
