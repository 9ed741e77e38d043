"""The options that every command has, declared once: they may stand before or after the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from saga_cli.control import TIMEOUT_S, Control
from saga_cli.folder import DEFAULT, ClusterFolder
from saga_cli.output import Color, Output, Renderer
from saga_core.errors import UserError, choose

if TYPE_CHECKING:
    from saga_cli.client import Client


@dataclass(slots=True)
class Given:
    """What the command line and the environment say, and what a command makes of it."""

    words: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> ClusterFolder:
        named = self.words.get("cluster_dir") or os.environ.get("SAGA_CLUSTER_DIR") or DEFAULT
        return ClusterFolder(Path(named).expanduser().absolute())

    @property
    def renderer(self) -> Renderer:
        return Renderer(self._output(), self._color())

    def check(self, *, html: bool = False) -> None:
        """Raises UserError for a mode or a colour that there is none of; `html`: the command has a page."""
        if self._output() is Output.HTML and not html:
            others = [mode.value for mode in Output if mode is not Output.HTML]
            raise choose("output", Output.HTML.value, others, "--output")
        self._color()

    def control(self, timeout_s: float = TIMEOUT_S) -> Control:
        """The running head. Raises ClusterError when there is none."""
        return Control.of(self.folder, timeout_s)

    def client(self) -> Client:
        """The same as other Python programs have it, with the cluster's folder."""
        from saga_cli.client import Client

        return Client(self.control(), self.folder)

    def _output(self) -> Output:
        named = self.words.get("output")
        text = named or os.environ.get("SAGA_OUTPUT") or Output.TABLE
        if text not in list(Output):
            raise choose("output", text, list(Output), "--output" if named else "SAGA_OUTPUT")
        return Output(text)

    def _color(self) -> Color:
        text = self.words.get("color") or Color.AUTO
        if text not in list(Color):
            raise choose("color", text, list(Color), "--color")
        # https://no-color.org: set to anything but nothing, unless the person says otherwise.
        return Color.NEVER if text == Color.AUTO and os.environ.get("NO_COLOR") else Color(text)


def given(ctx: typer.Context) -> Given:
    """What was given beside the command's own options."""
    held = ctx.obj
    assert isinstance(held, Given)
    return held


def error_renderer(held: Given) -> Renderer:
    """The renderer for an error, which also stands when the error is in these very options."""
    try:
        return held.renderer
    except UserError:
        return Renderer(Output.TABLE, Color.NEVER)


def _declared(
    cluster_dir: Annotated[
        str | None, typer.Option(help=f"Folder of the cluster. [SAGA_CLUSTER_DIR; {DEFAULT}]", metavar="DIR")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="table, json or quiet. [SAGA_OUTPUT; table]", metavar="MODE")
    ] = None,
    color: Annotated[
        str | None, typer.Option(help="auto, always or never. [auto; NO_COLOR]", metavar="WHEN")
    ] = None,
) -> None:
    """Never called: typer reads the options of every command from here."""


@cache
def _options() -> tuple[Any, ...]:
    lone = typer.Typer(add_completion=False)
    lone.command()(_declared)
    return tuple(typer.main.get_command(lone).params)


def _remember(ctx: Any, param: Any, value: str | None) -> None:
    if value is not None and isinstance(ctx.obj, Given):
        ctx.obj.words[param.name] = value


def _with_options(params: list[Any]) -> None:
    from copy import copy

    for option in _options():
        own = copy(option)
        own.expose_value, own.callback = False, _remember
        params.append(own)


class Command(TyperCommand):
    """A command with the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _with_options(self.params)

    def invoke(self, ctx: Any) -> Any:
        """Run it, once the common options have proved to be valid."""
        if isinstance(ctx.obj, Given):
            ctx.obj.check(html=any(param.name == "html_file" for param in self.params))
        return super().invoke(ctx)


class Group(TyperGroup):
    """A group with the common options, listing its commands in the order they were declared."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _with_options(self.params)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(self.commands)


def group(help_text: str, **settings: Any) -> typer.Typer:
    """A Typer group in the house style: plain help, our errors, no shell completion to install."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str] = (), **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`@command(app, "ps")`: a command of `app` that takes the common options too.

    `examples` stand at the end of its help, as they are: `saga ps  # what runs`.
    """
    if examples:
        # \b: click leaves the lines of this paragraph as they are.
        settings["epilog"] = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])
    return app.command(name, cls=Command, **settings)
