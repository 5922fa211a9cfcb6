"""Axes of the SVG charts: from values to places, round ticks, and the frame around the marks.

Charts are as wide as the page allows while their letters keep their size: x is in per cent, y in
pixels, and only the curves, drawn in a view box of 1000 units, are stretched.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jackfield.reports.glyphs import escape, short

HEIGHT = 190  # pixels
VIEW = 1000  # units of the stretched curves


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @staticmethod
    def over(values: Iterable[float], *, log: bool = False, zero: bool = False) -> "Axis":
        """The axis that holds every value it can, and 0 if `zero`."""
        held = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        held += [0.0] if zero and not log else []
        low, high = min(held, default=1.0 if log else 0.0), max(held, default=1.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        return Axis(low, high, log)

    def rounded(self) -> "Axis":
        """The same axis with its ends moved out to the next ticks (a logarithmic one as it is)."""
        if self.log:
            return self
        step = self._step(4)
        low, high = math.floor(self.low / step + 1e-9), math.ceil(self.high / step - 1e-9)
        return Axis(low * step, high * step)

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; NaN for what the axis cannot hold."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range, about `count` of them."""
        if self.log:
            return self._log_ticks(count)
        step = self._step(count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = 12 - math.floor(math.log10(step))
        return [round(i * step, digits) for i in range(first, last + 1)]

    def _step(self, count: int) -> float:
        """The round distance of about `count` ticks."""
        rough = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(rough))
        return size * next(each for each in (1, 2, 2.5, 5, 10) if each * size >= rough * 0.999)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _log_ticks(self, count: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1,) if len(powers) > 3 else (1, 2, 5)
        ticks = [step * 10.0**power for power in powers for step in steps]
        within = [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]
        return within[:: max(1, math.ceil(len(within) / (count + 2)))]


def frame(
    x: Axis, y: Axis, marks: str, *, x_title: str, y_title: str, label: str, height: int = HEIGHT
) -> str:
    """The chart: grid, ticks and titles around `marks` (trusted SVG)."""
    rows = "".join(_y_tick(y, tick, height) for tick in y.ticks(4))
    columns = "".join(_x_tick(x, tick, height) for tick in x.ticks(6))
    return (
        f"<div class=jf-plot><p>{escape(y_title)}</p>"
        f'<svg role=img aria-label="{escape(label)}" width="100%" height={height}>'
        f'{rows}<line class=jf-axis x2="100%" y1={height} y2={height} />{columns}{marks}</svg>'
        f"<p class=jf-x>{escape(x_title)}</p></div>"
    )


def stretched(shapes: str, height: int = HEIGHT) -> str:
    """Shapes in a view box of 1000 by `height` units, stretched over the plot."""
    return (
        f'<svg width="100%" height={height} viewBox="0 0 {VIEW} {height}"'
        f" preserveAspectRatio=none>{shapes}</svg>"
    )


def percent(share: float) -> str:
    """A share of the width as SVG writes it.

    >>> percent(0.5)
    '50%'
    """
    return f"{100 * share:.5g}%"


def drop(share: float, height: int = HEIGHT) -> str:
    """A share of the height, from the bottom, as pixels from the top."""
    return f"{(1 - share) * height:.4g}"


def thinned(xs: Sequence[float], ys: Sequence[float], points: int) -> list[tuple[float, float]]:
    """At most about `points` points of a curve: of each run the lowest and the highest stay."""
    pairs = list(zip(xs, ys, strict=True))
    if len(pairs) <= points:
        return pairs
    size = math.ceil(len(pairs) * 2 / points)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(pairs), size):
        run = pairs[start : start + size]
        held = [pair for pair in run if math.isfinite(pair[1])]
        ends = (min(held, key=_height), max(held, key=_height)) if held else (run[0],)
        kept += sorted(set(ends))
    return kept


def _height(pair: tuple[float, float]) -> float:
    return pair[1]


def _y_tick(axis: Axis, tick: float, height: int) -> str:
    top = drop(axis.place(tick), height)
    line = f'<line class=jf-grid x2="100%" y1={top} y2={top} />'
    return f"{line}<text x=-8 y={top} dy=4 text-anchor=end>{escape(short(tick))}</text>"


def _x_tick(axis: Axis, tick: float, height: int) -> str:
    left = percent(axis.place(tick))
    return f'<text x="{left}" y={height + 16} text-anchor=middle>{escape(short(tick))}</text>'
