"""The HTML of a HeatMap: a table of cells, or one picture when there are too many; the legend."""

import math
from itertools import groupby
from typing import TYPE_CHECKING

from jackfield.reports.glyphs import clip, escape, number, short, visible, width
from jackfield.reports.palette import Scale

if TYPE_CHECKING:
    from jackfield.reports.heatmap import HeatMap

LABEL = 18  # characters of a label
_NUMBERED = (9, 14)  # columns and rows up to which every cell shows its number
_WIDE = 110  # characters of column labels that fit side by side; longer ones stand upright
_TALLEST = 560  # pixels of a picture
_NO_VALUE = "no value"


def cells(heat: "HeatMap") -> str:
    """A table of coloured cells, each of which tells its value when pointed at."""
    rows, columns = len(heat.values), len(heat.x_labels)
    numbered = columns <= _NUMBERED[0] and rows <= _NUMBERED[1]
    longest = max((clip(visible(x), LABEL) for x in heat.x_labels), key=width)
    upright = columns * width(longest) > _WIDE
    classes = ["jf-heat", *["jf-upright"] * upright, *["jf-numbered"] * numbered]
    # The longest label stands hidden in every head, so that all columns are equally wide.
    room = "" if upright else f' data-w="{escape(longest)}"'
    head = "".join(f"<th scope=col{room}>{_label(x)}</th>" for x in heat.x_labels)
    every, scale = 1 if rows <= 40 else 5, heat.colours
    lines = (
        _row(heat, i, named=i % every == 0, numbered=numbered, scale=scale) for i in range(rows)
    )
    return (
        f"<p class=jf-across>{escape(heat.x_title)} →</p>"
        f'<table class="{" ".join(classes)}" aria-label="{escape(heat.summary)}">'
        f"<thead><tr><td>{escape(heat.y_title)} ↓</td>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def picture(heat: "HeatMap") -> str:
    """One path a colour, each run of equal cells a rectangle."""
    rows, columns, scale = len(heat.values), len(heat.x_labels), heat.colours
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(heat.values):
        x = 0
        for css, run in groupby("jf-none" if math.isnan(v) else scale.css(v) for v in row):
            length = len(list(run))
            paths.setdefault(css, []).append(f"M{x} {y}h{length}v1h-{length}z")
            x += length
    drawn = "".join(f'<path class={css} d="{"".join(d)}"/>' for css, d in paths.items())
    height = min(_TALLEST, 6 * rows)
    across = height if rows == columns else "100%"
    return (
        f'<div class=jf-map><svg role=img aria-label="{escape(heat.summary)}"'
        f' viewBox="0 0 {columns} {rows}" preserveAspectRatio=none'
        f" width={across} height={height}>{drawn}</svg></div><p class=jf-more>{_edges(heat)}</p>"
    )


def legend(heat: "HeatMap") -> str:
    """The scale with its ends, and the hatched cell if there is one."""
    scale = heat.colours
    ends = [scale.low, scale.high]
    if heat.scale == "diverging":
        ends.insert(1, (scale.low + scale.high) / 2)
    marks = "".join(f"<b>{escape(short(end))}</b>" for end in ends)
    letter = "d" if heat.scale == "diverging" else "q"
    missing = any(math.isnan(value) for row in heat.values for value in row)
    none = f"<span class=jf-key><i class=jf-nan></i>{_NO_VALUE}</span>" if missing else ""
    return (
        f"<div class=jf-legend><span>{escape(heat.value_name)}</span>"
        f"<span class=jf-scale><i class=jf-ramp-{letter}></i>{marks}</span>{none}</div>"
    )


def _row(heat: "HeatMap", i: int, *, named: bool, numbered: bool, scale: Scale) -> str:
    y, cells = heat.y_labels[i], []
    for x, value in zip(heat.x_labels, heat.values[i], strict=True):
        told = _NO_VALUE if math.isnan(value) else number(value)
        tip = f"{heat.y_title} {visible(y)}, {heat.x_title} {visible(x)}: {told}"
        css = "jf-nan" if math.isnan(value) else scale.css(value)
        shown = "" if not numbered or math.isnan(value) else short(value)
        cells.append(f'<td class={css} title="{escape(tip)}">{shown}</td>')
    head = _label(y) if named else ""
    return f"<tr><th scope=row>{head}</th>{''.join(cells)}</tr>"


def _edges(heat: "HeatMap") -> str:
    """In words: what the edges of a picture are."""
    left_right = f"{heat.x_title} {visible(heat.x_labels[0])} … {visible(heat.x_labels[-1])}"
    top_down = f"{heat.y_title} {visible(heat.y_labels[0])} … {visible(heat.y_labels[-1])}"
    return escape(f"left to right: {left_right}; top to bottom: {top_down}")


def _label(label: str) -> str:
    shown = visible(label)
    if len(shown) <= LABEL:
        return f"<span>{escape(shown)}</span>"
    return f'<span title="{escape(shown)}">{escape(clip(shown, LABEL))}</span>'
