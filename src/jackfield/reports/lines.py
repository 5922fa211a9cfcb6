"""Lines: curves over a shared x, such as a loss over training, with bands of uncertainty."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.reports.axes import VIEW, Axis, drop, frame, percent, stretched, thinned
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
from jackfield.reports.glyphs import escape, number, sparkline
from jackfield.reports.palette import DASHES, SERIES

_POINTS = 500  # of a curve that are drawn in HTML
_DOTS = 60  # of a curve that tell their value when pointed at
_SEEN = 20  # points up to which each is a visible dot


@dataclass(frozen=True, repr=False)
class Lines(Drawable, kind="lines"):
    """Curves. NaN makes a gap; on a logarithmic axis so does what is not positive.

    Attributes:
        x: [point].
        series: name -> [point].
        bands: name of a series -> (lower [point], upper [point]), such as a 95 % interval.
        x_title: with its unit.
        y_title: with its unit.
        log_x: a logarithmic x axis.
        log_y: a logarithmic y axis.
        caption: one sentence.

    Raises:
        InputError: a series is not as long as `x`, or a band has no series.

    >>> Lines([0, 1], {"FVU": [0.9, 0.2]}, x_title="step").table
    [{'step': 0.0, 'FVU': 0.9}, {'step': 1.0, 'FVU': 0.2}]
    """

    x: ArrayLike
    series: Mapping[str, ArrayLike]
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    x_title: str = "x"
    y_title: str = ""
    log_x: bool = False
    log_y: bool = False
    caption: str = ""

    def __post_init__(self) -> None:
        x = vector(self.x, where="Lines, x")
        series = {str(name): _curve(y, len(x), str(name)) for name, y in self.series.items()}
        bands = {
            str(name): tuple(_curve(edge, len(x), f"band of {name}") for edge in band)
            for name, band in self.bands.items()
        }
        if strangers := bands.keys() - series.keys():
            expected = f"bands of the series {', '.join(series)}"
            got = ", ".join(sorted(strangers))
            raise InputError(explain(where="Lines, bands", expected=expected, got=got))
        put(self, x=x, series=series, bands=bands)

    def html(self, level: int) -> str:
        """An SVG chart and its legend."""
        x_axis, y_axis = self._axes()
        shapes: list[str] = []
        dots: list[str] = []
        for i, (name, ys) in enumerate(self.series.items()):
            style = f"jf-s{i % len(DASHES)}"
            if name in self.bands:
                shapes.append(_band_path(x_axis, y_axis, self.x, self.bands[name], style))
            points = [_point(x_axis, y_axis, *pair) for pair in thinned(self.x, ys, _POINTS)]
            shapes += [f'<path class="jf-line {style}" d="{d}"/>' for d in _runs(points)]
            dots += _dots(x_axis, y_axis, thinned(self.x, ys, _DOTS), style=style, name=name)
        chart = frame(
            x_axis,
            y_axis,
            stretched("".join(shapes)) + "".join(dots),
            x_title=self.x_title,
            y_title=self.y_title,
            label=self._label(),
        )
        return captioned(chart + self._legend(), self.caption)

    @property
    def text(self) -> str:
        """A small line of blocks a series, with its first, last and least value."""
        size = max(map(len, self.series), default=0)
        lines = [f"{name:<{size}}  {_in_words(ys)}" for name, ys in self.series.items()]
        over = f"(over {self.x_title})" if self.series else "no series"
        return "\n".join(part for part in (self.caption, *lines, over) if part)

    @property
    def rich(self) -> Any:
        """As plain text."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """A row a point: x, every series, the edges of every band."""
        names, columns = [self.x_title, *self.series], [self.x, *self.series.values()]
        for name, band in self.bands.items():
            names += [f"{name} (low)", f"{name} (high)"]
            columns += band
        return as_rows(names, zip(*columns, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Every point, the titles and the axes."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """A line a series, each with its own dashes."""
        for i, (name, ys) in enumerate(self.series.items()):
            shade = SERIES["light"][i % len(DASHES)]
            (line,) = axes.plot(self.x, ys, color=shade, label=name)
            if dash := DASHES[i % len(DASHES)]:
                line.set_dashes([float(part) for part in dash.split()])
            if name in self.bands:
                axes.fill_between(self.x, *self.bands[name], color=shade, alpha=0.18, linewidth=0)
        axes.set(xlabel=self.x_title, ylabel=self.y_title)
        draw_title(axes, self.caption)
        axes.set(xscale="log" if self.log_x else "linear", yscale="log" if self.log_y else "linear")
        axes.grid(axis="y")
        if len(self.series) > 1:
            axes.legend(frameon=False)

    def _axes(self) -> tuple[Axis, Axis]:
        heights = [y for ys in self.series.values() for y in ys]
        heights += [y for band in self.bands.values() for edge in band for y in edge]
        return Axis.over(self.x, log=self.log_x), Axis.over(heights, log=self.log_y).rounded()

    def _label(self) -> str:
        parts = [f"{name}: {_ends(ys)}" for name, ys in self.series.items()]
        return f"Curves over {self.x_title}. " + "; ".join(parts)

    def _legend(self) -> str:
        items = "".join(
            f"<span class=jf-key><svg width=26 height=10 aria-hidden=true>"
            f'<path class="jf-line jf-s{i % len(DASHES)}" d="M1 5h24"/></svg>'
            f"{escape(name)}&ensp;<b>{number(_last(ys))}</b></span>"
            for i, (name, ys) in enumerate(self.series.items())
        )
        return f"<div class=jf-legend>{items}<span>(last value)</span></div>" if items else ""


def _curve(values: ArrayLike, points: int, name: str) -> tuple[float, ...]:
    curve = vector(values, where=f"Lines, {name}")
    if len(curve) != points:
        expected = f"{points} values, as many as x has"
        raise InputError(explain(where=f"Lines, {name}", expected=expected, got=str(len(curve))))
    return curve


def _point(x_axis: Axis, y_axis: Axis, x: float, y: float) -> tuple[float, str]:
    """(left, "left top") in the view box; left is NaN for a gap."""
    left, top = x_axis.place(x), y_axis.place(y)
    if math.isnan(left) or math.isnan(top):
        return math.nan, ""
    return left, f"{left * VIEW:.5g} {drop(top)}"


def _runs(points: Sequence[tuple[float, str]]) -> Iterator[str]:
    """A path for each stretch without gaps; a lone point becomes a short dash."""
    for gap, run in groupby(points, key=lambda point: math.isnan(point[0])):
        if not gap:
            places = [place for _, place in run]
            yield "M" + "L".join(places) + ("h2" if len(places) == 1 else "")


def _band_path(
    x_axis: Axis, y_axis: Axis, x: Sequence[float], band: Sequence[Sequence[float]], style: str
) -> str:
    there, back = ([_point(x_axis, y_axis, *pair) for pair in zip(x, e, strict=True)] for e in band)
    outline = [place for _, place in (*there, *reversed(back)) if place]
    return f'<path class="jf-band {style}" d="M{"L".join(outline)}z"/>' if outline else ""


def _dots(
    x_axis: Axis, y_axis: Axis, points: Sequence[tuple[float, float]], *, style: str, name: str
) -> Iterator[str]:
    seen = "" if len(points) <= _SEEN else " jf-faint"
    for x, y in points:
        left, top = x_axis.place(x), y_axis.place(y)
        if not (math.isnan(left) or math.isnan(top)):
            tip = escape(f"{name} {number(y)} at {number(x)}")
            place = f'cx="{percent(left)}" cy={drop(top)}'
            yield f'<circle class="jf-dot {style}{seen}" {place} r=4><title>{tip}</title></circle>'


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _last(values: Sequence[float]) -> float:
    return (_finite(values) or [math.nan])[-1]


def _ends(values: Sequence[float]) -> str:
    held = _finite(values)
    return f"{number(held[0])} to {number(held[-1])}" if held else "no values"


def _in_words(values: Sequence[float]) -> str:
    held = _finite(values)
    if not held:
        return "no values"
    return f"{sparkline(values)}  {_ends(values)} (least {number(min(held))})"
