"""Excerpt: the words around a row, its token marked, on a terminal and in a notebook."""

from dataclasses import dataclass
from html import escape
from typing import Self

from jackfield.core.errors import InputError, explain
from jackfield.streams.texts import Text


@dataclass(frozen=True)
class Excerpt:
    """A piece of a document.

    Attributes:
        before, token, after: the words, the token between.
        document: id of the document.
        position: of the token in it.
    """

    before: str
    token: str
    after: str
    document: int
    position: int

    @classmethod
    def of(cls, text: Text, document: int, position: int, before: int, after: int) -> Self:
        """The token at a position of a document, and so many tokens on each side."""
        if not 0 <= position < len(text.starts):
            expected = f"a position below {len(text.starts)}"
            where = f"text of document {document}"
            raise InputError(explain(where=where, expected=expected, got=str(position)))
        starts = [*text.starts.tolist(), len(text.text)]
        first, here = starts[max(position - before, 0)], starts[position]
        # A character of several tokens starts them all: the first of them shows it.
        there = starts[position + 1]
        last = starts[min(position + 1 + after, len(starts) - 1)]
        pieces = text.text[first:here], text.text[here:there], text.text[there:last]
        return cls(*pieces, document=document, position=position)

    def __str__(self) -> str:
        return f"{self.before}«{self.token}»{self.after}"

    def __repr__(self) -> str:
        return f"Excerpt(document {self.document}, position {self.position}: {self})"

    def _repr_html_(self) -> str:
        before, token, after = map(escape, (self.before, self.token, self.after))
        return f'<p style="white-space: pre-wrap">{before}<mark>{token}</mark>{after}</p>'
