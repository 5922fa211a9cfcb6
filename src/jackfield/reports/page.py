"""Page: one HTML file for a reader who has never seen the field. It loads nothing from anywhere.

Each section says what one is looking at, shows it, says how to read it, and holds the Python that
made it. Without the hover script (a mail program, a strict browser) nothing is lost but speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import InputError, explain
from jackfield.reports.block import Block
from jackfield.reports.document import document
from jackfield.reports.glyphs import escape
from jackfield.reports.layout import checked_blocks
from jackfield.reports.panel import logo, panel
from jackfield.reports.prose import Text, inline
from jackfield.reports.python_code import highlighted

GLOSSARY: Mapping[str, str] = {
    "token": "The unit in which a model reads and writes: a word, a piece of one, or a sign. "
    "A leading space belongs to it and is shown as ·.",
    "activation": "The numbers that flow through a network while it works on an input. "
    "They are to a network what a signal is to a studio.",
    "layer": "One of the equal blocks stacked in the network. Each reads the activation, "
    "and adds something to it.",
    "residual stream": "The activation that runs from block to block, one vector a token: "
    "the model's working memory.",
    "feature": "A direction in the activation that stands for something, such as a topic. "
    "A sparse autoencoder finds many of them at once.",
    "sparse autoencoder": "A small network that rebuilds an activation from a few features out of "
    "thousands.",
    "FVU": "Fraction of variance unexplained: what a reconstruction misses. 0 is perfect, 1 is no "
    "better than the mean.",
    "activation patching": "Putting one run's activation into another run, to see which place "
    "carries the answer.",
    "logit": "The score of a possible next token, before scores are turned into probabilities.",
    "steering": "Adding a direction to the activation while the model writes, to change how it "
    "writes.",
    "KL": "How far one distribution over next tokens is from another, in nats. 0 is equal; "
    "0.1 is hardly to be noticed; above 1 the model says other things.",
}


@dataclass(frozen=True)
class PageSection:
    """One thing to look at.

    Attributes:
        title: the heading.
        looking_at: one sentence: what the reader is looking at.
        blocks: the pictures; reports among them become cards.
        how_to_read: a few sentences, markdown as in `Text`.
        code: the Python that made it.
    """

    title: str
    looking_at: str = ""
    blocks: Sequence[Block] = ()
    how_to_read: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        blocks = checked_blocks(self.blocks, where=f"PageSection '{self.title}'")
        object.__setattr__(self, "blocks", blocks)


@dataclass(frozen=True)
class Page:
    """A self-contained page.

    Attributes:
        title: what was done.
        subtitle: one or two sentences for the newcomer.
        sections: in order.
        facts: name -> value, shown below the title (model, site, rows, date).
        glossary: term -> sentence, shown at the end; `GLOSSARY` holds the usual ones.
        footer: one line.

    >>> page = Page("A look inside", "What one layer knows.", [PageSection("Features")])
    >>> page.html.startswith("<!doctype html>")
    True
    """

    title: str
    subtitle: str = ""
    sections: Sequence[PageSection] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    glossary: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sections", tuple(self.sections))

    @property
    def html(self) -> str:
        """The whole file."""
        sections = "".join(_section(i, each) for i, each in enumerate(self.sections, start=1))
        body = (
            f"<a class=jf-skip href=#s1>To the first section</a>{self._head()}"
            f"<main class=jf-page>{self._contents()}{sections}{self._terms()}</main>{self._foot()}"
        )
        return document(self.title, body)

    def save(self, path: str | Path) -> Path:
        """Writes the file. It is whole, or not there.

        Raises:
            InputError: the name does not end in .html.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            expected = "a name that ends in .html"
            where = f"Page.save, {path.name}"
            raise InputError(explain(where=where, expected=expected, got=repr(path.suffix)))
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, self.html.encode())
        return path

    def _head(self) -> str:
        facts = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
            for name, value in self.facts.items()
        )
        strip = f"<dl class=jf-facts>{facts}</dl>" if facts else ""
        return (
            f"<header class=jf-head>{panel()}<div class=jf-wide>"
            f"<p class=jf-brand>{logo()}Jackfield</p>"
            f"<h1>{escape(self.title)}</h1><p class=jf-subtitle>{inline(self.subtitle)}</p>{strip}"
            "</div></header>"
        )

    def _contents(self) -> str:
        items = "".join(
            f"<li><a href=#s{i}><b>{i}</b>{escape(section.title)}</a></li>"
            for i, section in enumerate(self.sections, start=1)
        )
        return f'<nav class=jf-nav aria-label="Contents"><ol>{items}</ol></nav>' if items else ""

    def _terms(self) -> str:
        if not self.glossary:
            return ""
        terms = "".join(
            f"<div><dt>{escape(term)}</dt><dd>{inline(meaning)}</dd></div>"
            for term, meaning in self.glossary.items()
        )
        return f"<section class=jf-terms><h2>The words used here</h2><dl>{terms}</dl></section>"

    def _foot(self) -> str:
        footer = f"{inline(self.footer)} " if self.footer else ""
        return (
            f"<footer class=jf-foot><div class=jf-wide><p>{footer}"
            "This file is complete in itself and loads nothing from the network.</p></div></footer>"
        )


def _section(i: int, section: PageSection) -> str:
    looking = f"<p class=jf-looking>{inline(section.looking_at)}</p>" if section.looking_at else ""
    blocks = "".join(block.html(3) for block in section.blocks)
    picture = f"<div class=jf-picture>{blocks}</div>" if blocks else ""
    reading = Text(section.how_to_read).html(3) if section.how_to_read else ""
    aside = f"<aside class=jf-reading><h3>How to read it</h3>{reading}</aside>" if reading else ""
    source = highlighted(section.code) if section.code else ""
    summary = "<summary>The Python that made it</summary>"
    code = f"<details>{summary}<pre><code>{source}</code></pre></details>" if source else ""
    head = f"<h2><b>{i}</b>{escape(section.title)}</h2>"
    return f"<section class=jf-section id=s{i}>{head}{looking}{picture}{aside}{code}</section>"
