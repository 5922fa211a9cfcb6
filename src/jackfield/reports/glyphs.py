"""How strings and numbers are shown: control characters visible, HTML escaped, columns aligned.

Tokens come from a vocabulary, so they hold anything: markup, newlines, half an emoji, a mark that
turns the writing direction around. What is shown is always harmless and always visible.
"""

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

_NAMED = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_JOINERS = "\u200c\u200d"  # they shape letters and emoji, and are harmless
_SPARKS = "▁▂▃▄▅▆▇█"
MISSING = "–"


def printable(text: str, *, keep: str = "") -> str:
    r"""`text` with control, format and surrogate characters made visible; `keep` stays as it is.

    >>> printable("a\nb\x00")
    'a⏎b⟨U+0000⟩'
    """
    if text.isprintable():
        return text
    return "".join(char if char in keep else _shown(char) for char in text)


def visible(token: str) -> str:
    """A token as a label: like `printable`, with spaces at its ends as dots.

    >>> visible(" Mary")
    '·Mary'
    """
    inner = token.strip(" ")
    if not inner:
        return "·" * len(token) or "∅"
    left = len(token) - len(token.lstrip(" "))
    right = len(token) - len(token.rstrip(" "))
    return "·" * left + printable(inner) + "·" * right


def escape(text: str, *, keep: str = "") -> str:
    """`printable` text for HTML, inside an element or a quoted attribute.

    >>> escape("<script>")
    '&lt;script&gt;'
    """
    return html.escape(printable(text, keep=keep))


def number(value: Any, spec: str = "") -> str:
    """A value of a table: floats with four digits, or as the format `spec` says.

    >>> number(0.123456), number(1284), number(float("nan")), number(None)
    ('0.1235', '1284', 'NaN', '–')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}"
    if spec or isinstance(value, int):
        return format(value, spec)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def short(value: float) -> str:
    """A number for an axis: three digits, thousands as k and M.

    >>> short(50_000), short(0.25), short(-2_500_000)
    ('50k', '0.25', '-2.5M')
    """
    if not math.isfinite(value):
        return number(value)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def width(text: str) -> int:
    """The columns that `text` takes in a terminal (wide characters take two, marks none)."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def fit(text: str, columns: int, *, right: bool = False) -> str:
    """`text` cut with … or padded to `columns` of a terminal.

    >>> fit("attention", 6), fit("7", 3, right=True)
    ('atten…', '  7')
    """
    if width(text) > columns:
        while width(text) > columns - 1:
            text = text[:-1]
        text += "…"
    blanks = " " * (columns - width(text))
    return blanks + text if right else text + blanks


def clip(text: str, length: int) -> str:
    """`text` cut to `length` characters, the last one … if something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def sparkline(values: Iterable[float], columns: int = 40) -> str:
    """A line of blocks, each the mean of its share of the values; missing ones are blank.

    >>> sparkline([0, 1, 2, 3])
    '▁▃▆█'
    """
    shares = [_mean(share) for share in _shares(list(values), columns)]
    finite = [value for value in shares if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    steps = len(_SPARKS) - 1
    return "".join(
        _SPARKS[round((value - low) / span * steps)] if math.isfinite(value) else " "
        for value in shares
    )


def _shown(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    if char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    return f"⟨U+{ord(char):04X}⟩"


def _shares(values: list[float], parts: int) -> list[Sequence[float]]:
    """`values` cut into at most `parts` runs of about the same length."""
    parts = min(parts, len(values))
    cuts = [round(i * len(values) / parts) for i in range(parts + 1)] if parts else []
    return [values[a:b] for a, b in pairwise(cuts)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
