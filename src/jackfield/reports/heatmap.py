"""HeatMap: a matrix as colours, such as the effect of patching each layer at each position.

Up to a few thousand cells it is a real table whose cells tell their value when pointed at; above
that (attention over hundreds of tokens) the same colours are drawn as one picture.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import (
    ArrayLike,
    Drawable,
    Row,
    check_choice,
    fields_json,
    matrix,
    put,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import clip, escape, fit, number, short, visible
from jackfield.reports.palette import LEVELS, Scale, colormap, ink

_CELLS_THAT_TELL = 4000  # more are drawn as one picture
_NUMBERED = (9, 14)  # columns and rows up to which every cell shows its number
_WIDE = 110  # characters of column labels that fit side by side; longer ones stand upright
_LABEL = 18  # characters of a label
_TICKS = 12  # labels along an edge of a picture
_NO_VALUE = "no value"


@dataclass(frozen=True)
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
        cells = sum(map(len, self.values))
        if not cells:
            inner = "<p class=jf-more>no values</p>"
        elif cells <= _CELLS_THAT_TELL:
            inner = f"<div class=jf-scroll>{self._html_table()}</div>{self._legend()}"
        else:
            inner = self._html_picture() + self._legend()
        return captioned(inner, self.caption)

    @property
    def text(self) -> str:
        """Each value in tenths of the largest distance from the centre, and the largest values."""
        grid = self._text_grid() if len(self.x_labels) <= 28 else []
        return "\n".join(part for part in (self.caption, *grid, self._summary()) if part)

    @property
    def rich(self) -> Any:
        """Coloured cells."""
        from rich.text import Text

        if len(self.x_labels) > 45:
            return Text(self.text)
        scale, out = self._colours(), Text(f"{self.caption}\n" if self.caption else "")
        for label, row in zip(self.y_labels, self.values, strict=True):
            out.append(fit(visible(label), 12, right=True) + " ")
            for value in row:
                out.append("××" if math.isnan(value) else "  ", style=_rich_style(scale, value))
            out.append("\n")
        return out.append(self._summary())

    @property
    def table(self) -> list[Row]:
        """A row for each cell."""
        names = (self.y_title, self.x_title, self.value_name)
        return [dict(zip(names, cell, strict=True)) for cell in self._cells()]

    def to_json(self) -> dict[str, Any]:
        """Values, labels, titles and scale."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """An image with its colour bar; missing values hatched."""
        from matplotlib.patches import Rectangle

        rows, columns = max(1, len(self.values)), max(1, len(self.x_labels))
        figure, scale = axes.figure, self._colours()
        figure.set_size_inches(min(12, 2.4 + 0.34 * columns), min(10, 1.4 + 0.2 * rows))
        missing = Rectangle((0, 0), 1, 1, transform=axes.transAxes, zorder=-1)
        missing.set(facecolor="#e8e8e8", edgecolor="#a0a0a0", hatch="////", linewidth=0)
        axes.add_patch(missing)
        image = axes.imshow(
            self.values or [[math.nan]],
            cmap=colormap(self.scale),
            vmin=scale.low,
            vmax=scale.high,
            aspect="auto",
            interpolation="nearest",
        )
        _draw_labels(axes.xaxis, self.x_labels, limit=40)
        _draw_labels(axes.yaxis, self.y_labels, limit=40)
        axes.tick_params(axis="x", labelrotation=60 if sum(map(len, self.x_labels)) > 60 else 0)
        axes.set(xlabel=self.x_title, ylabel=self.y_title, title=self.caption)
        figure.colorbar(image, ax=axes, label=self.value_name)

    def _colours(self) -> Scale:
        every = (value for row in self.values for value in row)
        return Scale.over(every, self.scale, centre=self.centre, limits=self.limits)

    def _cells(self) -> Iterator[tuple[str, str, float]]:
        for y, row in zip(self.y_labels, self.values, strict=True):
            for x, value in zip(self.x_labels, row, strict=True):
                yield y, x, value

    def _largest(self, count: int) -> list[tuple[str, str, float]]:
        """The cells farthest from the centre."""
        base = self.centre if self.scale == "diverging" else 0.0
        cells = [cell for cell in self._cells() if not math.isnan(cell[2])]
        return sorted(cells, key=lambda cell: -abs(cell[2] - base))[:count]

    def _summary(self) -> str:
        named = [
            f"{number(value)} at {self.y_title} {visible(y)}, {self.x_title} {visible(x)}"
            for y, x, value in self._largest(3)
        ]
        return f"Largest {self.value_name}: {'; '.join(named)}." if named else "no values"

    def _html_table(self) -> str:
        rows, columns = len(self.values), len(self.x_labels)
        numbered = columns <= _NUMBERED[0] and rows <= _NUMBERED[1]
        upright = columns * max(map(len, self.x_labels)) > _WIDE
        classes = ["jf-heat", *["jf-upright"] * upright, *["jf-numbered"] * numbered]
        head = "".join(f"<th scope=col>{_html_label(x)}</th>" for x in self.x_labels)
        corner = f"<td>{escape(self.y_title)} ↓ &ensp; {escape(self.x_title)} →</td>"
        every = 1 if rows <= 40 else 5
        lines = (
            self._html_row(i, named=i % every == 0, numbered=numbered, scale=self._colours())
            for i in range(rows)
        )
        return (
            f'<table class="{" ".join(classes)}" aria-label="{escape(self._summary())}">'
            f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        )

    def _html_row(self, i: int, *, named: bool, numbered: bool, scale: Scale) -> str:
        y, cells = self.y_labels[i], []
        for x, value in zip(self.x_labels, self.values[i], strict=True):
            told = _NO_VALUE if math.isnan(value) else number(value)
            tip = f"{self.y_title} {visible(y)}, {self.x_title} {visible(x)}: {told}"
            css = "jf-nan" if math.isnan(value) else scale.css(value)
            shown = "" if not numbered or math.isnan(value) else short(value)
            cells.append(f'<td class={css} title="{escape(tip)}">{shown}</td>')
        head = _html_label(y) if named else ""
        return f"<tr><th scope=row>{head}</th>{''.join(cells)}</tr>"

    def _html_picture(self) -> str:
        """One path a colour, each run of equal cells a rectangle."""
        rows, columns, scale = len(self.values), len(self.x_labels), self._colours()
        paths: dict[str, list[str]] = {}
        for y, row in enumerate(self.values):
            x = 0
            for css, run in groupby("jf-none" if math.isnan(v) else scale.css(v) for v in row):
                length = len(list(run))
                paths.setdefault(css, []).append(f"M{x} {y}h{length}v1h-{length}z")
                x += length
        drawn = "".join(f'<path class={css} d="{"".join(d)}"/>' for css, d in paths.items())
        return (
            f'<div class=jf-map><svg role=img aria-label="{escape(self._summary())}"'
            f' viewBox="0 0 {columns} {rows}" preserveAspectRatio=none height={min(560, 6 * rows)}>'
            f"{drawn}</svg></div><p class=jf-more>{self._edges()}</p>"
        )

    def _edges(self) -> str:
        """In words: what the edges of a picture are."""
        left_right = f"{self.x_title} {visible(self.x_labels[0])} … {visible(self.x_labels[-1])}"
        top_down = f"{self.y_title} {visible(self.y_labels[0])} … {visible(self.y_labels[-1])}"
        return escape(f"left to right: {left_right}; top to bottom: {top_down}")

    def _legend(self) -> str:
        scale = self._colours()
        ends = [scale.low, scale.high]
        if self.scale == "diverging":
            ends.insert(1, (scale.low + scale.high) / 2)
        marks = "".join(f"<b>{escape(short(end))}</b>" for end in ends)
        letter = "d" if self.scale == "diverging" else "q"
        missing = any(math.isnan(value) for row in self.values for value in row)
        none = f"<span class=jf-key><i class=jf-nan></i>{_NO_VALUE}</span>" if missing else ""
        return (
            f"<div class=jf-legend><span>{escape(self.value_name)}</span>"
            f"<span class=jf-scale><i class=jf-ramp-{letter}></i>{marks}</span>{none}</div>"
        )

    def _text_grid(self) -> list[str]:
        scale = self._colours()
        middle = (scale.low + scale.high) / 2 if self.scale == "diverging" else scale.low
        span = scale.high - middle
        head = "".join(fit(clip(visible(x), 4), 5, right=True) for x in self.x_labels)
        lines = [fit(f"{self.y_title} ↓", 12, right=True) + head]
        for label, row in zip(self.y_labels, self.values, strict=True):
            marks = (_tenths((value - middle) / span) for value in row)
            cells = "".join(fit(mark, 5, right=True) for mark in marks)
            lines.append(fit(visible(label), 12, right=True) + cells)
        unit = f"{number(span / 10)} from {number(middle)}" if middle else number(span / 10)
        return [*lines, f"(1 = {unit})"]


def _labels(labels: Sequence[Any], count: int, name: str) -> tuple[str, ...]:
    labels = tuple(str(label) for label in labels) or tuple(map(str, range(count)))
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


def _html_label(label: str) -> str:
    shown = visible(label)
    if len(shown) <= _LABEL:
        return f"<span>{escape(shown)}</span>"
    return f'<span title="{escape(shown)}">{escape(clip(shown, _LABEL))}</span>'


def _tenths(share: float) -> str:
    if math.isnan(share):
        return "×"
    tenths = round(10 * max(-1.0, min(1.0, share)))
    return str(tenths) if tenths else "·"


def _rich_style(scale: Scale, value: float) -> str:
    if math.isnan(value):
        return "dim"
    return f"{ink(scale.hex(value))} on {scale.hex(value)}"


def _draw_labels(axis: Any, labels: Sequence[str], *, limit: int) -> None:
    every = max(1, math.ceil(len(labels) / limit))
    places = range(0, len(labels), every)
    axis.set_ticks(list(places), labels=[clip(visible(labels[i]), _LABEL) for i in places])
