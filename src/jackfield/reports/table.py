"""Table: columns and rows, numbers aligned, long ones cut with a count of what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.reports.block import Block, Row, as_rows, check_lengths, fields_json, put
from jackfield.reports.document import captioned
from jackfield.reports.glyphs import escape, fit, number, printable, width

_WIDEST = 48  # columns of a terminal that one cell may take


@dataclass(frozen=True, repr=False)
class Table(Block, kind="table"):
    """Rows of cells: numbers, strings, booleans or None.

    Attributes:
        columns: their names.
        rows: a sequence of values each, or a mapping with exactly the columns' names.
        caption: one sentence.
        formats: column -> format of its numbers, such as ".3f" or ","; else four digits.
        limit: how many rows are shown; CSV and JSON always hold all of them.

    Raises:
        InputError: a row is ragged, or a format does not exist or names no column.

    >>> print(Table(["layer", "KL"], [[3, 0.5], [12, 0.25]], formats={"KL": ".2f"}).text)
    layer    KL
    -----  ----
        3  0.50
       12  0.25
    """

    columns: Sequence[str]
    rows: Sequence[Any]
    caption: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    limit: int = 50

    def __post_init__(self) -> None:
        columns = tuple(str(column) for column in self.columns)
        rows = tuple(_cells(row, columns, i) for i, row in enumerate(self.rows))
        check_lengths(rows, len(columns), where="Table", what=f"cells ({', '.join(columns)})")
        for column, spec in self.formats.items():
            _check_format(column, spec, columns, rows)
        put(self, columns=columns, rows=rows, formats=dict(self.formats))

    def html(self, level: int) -> str:
        """A real table; cells of numbers to the right."""
        shown = self._shown()
        sides = [" class=jf-num" if number_like else "" for number_like in self._numeric()]
        head = "".join(
            f"<th scope=col{side}>{escape(column)}</th>"
            for column, side in zip(self.columns, sides, strict=True)
        )
        body = "".join(f"<tr>{_html_cells(row, sides)}</tr>" for row in shown)
        rest = f"<p class=jf-more>{self._rest()}</p>" if self._rest() else ""
        table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        inner = f"<div class=jf-scroll><table class=jf-table>{table}</table></div>{rest}"
        return captioned(inner, self.caption)

    @property
    def text(self) -> str:
        """Columns aligned with blanks."""
        lines = [
            list(map(printable, self.columns)),
            *([printable(c) for c in row] for row in self._shown()),
        ]
        widths = [min(_WIDEST, max(map(width, column))) for column in zip(*lines, strict=True)]
        rows = [self._aligned(line, widths) for line in lines]
        rows.insert(1, "  ".join("-" * each for each in widths))
        return "\n".join(part for part in (self.caption, *rows, self._rest()) if part)

    @property
    def rich(self) -> Any:
        """A rich Table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
        table.title = Text(self.caption) if self.caption else None
        table.caption = self._rest() or None
        for column, numeric in zip(self.columns, self._numeric(), strict=True):
            table.add_column(Text(printable(column)), justify="right" if numeric else "left")
        for row in self._shown():
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    @property
    def table(self) -> list[Row]:
        """Every row, by column."""
        return as_rows(self.columns, self.rows)

    def to_json(self) -> dict[str, Any]:
        """Columns, rows, caption, formats, limit."""
        return fields_json(self)

    def _shown(self) -> list[list[str]]:
        formats = [self.formats.get(column, "") for column in self.columns]
        return [
            [number(cell, spec) for cell, spec in zip(row, formats, strict=True)]
            for row in self.rows[: self.limit]
        ]

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers only."""
        cells = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [
            bool(column) and all(cell is None or _is_number(cell) for cell in column)
            for column in cells
        ]

    def _rest(self) -> str:
        left = len(self.rows) - self.limit
        if not self.rows:
            return "no rows"
        return f"… {left} more row{'s' * (left > 1)}" if left > 0 else ""

    def _aligned(self, cells: list[str], widths: list[int]) -> str:
        parts = zip(cells, widths, self._numeric(), strict=True)
        return "  ".join(fit(cell, size, right=right) for cell, size, right in parts).rstrip()


def _cells(
    row: Sequence[Any] | Mapping[str, Any], columns: tuple[str, ...], i: int
) -> tuple[Any, ...]:
    if isinstance(row, Mapping):
        if row.keys() != set(columns):
            raise InputError(
                explain(
                    where=f"Table, row {i}",
                    expected=f"the columns {', '.join(columns)}",
                    got=", ".join(map(str, row)) or "none",
                )
            )
        row = [row[column] for column in columns]
    return tuple(_plain_value(cell) for cell in row)


def _plain_value(cell: Any) -> Any:
    """A cell as a Python value: tensors and numpy scalars as numbers, other objects as text."""
    cell = cell.item() if hasattr(cell, "item") else cell
    return cell if cell is None or isinstance(cell, bool | int | float | str) else str(cell)


def _check_format(
    column: str, spec: str, columns: tuple[str, ...], rows: tuple[tuple[Any, ...], ...]
) -> None:
    where = f"Table, formats['{column}']"
    if column not in columns:
        expected = f"one of the columns {', '.join(columns)}"
        hint = did_you_mean(column, columns)
        raise InputError(explain(where=where, expected=expected, got=column, hint=hint))
    try:
        for row in rows:
            number(row[columns.index(column)], spec)
    except ValueError as error:
        expected = "a format of the column's numbers, such as '.3f'"
        raise InputError(explain(where=where, expected=expected, got=repr(spec))) from error


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _html_cells(cells: Sequence[str], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    return "".join(f"<td{side}>{escape(cell, keep=chr(10))}</td>" for cell, side in pairs)
