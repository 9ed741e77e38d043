"""`saga bench gateway|decide`: speed and size, printed with their spread."""

from __future__ import annotations

import typer

from saga_cli.options import group


def declare(app: typer.Typer) -> None:
    app.add_typer(group("Measure saga itself."), name="bench")
