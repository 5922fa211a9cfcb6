"""Text: a few sentences. Paragraphs, lists with "- ", **bold** and `code`; nothing more."""

import re
from dataclasses import dataclass
from typing import Any

from jackfield.reports.block import Block, Row, fields_json, plain
from jackfield.reports.glyphs import escape, printable


@dataclass(frozen=True, repr=False)
class Text(Block, kind="text"):
    """Words between the pictures.

    Attributes:
        body: paragraphs parted by a blank line; lines that start with "- " are a list.

    >>> Text("FVU is **0.21**.").html(2)
    '<p>FVU is <strong>0.21</strong>.</p>'
    """

    body: str

    def html(self, level: int) -> str:
        """Paragraphs and lists."""
        paragraphs = re.split(r"\n\s*\n", self.body.strip())
        return "".join(_paragraph(each) for each in paragraphs if each)

    @property
    def text(self) -> str:
        """The body as it was written."""
        return printable(self.body.strip(), keep="\n")

    @property
    def rich(self) -> Any:
        """The body as it was written."""
        return plain(self.text)

    @property
    def table(self) -> list[Row]:
        """No data."""
        return []

    def to_json(self) -> dict[str, Any]:
        """The body."""
        return fields_json(self)


def inline(text: str) -> str:
    """One line as HTML: escaped, then **bold** and `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"<code>{escape(part[1:-1])}</code>" if i % 2 else _bold(part)
        for i, part in enumerate(parts)
    )


def _bold(text: str) -> str:
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escape(text))


def _paragraph(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    if all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{inline(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{inline(' '.join(lines))}</p>"
