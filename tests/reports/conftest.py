"""A small HTML reader, and one block of each kind."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from jackfield.reports import (
    Bars,
    Block,
    CircuitPicture,
    Columns,
    HeatMap,
    Histogram,
    Image,
    InteractionPicture,
    Lines,
    Report,
    Scatter,
    SideBySide,
    Table,
    Text,
    Tokens,
)

VOID = {"meta", "img", "br", "link", "hr", "input"}
# The smallest picture there is: one grey pixel.
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""

    def __getitem__(self, name: str) -> str | None:
        return self.attributes.get(name)

    @property
    def classes(self) -> list[str]:
        return (self["class"] or "").split()


@dataclass
class Parsed:
    """Every element in order, and the text outside script and style."""

    elements: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str, css: str | None = None) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and (css is None or css in e.classes)]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parsed, self.open = Parsed(), []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.parsed.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parsed.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data
        if not any(element.tag in ("script", "style") for element in self.open):
            self.parsed.text += data


def read_html(html: str) -> Parsed:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"left open: {[element.tag for element in reader.open]}"
    return reader.parsed


@pytest.fixture
def read() -> Callable[[str], Parsed]:
    """Parses HTML, and fails if an element is not closed where it must be."""
    return read_html


@pytest.fixture(scope="session")
def read_once() -> Callable[[str], Parsed]:
    """The same, of a scope that hypothesis accepts."""
    return read_html


def one_of_each() -> list[Block]:
    nan = math.nan
    return [
        Text("FVU is **0.2**, from `k` = 32.\n\n- one\n- two <b>"),
        Table(["token", "KL"], [[" <script>", 0.5], ["\n", nan], ["x", None]], "a", {"KL": ".2f"}),
        HeatMap([[0.0, -1.5, nan], [2.0, math.inf, 1.0]], [" a", "b\n", "<i>"], [0, 1]),
        HeatMap([[1.0, 2.0]], scale="sequential", limits=(0, 4), caption="c"),
        Scatter([0, 1], [2.0, -1.0], ["Mon", "<Tue>"], [0, 0.5, 1], [2, 1, -1], caption="Days"),
        Lines([1, 2, 3], {"a": [1.0, nan, 3.0]}, {"a": ([0, 0, 2], [2, 2, 4])}, log_x=True),
        Histogram([3, 0, 1], [0, 1, 2, 3], log_y=True),
        Bars([" Mary", "$x$"], [2.0, -1.0], [(1, 3), (-2, 0)]),
        Tokens([["Hi", " <b>", "\n"], ["x"]], [[0.0, 2.5, nan], [1.0]], caption="t"),
        SideBySide(["a", "b"], [["x y", "x z"]], ["Why?"], {"KL": [[nan, 0.5]]}),
        Image(PIXEL, alt="a pixel"),
        CircuitPicture([("embed", "0.1 v", -0.5), ("0.1", "mlp 1", 0.2)], "<c>"),
        InteractionPicture(["a <b>", "c"], [(0, 2, 1, 1.0), (0, 2, 3, 0.25)]),
        Columns([Text("left"), Text("right")]),
        Report("Inner", [Text("deep"), Columns([Table(["n"], [[1]])])], "a summary"),
    ]


EACH = one_of_each()


@pytest.fixture(params=EACH, ids=[f"{i}-{block.kind}" for i, block in enumerate(EACH)])
def block(request: pytest.FixtureRequest) -> Block:
    """One block of each kind, with missing values and markup in it."""
    return request.param


@pytest.fixture
def everything() -> Report:
    """A report with one block of each kind."""
    return Report("All & <sundry>", EACH, "Nothing *left* out.")
