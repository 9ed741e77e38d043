"""A plot's frame and marks: grid, axes, lines, points, areas, as SVG. No mark is told by its colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saga_sim.report.axis import Axis
from saga_sim.report.markup import Markup, join, number, tag

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 46
"""Room for tick labels left and below, for the vertical axis' label above."""
DASHES = (None, "7 3", "2 3", "9 3 2 3", "12 4", "5 2 1 2 1 2", "1 2")
MARKS_PER_LINE = 6
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """The inner rectangle of a plot and its two axes."""

    across: Axis
    up: Axis
    height: int = HEIGHT
    left: int = LEFT

    def x(self, value: float) -> float:
        return self.left + self.across.place(value) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        return self.floor - self.up.place(value) * (self.floor - TOP)

    @property
    def floor(self) -> float:
        return self.height - BOTTOM

    def axes(self) -> Markup:
        """Grid lines, tick labels and axis labels."""
        right = WIDTH - RIGHT
        return join(
            [
                *(_grid(self.left, self.y(t), right, self.y(t)) for t in self.up.ticks),
                *(_grid(self.x(t), TOP, self.x(t), self.floor) for t in self.across.ticks),
                tag("line", class_="axis", x1=self.left, y1=self.floor, x2=right, y2=self.floor),
                *(
                    label(self.left - 7, self.y(t) + 4.5, self.up.write(t), anchor="end")
                    for t in self.up.ticks
                ),
                *(label(self.x(t), self.floor + 18, self.across.write(t)) for t in self.across.ticks),
                label(4, 14, self.up.label, anchor="start", class_="name"),
                label(right, self.height - 8, self.across.label, anchor="end", class_="name"),
            ]
        )


def svg(title: str, description: str, *parts: Markup, height: int = HEIGHT) -> Markup:
    """A drawing with its text alternative."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def label(x: float, y: float, written: str, *, anchor: str = "middle", class_: str | None = None) -> Markup:
    return tag("text", written, class_=class_, x=x, y=y, text_anchor=anchor)


def _grid(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return tag("line", class_="grid", x1=x1, y1=y1, x2=x2, y2=y2)


def line(points: Sequence[Point], series: int, *, stairs: bool = False) -> Markup:
    """A line in the series' colour and dashes, with its marks along it."""
    if not points:
        return Markup()
    every = max(1, len(points) // MARKS_PER_LINE)
    # Series begin their marks at different places, so that lines that run together stay readable.
    first = (series * every) // 7 % every
    return join(
        [
            tag(
                "path",
                class_=f"line {colour(series)}",
                d=path(points, stairs=stairs),
                stroke_dasharray=dashes(series),
            ),
            *(mark(x, y, series) for x, y in points[first::every]),
        ]
    )


def path(points: Sequence[Point], *, stairs: bool = False) -> str:
    """The path through points; stairs: level up to the next one."""
    parts = [f"M{number(points[0][0])} {number(points[0][1])}"]
    for x, y in points[1:]:
        parts.append(f"H{number(x)}V{number(y)}" if stairs else f"L{number(x)} {number(y)}")
    return "".join(parts)


def area(points: Sequence[Point], back: Sequence[Point], class_: str) -> Markup:
    """What lies between two lines."""
    return tag("path", class_=class_, d=path([*points, *reversed(back)]) + "Z")


def dashes(series: int) -> str | None:
    """Beyond the seventh series colours and marks begin anew, but each with other dashes."""
    return DASHES[(series + series // 7) % 7]


def colour(series: int) -> str:
    return f"c{series % 7}"


def mark(x: float, y: float, series: int, size: float = 4.0) -> Markup:
    """The series' mark: disc, square, triangle, diamond, cross, ring, bar."""
    class_ = f"mark {colour(series)}"
    match series % 7:
        case 0:
            return tag("circle", class_=class_, cx=x, cy=y, r=size)
        case 1:
            side = 1.8 * size
            return tag("rect", class_=class_, x=x - side / 2, y=y - side / 2, width=side, height=side)
        case 2:
            return _polygon(
                class_, (x, y - 1.3 * size), (x + 1.2 * size, y + size), (x - 1.2 * size, y + size)
            )
        case 3:
            reach = 1.4 * size
            return _polygon(class_, (x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y))
        case 4:
            return _strokes(
                class_,
                f"M{_at(x - size, y - size)}L{_at(x + size, y + size)}M{_at(x - size, y + size)}L{_at(x + size, y - size)}",
            )
        case 5:
            return tag("circle", class_=f"{class_} hollow", cx=x, cy=y, r=size)
        case _:
            return _strokes(class_, f"M{_at(x, y - 1.4 * size)}V{number(y + 1.4 * size)}")


def _polygon(class_: str, *corners: Point) -> Markup:
    return tag("polygon", class_=class_, points=" ".join(f"{number(x)},{number(y)}" for x, y in corners))


def _strokes(class_: str, drawn: str) -> Markup:
    return tag("path", class_=f"{class_} hollow", d=drawn)


def _at(x: float, y: float) -> str:
    return f"{number(x)} {number(y)}"


def legend(names: Sequence[tuple[int, str]]) -> Markup:
    """The series and their names, as a list that wraps."""
    return tag("ul", *(tag("li", swatch(series), name) for series, name in names), class_="legend")


def swatch(series: int) -> Markup:
    """A short piece of the series' line with its mark."""
    stroke = tag("path", class_=f"line {colour(series)}", d="M1 8H35", stroke_dasharray=dashes(series))
    return tag("svg", stroke, mark(18, 8, series), viewBox="0 0 36 16", class_="swatch", aria_hidden="true")


def figure(
    title: str, drawing: Markup, caption: str, names: Markup | None = None, table: Markup | None = None
) -> Markup:
    """A plot with its heading, its legend and how to read it."""
    return tag("figure", tag("h3", title), names, drawing, tag("figcaption", caption), table)
