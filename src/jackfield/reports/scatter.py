"""Scatter: named points in a plane, such as classes along two components; a curve through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.reports.axes import VIEW, Axis, drop, frame, percent, stretched
from jackfield.reports.block import (
    ArrayLike,
    Drawable,
    Row,
    as_rows,
    draw_title,
    fields_json,
    plain,
    put,
    vector,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import escape, number
from jackfield.reports.palette import SERIES

_HEIGHT = 320  # pixels: a plane wants more than a curve
_LISTED = 12  # points in plain text


@dataclass(frozen=True, repr=False)
class Scatter(Drawable, kind="scatter"):
    """Points with their names.

    Attributes:
        x: [point].
        y: [point].
        labels: a name a point, written beside it.
        curve_x: [step] of a curve through the plane, drawn in this order; empty for none.
        curve_y: [step].
        x_title: with its unit.
        y_title: with its unit.
        caption: one sentence.

    Raises:
        InputError: lengths that differ, or numbers that are not finite.

    >>> Scatter([0, 1], [2, 3], ["Monday", "Tuesday"], x_title="PC1").table[0]
    {'label': 'Monday', 'PC1': 0.0, 'y': 2.0}
    """

    x: ArrayLike
    y: ArrayLike
    labels: Sequence[str]
    curve_x: ArrayLike = ()
    curve_y: ArrayLike = ()
    x_title: str = "x"
    y_title: str = "y"
    caption: str = ""

    def __post_init__(self) -> None:
        names = ("x", "y", "curve_x", "curve_y")
        held = {name: vector(getattr(self, name), where=f"Scatter, {name}") for name in names}
        labels = tuple(str(label) for label in self.labels)
        sizes = [len(labels), len(held["x"]), len(held["y"])]
        if len(set(sizes)) > 1 or len(held["curve_x"]) != len(held["curve_y"]):
            got = f"{sizes}, and {len(held['curve_x'])} and {len(held['curve_y'])} of the curve"
            expected = "as many labels as x and y, and as many steps of the curve in both"
            raise InputError(explain(where="Scatter", expected=expected, got=got))
        if any(each != each or abs(each) == float("inf") for row in held.values() for each in row):
            raise InputError(explain(where="Scatter", expected="finite numbers", got="NaN or Inf"))
        put(self, labels=labels, **held)

    def html(self, level: int) -> str:
        """An SVG chart: the curve, a dot a point, its name beside it."""
        x, y = self._axes()
        marks = "".join(self._dot(i, x, y) for i in range(len(self.labels)))
        chart = frame(
            x, y, stretched(self._path(x, y), _HEIGHT) + marks,
            x_title=self.x_title, y_title=self.y_title, label=self._label(), height=_HEIGHT,
        )  # fmt: skip
        return captioned(chart, self.caption)

    @property
    def text(self) -> str:
        """A line a point."""
        wide = max(map(len, self.labels), default=0)
        points = zip(self.labels, self.x, self.y, strict=True)
        lines = [f"{name:<{wide}}  {number(x)}, {number(y)}" for name, x, y in points]
        more = len(lines) - _LISTED
        lines = [*lines[:_LISTED], f"… and {more} more"] if more > 0 else lines
        return "\n".join([*filter(None, [self.caption]), *lines]) or "no points"

    @property
    def rich(self) -> Any:
        """As plain text."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """A row a point."""
        columns = ["label", self.x_title, self.y_title]
        return as_rows(columns, zip(self.labels, self.x, self.y, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Every point, the curve and the titles."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """The curve, the points and their names."""
        if len(self.curve_x):
            axes.plot(self.curve_x, self.curve_y, color=SERIES["light"][1], linewidth=1.5)
        axes.scatter(self.x, self.y, color=SERIES["light"][0], zorder=3, s=18)
        for name, x, y in zip(self.labels, self.x, self.y, strict=True):
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel=self.x_title, ylabel=self.y_title)
        axes.margins(0.12)
        draw_title(axes, self.caption)
        axes.grid()

    def _axes(self) -> tuple[Axis, Axis]:
        return (
            Axis.over([*self.x, *self.curve_x]).rounded(),
            Axis.over([*self.y, *self.curve_y]).rounded(),
        )

    def _path(self, x: Axis, y: Axis) -> str:
        places = [
            f"{x.place(a) * VIEW:.5g} {drop(y.place(b), _HEIGHT)}"
            for a, b in zip(self.curve_x, self.curve_y, strict=True)
        ]
        return f'<path class="jf-line jf-s1" d="M{"L".join(places)}"/>' if places else ""

    def _dot(self, index: int, x: Axis, y: Axis) -> str:
        name, left, top = (
            escape(self.labels[index]), x.place(self.x[index]),
            drop(y.place(self.y[index]), _HEIGHT),
        )  # fmt: skip
        anchor, shift = ("end", -7) if left > 0.85 else ("start", 7)
        tip = escape(f"{self.labels[index]} {number(self.x[index])}, {number(self.y[index])}")
        dot = f'<circle class="jf-dot jf-s0" cx="{percent(left)}" cy={top} r=4>'
        text = f'<text x="{percent(left)}" y={top} dx={shift} dy=-6 text-anchor={anchor}>'
        return f"{dot}<title>{tip}</title></circle>{text}{name}</text>"

    def _label(self) -> str:
        return f"{len(self.labels)} points: {', '.join(self.labels[:_LISTED])}"
