"""SideBySide: texts beside one another, such as what a model says unsteered and steered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import (
    ArrayLike,
    Block,
    Row,
    as_rows,
    check_lengths,
    fields_json,
    matrix,
    plain,
    put,
)
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import escape, number, printable


@dataclass(frozen=True, repr=False)
class SideBySide(Block, kind="side by side"):
    """Texts in columns, a row a prompt. What a text shares with the first column's start is dimmed.

    Attributes:
        columns: names, the first one the baseline.
        texts: [prompt] of [column] texts.
        prompts: one a row, or () for none.
        measures: name with unit -> [prompt, column] numbers shown below the texts, such as the KL
            to the baseline; NaN where there is none.
        caption: one sentence.

    Raises:
        InputError: rows of texts or measures that do not fit columns and prompts.

    >>> pair = SideBySide(["plain", "calm"], [["I run.", "I rest."]], measures={"KL": [[0, 0.5]]})
    >>> pair.table[1]
    {'prompt': '', 'column': 'calm', 'text': 'I rest.', 'KL': 0.5}
    """

    columns: Sequence[str]
    texts: Sequence[Sequence[str]]
    prompts: Sequence[str] = ()
    measures: Mapping[str, ArrayLike] = field(default_factory=dict)
    caption: str = ""

    def __post_init__(self) -> None:
        columns = tuple(map(str, self.columns))
        texts = tuple(tuple(map(str, row)) for row in self.texts)
        check_lengths(texts, len(columns), where="SideBySide, texts", what="texts, one a column")
        prompts = tuple(map(str, self.prompts)) or ("",) * len(texts)
        if len(prompts) != len(texts):
            expected = f"{len(texts)}, one a row of texts"
            where = "SideBySide, prompts"
            raise InputError(explain(where=where, expected=expected, got=str(len(prompts))))
        measures = {}
        for name, values in self.measures.items():
            measures[str(name)] = _measure(values, len(texts), len(columns), name)
        put(self, columns=columns, texts=texts, prompts=prompts, measures=measures)

    def html(self, level: int) -> str:
        """Cards in a row, below one another on a narrow page."""
        rows = "".join(self._html_row(i) for i in range(len(self.texts)))
        return captioned(rows or "<p class=jf-more>no texts</p>", self.caption)

    @property
    def text(self) -> str:
        """One below the other, each with its column's name and numbers."""
        parts = [self.caption] if self.caption else []
        for i, prompt in enumerate(self.prompts):
            lines = [f"> {printable(prompt, keep=chr(10))}"] if prompt else []
            for j, name in enumerate(self.columns):
                told = "".join(f", {each}" for each in self._told(i, j))
                body = printable(self.texts[i][j].strip(), keep="\n").replace("\n", "\n    ")
                lines.append(f"  [{name}{told}]\n    {body}")
            parts.append("\n".join(lines))
        return "\n\n".join(parts) or "no texts"

    @property
    def rich(self) -> Any:
        """A rich Table, a column each."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_lines=True, title_justify="left")
        table.title = plain(self.caption) if self.caption else None
        for name in self.columns:
            table.add_column(plain(printable(name)))
        for i, prompt in enumerate(self.prompts):
            if prompt:
                table.add_row(plain(printable(f"> {prompt}")))
            cells = (
                "\n".join((printable(self.texts[i][j].strip(), keep="\n"), *self._told(i, j)))
                for j in range(len(self.columns))
            )
            table.add_row(*map(plain, cells))
        return table

    @property
    def table(self) -> list[Row]:
        """A row a text: prompt, column, text and the measures."""
        cells = (
            (prompt, name, self.texts[i][j], *(each[i][j] for each in self.measures.values()))
            for i, prompt in enumerate(self.prompts)
            for j, name in enumerate(self.columns)
        )
        return as_rows(("prompt", "column", "text", *self.measures), cells)

    def to_json(self) -> dict[str, Any]:
        """Columns, texts, prompts and measures."""
        return fields_json(self)

    def _told(self, i: int, j: int) -> list[str]:
        """The numbers of one text, those that it has."""
        told = ((name, values[i][j]) for name, values in self.measures.items())
        return [f"{name} {number(value)}" for name, value in told if value == value]

    def _html_row(self, i: int) -> str:
        prompt = escape(self.prompts[i], keep="\n")
        head = f"<p class=jf-prompt>{prompt}</p>" if prompt else ""
        cells = "".join(self._html_cell(i, j) for j in range(len(self.columns)))
        return f"<div class=jf-pair>{head}<div class=jf-sides>{cells}</div></div>"

    def _html_cell(self, i: int, j: int) -> str:
        base, text = self.texts[i][0], self.texts[i][j]
        shared = _shared_words(base, text) if j else 0
        same = f"<span class=jf-same>{escape(text[:shared], keep=chr(10))}</span>" if shared else ""
        told = "".join(f"<span>{escape(each)}</span>" for each in self._told(i, j))
        notes = f"<p class=jf-notes>{told}</p>" if told else ""
        body = f"<p class=jf-said>{same}{escape(text[shared:], keep=chr(10))}</p>"
        return f"<div><p class=jf-column>{escape(self.columns[j])}</p>{body}{notes}</div>"


def _measure(
    values: ArrayLike, rows: int, columns: int, name: str
) -> tuple[tuple[float, ...], ...]:
    where = f"SideBySide, measure '{name}'"
    held = matrix(values, where=where)
    if len(held) != rows:
        raise InputError(explain(where=where, expected=f"{rows} rows", got=str(len(held))))
    check_lengths(held, columns, where=where, what="values, one a column")
    return held


def _shared_words(one: str, other: str) -> int:
    """How many characters of whole words both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    if shared == len(one) == len(other):
        return shared
    return other.rfind(" ", 0, shared + 1) + 1
