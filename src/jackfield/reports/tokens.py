"""Tokens: texts with a number for each token, the larger the stronger highlighted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import (
    ArrayLike,
    Block,
    Row,
    as_rows,
    check_choice,
    check_lengths,
    fields_json,
    plain,
    put,
    vector,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import escape, fit, number, printable, short, visible, width
from jackfield.reports.palette import LEVELS, Scale

_STRONG = 0.5  # share of the largest value from which plain text marks a token


@dataclass(frozen=True, repr=False)
class Tokens(Block, kind="tokens"):
    """Highlighted texts. A token of value 0 is plain; one without a value (NaN) is grey.

    Attributes:
        tokens: [text] of [token] strings, or one text; spaces that belong to a token included.
        values: [text] of [token] numbers, in the same form as `tokens`.
        labels: one a text, shown before it; () for each text's largest value.
        scale: "sequential" for what is never negative, else "diverging" about 0.
        value_name: what the numbers are, with their unit.
        caption: one sentence.

    Raises:
        InputError: tokens and values differ in number.

    >>> print(Tokens(["When", " Mary", " left"], [0.0, 2.5, 0.1]).text)
    2.5  When« Mary» left
    """

    tokens: Sequence[Any]
    values: ArrayLike
    labels: Sequence[str] = ()
    scale: Literal["sequential", "diverging"] = "sequential"
    value_name: str = "activation"
    caption: str = ""

    def __post_init__(self) -> None:
        one = len(self.tokens) > 0 and isinstance(self.tokens[0], str)
        texts = tuple(tuple(map(str, text)) for text in ([self.tokens] if one else self.tokens))
        rows = [self.values] if one else self.values
        values = tuple(
            vector(row, where=f"Tokens, values of text {i}") for i, row in enumerate(rows)
        )
        _check_pairs(texts, values)
        check_choice(self.scale, tuple(LEVELS), where="Tokens, scale")
        labels = tuple(map(str, self.labels))
        if labels:
            check_lengths([labels], len(texts), where="Tokens, labels", what="labels")
        put(self, tokens=texts, values=values, labels=labels)

    def html(self, level: int) -> str:
        """A row a text; each highlighted token tells its value when pointed at."""
        if not self.tokens:
            return captioned("<p class=jf-more>no texts</p>", self.caption)
        scale = self._colours()
        rows = "".join(
            f"<tr><th scope=row>{escape(label)}</th><td>{self._marked(i, scale)}</td></tr>"
            for i, label in enumerate(self._shown_labels())
        )
        return captioned(f"<table class=jf-tokens>{rows}</table>", self.caption)

    @property
    def text(self) -> str:
        """Each text with its strong tokens in « »."""
        labels = self._shown_labels()
        size = max(map(width, labels), default=0)
        strong = _STRONG * max(map(abs, self._finite()), default=0.0)
        lines = [
            fit(printable(label), size, right=True)
            + "  "
            + "".join(_guillemets(*pair, strong) for pair in self._pairs(i))
            for i, label in enumerate(labels)
        ]
        return "\n".join(part for part in (self.caption, *(lines or ["no texts"])) if part)

    @property
    def rich(self) -> Any:
        """Each text with coloured tokens."""
        from rich.text import Text

        scale, out = self._colours(), plain(f"{self.caption}\n" if self.caption else "")
        for i, label in enumerate(self._shown_labels()):
            out.append(f"{label:>8}  ", style="dim")
            for token, value in self._pairs(i):
                out.append(Text(printable(token), style=scale.style(value) if value else ""))
            out.append("\n")
        out.rstrip()
        return out

    @property
    def table(self) -> list[Row]:
        """A row a token: text, position, token, value."""
        cells = (
            (i, position, token, value)
            for i in range(len(self.tokens))
            for position, (token, value) in enumerate(self._pairs(i))
        )
        return as_rows(("text", "position", "token", self.value_name), cells)

    def to_json(self) -> dict[str, Any]:
        """Tokens, values and labels."""
        return fields_json(self)

    def _pairs(self, i: int) -> list[tuple[str, float]]:
        return list(zip(self.tokens[i], self.values[i], strict=True))

    def _finite(self) -> list[float]:
        return [value for row in self.values for value in row if math.isfinite(value)]

    def _colours(self) -> Scale:
        return Scale.over([0.0, *self._finite()], self.scale)

    def _shown_labels(self) -> Sequence[str]:
        if self.labels:
            return self.labels
        peaks = ([v for v in row if math.isfinite(v)] for row in self.values)
        return [short(max(held, key=abs)) if held else "" for held in peaks]

    def _marked(self, i: int, scale: Scale) -> str:
        return "".join(self._span(token, value, scale) for token, value in self._pairs(i))

    def _span(self, token: str, value: float, scale: Scale) -> str:
        shown = escape(token)
        if value == 0:
            return shown
        css = "jf-nan" if math.isnan(value) else scale.css(value)
        told = "no value" if math.isnan(value) else number(value)
        tip = escape(f"{visible(token)}  {self.value_name} {told}")
        return f'<span class={css} title="{tip}">{shown}</span>'


def _check_pairs(texts: Sequence[Sequence[str]], values: Sequence[Sequence[float]]) -> None:
    if len(texts) != len(values):
        expected = f"values of {len(texts)} texts"
        raise InputError(explain(where="Tokens", expected=expected, got=f"of {len(values)}"))
    for i, (text, row) in enumerate(zip(texts, values, strict=True)):
        check_lengths([row], len(text), where=f"Tokens, text {i}", what="values, one a token")


def _guillemets(token: str, value: float, strong: float) -> str:
    shown = printable(token)
    return f"«{shown}»" if strong and abs(value) >= strong else shown
