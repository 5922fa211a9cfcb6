"""Report: what a method shows, as one object for the notebook, the terminal, a file, a program.

    report = Report("Steering", [Table(...), HeatMap(...)], summary="It works at layer 15.")
    report.text, report.table, report.figure(), report.save("steering.html")

A report is a block too, so reports nest.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import ArtifactError, InputError, did_you_mean, explain
from jackfield.reports.block import (
    Block,
    Drawable,
    Row,
    block_from_json,
    fields_json,
    plain,
    put,
)
from jackfield.reports.document import document
from jackfield.reports.glyphs import escape, printable, width
from jackfield.reports.layout import checked_blocks, first_table, walk
from jackfield.reports.picture import png
from jackfield.reports.prose import inline

FORMAT = 1
_DEEPEST = 6  # HTML has no smaller heading


@dataclass(frozen=True, repr=False)
class Report(Block, kind="report"):
    """A title, a sentence and blocks.

    Attributes:
        title: a few words.
        blocks: what is shown, in order; other reports become sections of this one.
        summary: one sentence with the result.

    Raises:
        InputError: something in `blocks` is not a block.

    >>> from jackfield.reports import Table
    >>> report = Report("Lens", [Table(["layer", "rank"], [[0, 900], [29, 1]])])
    >>> print(report.text)
    Lens
    ====
    <BLANKLINE>
    layer  rank
    -----  ----
        0   900
       29     1
    """

    title: str
    blocks: Sequence[Block] = ()
    summary: str = ""

    def __post_init__(self) -> None:
        put(self, blocks=checked_blocks(self.blocks, where=f"Report '{self.title}'"))

    def html(self, level: int) -> str:
        """A section: heading, summary, blocks."""
        depth = min(level, _DEEPEST)
        inner = "".join(block.html(level + 1) for block in self.blocks)
        summary = f"<p class=jf-summary>{inline(self.summary)}</p>" if self.summary else ""
        head = f"<h{depth}>{escape(self.title)}</h{depth}>"
        return f"<section class=jf-report>{head}{summary}{inner}</section>"

    @property
    def text(self) -> str:
        """Plain text, with aligned tables; reports inside are indented."""
        title = printable(self.title)
        parts = [f"{title}\n{'=' * width(title)}"]
        parts += [printable(self.summary)] if self.summary else []
        for block in self.blocks:
            inner = isinstance(block, Report)
            parts.append(indent(block.text, "  ") if inner else block.text)
        return "\n\n".join(parts)

    @property
    def rich(self) -> Any:
        """A group: rule, summary, blocks."""
        from rich.console import Group
        from rich.rule import Rule

        head: list[Any] = [Rule(plain(printable(self.title)), align="left")]
        head += [plain(printable(self.summary)), ""] if self.summary else []
        return Group(*head, *(part for block in self.blocks for part in (block.rich, "")))

    @property
    def table(self) -> list[Row]:
        """The rows of the first table, else of the first block that has data."""
        return first_table(self.blocks)

    def figure(self) -> Any:
        """A matplotlib Figure of the first block that can be drawn.

        Raises:
            InputError: no block can be drawn.
            MissingExtraError: matplotlib is not installed.
        """
        return self._first_drawable().figure()

    def to_json(self) -> dict[str, Any]:
        """The data of every block as JSON types."""
        return fields_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Report":
        """The report that `to_json` wrote.

        Raises:
            ArtifactError: the data is damaged.
        """
        try:
            report = block_from_json(data)
        except (AttributeError, TypeError) as error:
            expected = "what Report.to_json gave"
            raise ArtifactError(
                explain(where="report", expected=expected, got=str(error))
            ) from error
        if not isinstance(report, Report):
            raise ArtifactError(explain(where="report", expected="a report", got=report.kind))
        return report

    @staticmethod
    def load(path: str | Path) -> "Report":
        """The report that was saved as a .json file.

        Raises:
            ArtifactError: there is no such file, or it is damaged, or of a newer format.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            version = data.pop("format")
            if version > FORMAT:
                raise ValueError(f"format {version}, newer than this Jackfield's {FORMAT}")
            return Report.from_json(data)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            expected = "a report saved as .json"
            raise ArtifactError(explain(where=str(path), expected=expected, got=reason)) from error

    def save(self, path: str | Path) -> Path:
        """Writes the report; the suffix decides how. The file is whole, or not there.

        .html is one self-contained page, .json holds the data of every block, .csv the rows of
        `table`, .png the drawing of `figure`.

        Raises:
            InputError: another suffix, or nothing in the report to save so.
        """
        path = Path(path)
        writers: dict[str, Callable[[], bytes]] = {
            ".html": self._as_page,
            ".png": lambda: png(self._first_drawable(), dpi=160),
            ".csv": self._as_csv,
            ".json": self._as_json,
        }
        suffix = path.suffix.lower()
        if suffix not in writers:
            raise InputError(
                explain(
                    where=f"Report.save, {path.name}",
                    expected=f"a name that ends in {', '.join(writers)}",
                    got=repr(path.suffix) if path.suffix else "none",
                    hint=did_you_mean(suffix, writers),
                )
            )
        data = writers[suffix]()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
        return path

    def _first_drawable(self) -> Drawable:
        for block in walk(self.blocks):
            if isinstance(block, Drawable):
                return block
        kinds = ", ".join(block.kind for block in self.blocks) or "no blocks"
        expected = "a block that can be drawn (HeatMap, Lines, Histogram, Bars, Figure, Image)"
        raise InputError(explain(where=f"Report '{self.title}'", expected=expected, got=kinds))

    def _as_page(self) -> bytes:
        body = f'<main class="jf-page jf-lone">{self.html(1)}</main>'
        return document(self.title, body).encode()

    def _as_json(self) -> bytes:
        return json.dumps({"format": FORMAT} | self.to_json(), allow_nan=False).encode()

    def _as_csv(self) -> bytes:
        rows = self.table
        if not rows:
            expected = "a block with rows"
            where = f"Report '{self.title}', csv"
            raise InputError(explain(where=where, expected=expected, got="none"))
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode("utf-8", "backslashreplace")
