"""The colours of every picture, defined once: for HTML, SVG, the terminal and matplotlib.

Two scales, both drawn in OKLCH with lightness linear in the value, so that equal steps look equal
and the order survives colour blindness and grey print:

- `diverging`: blue - paper - copper, the two arms of equal lightness at equal distance;
- `sequential`: paper - amber - rust, for what is never negative.

On a dark page the paper end is dark and the far end is light. HTML holds no colours, only the
classes `jd0…jd40` and `jq0…jq20`, which the style sheet fills in for either theme.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Kind = Literal["diverging", "sequential"]
Theme = Literal["light", "dark"]

LEVELS: dict[Kind, int] = {"diverging": 40, "sequential": 20}  # the highest level
_LETTER: dict[Kind, str] = {"diverging": "d", "sequential": "q"}
_BLUE, _COPPER, _AMBER, _RUST = 255.0, 48.0, 88.0, 36.0  # hues in OKLCH, degrees

# Lines, bars and labels; each also has its own dash, so that colour is never the only cue.
SERIES: dict[Theme, tuple[str, ...]] = {
    "light": ("#1f63b5", "#c05a0e", "#0f7f70", "#8546b8", "#a8325e", "#5b6472"),
    "dark": ("#7db4f5", "#f0a05a", "#4fc9b4", "#c49af0", "#f088ab", "#9aa4b2"),
}
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 4")


@dataclass(frozen=True)
class Scale:
    """Which colour a value has: linear from `low` to `high`, held at the ends beyond them."""

    kind: Kind
    low: float
    high: float

    @staticmethod
    def over(
        values: Iterable[float],
        kind: Kind,
        *,
        centre: float = 0.0,
        limits: tuple[float, float] | None = None,
    ) -> "Scale":
        """The scale that spans `values`: symmetric about `centre` if diverging."""
        if limits is not None:
            return Scale(kind, *limits)
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        if kind == "diverging":
            span = max(abs(value - centre) for value in finite) or 1.0
            return Scale(kind, centre - span, centre + span)
        low, high = min(finite), max(finite)
        return Scale(kind, low, high if high > low else low + 1.0)

    def fraction(self, value: float) -> float:
        """Where `value` lies, from 0 at `low` to 1 at `high`; `value` must not be NaN."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def level(self, value: float) -> int:
        """The nearest of the levels that HTML knows."""
        return round(self.fraction(value) * LEVELS[self.kind])

    def css(self, value: float) -> str:
        """The class that gives an element this value's colour."""
        return f"j{_LETTER[self.kind]}{self.level(value)}"

    def style(self, value: float) -> str:
        """The colour for rich, with black or white ink; dim for a missing value."""
        if math.isnan(value):
            return "dim"
        paper = color(self.kind, self.fraction(value))
        return f"{'#000000' if ink(paper) == 'black' else '#ffffff'} on {paper}"


@cache
def color(kind: Kind, fraction: float, theme: Theme = "light") -> str:
    """The colour "#rrggbb" at `fraction` of a scale, 0 to 1."""
    if kind == "diverging":
        t = abs(2 * fraction - 1)
        pale = 1 - t if theme == "light" else t
        hue = _COPPER + 16 * pale if fraction > 0.5 else _BLUE  # pale copper is not to be pink
        chroma = 0.2 * t**0.7
    else:
        t = fraction
        hue = _AMBER + (_RUST - _AMBER) * (t if theme == "light" else 1 - 0.85 * t)
        chroma = 0.004 + 0.2 * t**0.65
    paper, far = {"light": (0.965, 0.43), "dark": (0.255, 0.8)}[theme]
    return _in_gamut(paper + (far - paper) * t, chroma, hue)


def ink(background: str) -> str:
    """White on a colour where it reads well (4.5 to 1), else black, which does then."""
    return "white" if contrast(background, "#ffffff") >= 4.5 else "black"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours "#rrggbb", 1 to 21 (WCAG 2)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@cache
def stylesheet() -> str:
    """The classes of every level, the two gradients and the series colours, for both themes."""
    dark = _theme_rules("dark")
    return f"{_theme_rules('light')}@media(prefers-color-scheme:dark){{{dark}}}{_dash_rules()}"


def colormap(kind: Kind) -> Any:
    """The same scale as a matplotlib colormap; missing values are left transparent."""
    from matplotlib.colors import ListedColormap

    return ListedColormap([color(kind, i / 255) for i in range(256)], name=f"jackfield_{kind}")


def _theme_rules(theme: Theme) -> str:
    rules = []
    for kind, letter in _LETTER.items():
        top = LEVELS[kind]
        colors = [color(kind, level / top, theme) for level in range(top + 1)]
        rules += [f".j{letter}{i}{{--c:{c};--i:{ink(c)}}}" for i, c in enumerate(colors)]
        stops = ",".join(colors[:: top // 10])
        rules.append(f".jf-ramp-{letter}{{background:linear-gradient(90deg,{stops})}}")
    rules += [f".jf-s{i}{{--s:{c}}}" for i, c in enumerate(SERIES[theme])]
    return "".join(rules)


def _dash_rules() -> str:
    return "".join(f".jf-s{i}{{--dash:{dash}}}" for i, dash in enumerate(DASHES) if dash)


def _in_gamut(lightness: float, chroma: float, hue: float) -> str:
    """The OKLCH colour with as much of its chroma as sRGB can show."""
    low, high = 0.0, chroma
    if _fits(_linear_rgb(lightness, chroma, hue)):
        low = chroma
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _fits(_linear_rgb(lightness, middle, hue)):
            low = middle
        else:
            high = middle
    return "#" + "".join(f"{_byte(c):02x}" for c in _linear_rgb(lightness, low, hue))


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """OKLCH to linear sRGB (Björn Ottosson's matrices)."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    brief = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * brief,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * brief,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * brief,
    )


def _fits(rgb: tuple[float, float, float]) -> bool:
    return all(-1e-4 <= channel <= 1 + 1e-4 for channel in rgb)


def _byte(linear: float) -> int:
    linear = min(1.0, max(0.0, linear))
    curved = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * curved)


def _luminance(color: str) -> float:
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
