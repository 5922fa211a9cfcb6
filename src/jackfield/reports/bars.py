"""Bars: a number for each name, such as the tokens that a feature promotes most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import (
    ArrayLike,
    Drawable,
    Row,
    as_rows,
    draw_title,
    fields_json,
    names_of,
    plain,
    put,
    vector,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import clip, escape, fit, number, visible, width
from jackfield.reports.palette import SERIES

_LABEL = 28  # characters of a name


@dataclass(frozen=True, repr=False)
class Bars(Drawable, kind="bars"):
    """Horizontal bars from zero, positive ones copper to the right, negative ones blue to the left.

    Attributes:
        labels: [bar] names (tokens are shown with their spaces as dots).
        values: [bar]; NaN has no bar.
        intervals: [bar] of (low, high), or () for none.
        label_title: what the names are.
        value_title: the quantity, with its unit.
        caption: one sentence.
        limit: how many bars are shown; CSV and JSON always hold all of them.

    Raises:
        InputError: as many labels, values and intervals are not given.

    >>> print(Bars([" Mary", " John"], [2.0, -1.0]).text)
    ·Mary  ████████████████████ 2
    ·John  ──────────           -1
    """

    labels: Sequence[Any]
    values: ArrayLike
    intervals: Sequence[tuple[float, float]] = ()
    label_title: str = "name"
    value_title: str = "value"
    caption: str = ""
    limit: int = 40

    def __post_init__(self) -> None:
        labels = names_of(self.labels)
        values = vector(self.values, where="Bars, values")
        intervals = tuple(vector(each, where="Bars, intervals") for each in self.intervals)
        for name, held in (("labels", labels), ("intervals", intervals or values)):
            if len(held) != len(values):
                expected = f"{len(values)}, as many as values"
                raise InputError(
                    explain(where=f"Bars, {name}", expected=expected, got=str(len(held)))
                )
        for i, interval in enumerate(intervals):
            if len(interval) != 2:
                where = f"Bars, intervals, {i}"
                raise InputError(explain(where=where, expected="(low, high)", got=str(interval)))
        put(self, labels=labels, values=values, intervals=intervals)

    def html(self, level: int) -> str:
        """A table of three columns: name, bar, number."""
        low, high = self._range()
        lines = "".join(self._line(i, low, high) for i in range(len(self._shown())))
        head = f"<th scope=col>{escape(self.label_title)}</th><td></td>"
        head += f"<th scope=col class=jf-num>{escape(self.value_title)}</th>"
        rest = f"<p class=jf-more>{self._rest()}</p>" if self._rest() else ""
        table = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
        return captioned(f"<table class=jf-bars>{table}</table>{rest}", self.caption)

    @property
    def text(self) -> str:
        """A bar of blocks a name; of lines where it is negative."""
        top = max((abs(value) for value in self._shown() if math.isfinite(value)), default=0.0)
        names = [visible(clip(label, _LABEL)) for label in self.labels[: self.limit]]
        size = max(map(width, names), default=0)
        lines = [
            f"{fit(name, size)}  {_blocks(value, top):<20} {number(value)}{self._give_or_take(i)}"
            for i, (name, value) in enumerate(zip(names, self._shown(), strict=True))
        ]
        return "\n".join(part for part in (self.caption, *lines, self._rest()) if part)

    @property
    def rich(self) -> Any:
        """As plain text."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """A row a bar, with the interval if there are any."""
        names, columns = [self.label_title, self.value_title], [self.labels, self.values]
        if self.intervals:
            names += ["low", "high"]
            columns += zip(*self.intervals, strict=True)
        return as_rows(names, zip(*columns, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Labels, values, intervals and titles."""
        return fields_json(self)

    def draw(self, axes: Any) -> None:
        """Horizontal bars, the first on top."""
        values, places = self._shown(), range(len(self._shown()))
        shades = [SERIES["light"][0 if value < 0 else 1] for value in values]
        axes.figure.set_size_inches(6.4, 1.2 + 0.22 * len(values))
        axes.barh(places, values, color=shades)
        for place, interval in zip(places, self.intervals, strict=False):
            axes.plot(interval, (place, place), color="#1b2029", linewidth=1)
        names = [clip(visible(label), _LABEL) for label in self.labels[: self.limit]]
        axes.set_yticks(places, labels=names)
        axes.invert_yaxis()
        axes.set(xlabel=self.value_title)
        draw_title(axes, self.caption)

    def _shown(self) -> Sequence[float]:
        shown: Sequence[float] = self.values[: self.limit]
        return shown

    def _rest(self) -> str:
        left = len(self.values) - self.limit
        if not self.values:
            return "no values"
        return f"… {left} more" if left > 0 else ""

    def _give_or_take(self, i: int) -> str:
        if not self.intervals:
            return ""
        low, high = self.intervals[i]
        return f" ({number(low)} to {number(high)})"

    def _range(self) -> tuple[float, float]:
        """The values at the left and right end, zero among them."""
        ends = [*self._shown(), *(end for each in self.intervals[: self.limit] for end in each)]
        held = [0.0, *(end for end in ends if math.isfinite(end))]
        return min(held), max(held) if max(held) > min(held) else 1.0

    def _line(self, i: int, low: float, high: float) -> str:
        label, value = visible(self.labels[i]), self.values[i]
        full = f' title="{escape(label)}"' if len(label) > _LABEL else ""
        told = number(value) + self._give_or_take(i)
        return (
            f"<tr><th scope=row{full}>{escape(clip(label, _LABEL))}</th>"
            f"<td><svg aria-hidden=true>{self._bar(i, low, high)}</svg></td>"
            f"<td class=jf-num>{escape(told)}</td></tr>"
        )

    def _bar(self, i: int, low: float, high: float) -> str:
        def place(value: float) -> float:
            return 100 * (min(high, max(low, value)) - low) / (high - low)

        value, drawn = self.values[i], ""
        if not math.isnan(value):
            left, right = sorted((place(0.0), place(value)))
            side = "jf-s0" if value < 0 else "jf-s1"
            size = f'x="{left:.4g}%" width="{right - left:.4g}%"'
            drawn = f'<rect class="jf-beam {side}" {size} y=3 height=10 rx=2 />'
        if self.intervals and all(map(math.isfinite, self.intervals[i])):
            start, end = map(place, self.intervals[i])
            drawn += f'<line class=jf-span x1="{start:.4g}%" x2="{end:.4g}%" y1=8 y2=8 />'
        return drawn


def _blocks(value: float, top: float) -> str:
    if not (math.isfinite(value) and top):
        return ""
    return ("─" if value < 0 else "█") * round(20 * abs(value) / top)
