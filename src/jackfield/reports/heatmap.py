"""HeatMap: a matrix as colours, such as the effect of patching each layer at each position.

Up to a few thousand cells it is a real table whose cells tell their value when pointed at; above
that (attention over hundreds of tokens) the same colours are drawn as one picture.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import (
    ArrayLike,
    Drawable,
    Row,
    as_rows,
    check_choice,
    draw_title,
    fields_json,
    matrix,
    names_of,
    put,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import clip, fit, number, visible
from jackfield.reports.heat_html import LABEL, cells, legend, picture
from jackfield.reports.palette import LEVELS, Scale, colormap

_CELLS_THAT_TELL = 4000  # more are drawn as one picture
_TEXT_COLUMNS = 24  # that fit a terminal


@dataclass(frozen=True, repr=False)
class HeatMap(Drawable, kind="heat map"):
    """A matrix as colours, the first row on top. NaN is a hatched cell: there is no value.

    Attributes:
        values: [row, column].
        x_labels: one a column (tokens are shown with their spaces as dots), or () for 0, 1, 2, …
        y_labels: one a row, or () for 0, 1, 2, …
        x_title: what the columns are, as in "token".
        y_title: what the rows are, as in "layer".
        scale: "diverging" (blue below the centre, copper above) or "sequential".
        centre: the value without colour on a diverging scale.
        limits: the values of the two ends of the scale, instead of those found in the data.
        value_name: what a value is, with its unit.
        caption: one sentence.

    Raises:
        InputError: rows of different lengths, or labels that do not fit the values.

    >>> HeatMap([[0.0, 1.0]], ["The", " cat"], [7], x_title="token", y_title="layer").table[1]
    {'layer': '7', 'token': ' cat', 'value': 1.0}
    """

    values: ArrayLike
    x_labels: Sequence[Any] = ()
    y_labels: Sequence[Any] = ()
    x_title: str = "column"
    y_title: str = "row"
    scale: Literal["diverging", "sequential"] = "diverging"
    centre: float = 0.0
    limits: tuple[float, float] | None = None
    value_name: str = "value"
    caption: str = ""

    def __post_init__(self) -> None:
        values = matrix(self.values, where="HeatMap")
        columns = len(values[0]) if values else len(self.x_labels)
        x_labels = _labels(self.x_labels, columns, "x_labels")
        y_labels = _labels(self.y_labels, len(values), "y_labels")
        check_choice(self.scale, tuple(LEVELS), where="HeatMap, scale")
        limits = None if self.limits is None else _limits(self.limits)
        put(self, values=values, x_labels=x_labels, y_labels=y_labels, limits=limits)

    def html(self, level: int) -> str:
        """A table of colours (or a picture of them), and the legend."""
        count = sum(map(len, self.values))
        if not count:
            inner = "<p class=jf-more>no values</p>"
        elif count <= _CELLS_THAT_TELL:
            inner = f"<div class=jf-scroll>{cells(self)}</div>{legend(self)}"
        else:
            inner = picture(self) + legend(self)
        return captioned(inner, self.caption)

    @property
    def text(self) -> str:
        """Each value in tenths of the largest distance from the centre, and the largest values."""
        return "\n".join(part for part in (self.caption, *self._grid(), self.summary) if part)

    @property
    def rich(self) -> Any:
        """The same, with coloured cells."""
        from rich.text import Text

        out, scale = Text(f"{self.caption}\n" if self.caption else ""), self.colours
        head, *lines = self._grid() or [""]
        size = self._size()
        out.append(f"{head}\n" if head else "")
        for row, line in zip(self.values, lines, strict=False):
            out.append(line[: len(line) - size * len(row)])
            for value, cell in zip(row, _parts(line, size, len(row)), strict=True):
                out.append(cell, style=scale.style(value))
            out.append("\n")
        out.append("\n".join([*lines[len(self.values) :], self.summary]))
        return out

    @property
    def table(self) -> list[Row]:
        """A row for each cell."""
        return as_rows((self.y_title, self.x_title, self.value_name), self._cells())

    @property
    def colours(self) -> Scale:
        """Which value has which colour."""
        every = (value for row in self.values for value in row)
        return Scale.over(every, self.scale, centre=self.centre, limits=self.limits)

    @property
    def summary(self) -> str:
        """One sentence: the values farthest from the centre, and where they are."""
        named = [
            f"{number(value)} at {self.y_title} {visible(y)}, {self.x_title} {visible(x)}"
            for y, x, value in self._largest(3)
        ]
        return f"Largest {self.value_name}: {'; '.join(named)}." if named else "no values"

    def to_json(self) -> dict[str, Any]:
        """Values, labels, titles and scale."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """An image with its colour bar; missing values hatched."""
        from matplotlib.patches import Rectangle

        rows, columns = max(1, len(self.values)), max(1, len(self.x_labels))
        figure, scale = axes.figure, self.colours
        figure.set_size_inches(min(12, 2.4 + 0.34 * columns), min(10, 1.4 + 0.2 * rows))
        missing = Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=-1)
        missing.set(facecolor="#e8e8e8", edgecolor="#a0a0a0", hatch="////", linewidth=0)
        axes.add_patch(missing)
        image = axes.imshow(
            self.values if any(self.values) else [[math.nan]],
            cmap=colormap(self.scale),
            vmin=scale.low,
            vmax=scale.high,
            aspect="auto",
            interpolation="nearest",
        )
        _draw_labels(axes.xaxis, self.x_labels, limit=40)
        _draw_labels(axes.yaxis, self.y_labels, limit=40)
        axes.tick_params(axis="x", labelrotation=60 if sum(map(len, self.x_labels)) > 60 else 0)
        axes.set(xlabel=self.x_title, ylabel=self.y_title)
        draw_title(axes, self.caption)
        figure.colorbar(image, ax=axes, label=self.value_name)

    def _cells(self) -> Iterator[tuple[str, str, float]]:
        for y, row in zip(self.y_labels, self.values, strict=True):
            for x, value in zip(self.x_labels, row, strict=True):
                yield y, x, value

    def _largest(self, count: int) -> list[tuple[str, str, float]]:
        """The cells farthest from the centre."""
        base = self.centre if self.scale == "diverging" else 0.0
        held = [cell for cell in self._cells() if not math.isnan(cell[2])]
        return sorted(held, key=lambda cell: -abs(cell[2] - base))[:count]

    def _size(self) -> int:
        """The columns of a terminal that one cell takes."""
        return max(4, min(9, 85 // max(1, len(self.x_labels))))

    def _grid(self) -> list[str]:
        """Column labels, a line a row, and a key; nothing if it would be too wide."""
        if not self.values or len(self.x_labels) > _TEXT_COLUMNS:
            return []
        scale, size = self.colours, self._size()
        middle = (scale.low + scale.high) / 2 if self.scale == "diverging" else scale.low
        span = scale.high - middle
        head = "".join(
            f" {fit(visible(x)[: size - 1], size - 1, right=True)}" for x in self.x_labels
        )
        lines = [fit(f"{self.y_title} ↓", 12, right=True) + head]
        for label, row in zip(self.y_labels, self.values, strict=True):
            marks = "".join(f"{_tenths((value - middle) / span):>{size}}" for value in row)
            lines.append(fit(visible(label), 12, right=True) + marks)
        above = f" above {number(middle)}" if middle else ""
        return [*lines, f"Cells: tenths of {number(span)}{above}; · less, × no value."]


def _labels(labels: Sequence[Any], count: int, name: str) -> tuple[str, ...]:
    labels = names_of(labels) or names_of(range(count))
    if len(labels) != count:
        expected = f"{count} labels, as many as the values have"
        raise InputError(explain(where=f"HeatMap, {name}", expected=expected, got=str(len(labels))))
    return labels


def _limits(limits: Sequence[float]) -> tuple[float, float]:
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        expected = "two finite numbers, the smaller one first"
        raise InputError(explain(where="HeatMap, limits", expected=expected, got=str(limits)))
    return float(low), float(high)


def _tenths(share: float) -> str:
    if math.isnan(share):
        return "×"
    tenths = round(10 * max(-1.0, min(1.0, share)))
    return str(tenths) if tenths else "·"


def _parts(line: str, size: int, count: int) -> list[str]:
    """The last `count` cells of a line."""
    start = len(line) - size * count
    return [line[start + i * size : start + (i + 1) * size] for i in range(count)]


def _draw_labels(axis: Any, labels: Sequence[str], *, limit: int) -> None:
    every = max(1, math.ceil(len(labels) / limit))
    places = range(0, len(labels), every)
    axis.set_ticks(list(places), labels=[clip(visible(labels[i]), LABEL) for i in places])
