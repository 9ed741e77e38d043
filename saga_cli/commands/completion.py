"""`saga completion`: what makes a shell complete our commands and options."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from saga_cli.options import command
from saga_core.errors import choose

VARIABLE: Final = "_SAGA_COMPLETE"
"""Set by the shell's function when it asks what may follow."""
SHELLS: Final = ("bash", "zsh", "fish")
EXAMPLES: Final = (
    'eval "$(saga completion bash)"                     # now; in ~/.bashrc for always',
    'eval "$(saga completion zsh)"                      # in ~/.zshrc, after compinit',
    "saga completion fish > ~/.config/fish/completions/saga.fish",
)


def declare(app: typer.Typer) -> None:
    command(app, "completion", examples=EXAMPLES)(completion)


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.", metavar="SHELL")],
) -> None:
    """Print what makes a shell complete commands and options."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise choose("shell", shell, list(SHELLS))
    print(get_completion_script(prog_name="saga", complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Teach the command the shells' ways of asking: only where one asks."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
