"""HTML and SVG as values: elements whose text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is safe to put into the page as it is. Only this module and constants make it."""

    __slots__ = ()


Child = str | Markup | None
Attribute = str | float | None


SPACES = "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
"""Within numbers; harmless, though Python calls them unprintable."""


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element. `class_` is `class`, `stroke_width` is `stroke-width`; None leaves an attribute or child out."""
    inner = join(children)
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if not inner and name in EMPTY:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{inner}</{name}>")


EMPTY = frozenset({"line", "path", "rect", "circle", "use", "meta", "br", "polygon", "polyline"})


def join(parts: Iterable[Child]) -> Markup:
    """The parts behind each other, text escaped."""
    return Markup("".join(text(part) for part in parts if part is not None))


def text(part: str) -> Markup:
    """Strangers' text made harmless: escaped, and without control and bidirectional-override characters."""
    if isinstance(part, Markup):
        return part
    return Markup(
        escape("".join(c if c.isprintable() or c in SPACES else "\N{REPLACEMENT CHARACTER}" for c in part))
    )


def number(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough, and no file differs by rounding noise."""
    short = f"{value:.1f}".removesuffix(".0")
    return "0" if short == "-0" else short


def _attribute(key: str, value: Attribute) -> str:
    if value is None:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f' {name}="{text(value) if isinstance(value, str) else number(value)}"'
