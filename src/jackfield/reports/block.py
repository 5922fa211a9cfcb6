"""Block: one thing that a report shows, in every form: HTML, plain text, terminal, rows, JSON.

A concrete block is a frozen dataclass of plain Python values (tuples of floats, strings), so it is
data first: `to_json` and `block_from_json` are inverse. A `Drawable` also draws itself with
matplotlib, which is imported only then.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from textwrap import fill
from typing import Any, ClassVar

from jackfield.core.errors import ArtifactError, InputError, did_you_mean, explain
from jackfield.core.extras import need
from jackfield.reports.document import fragment
from jackfield.reports.glyphs import clip, printable
from jackfield.reports.palette import SERIES

Row = dict[str, Any]
# What blocks take for numbers: nested sequences, a numpy array, or a tensor of any dtype.
ArrayLike = Any

_UNUSUAL = ("NaN", "Infinity", "-Infinity")  # floats that JSON has no literal for
_MATPLOTLIB_STYLE = {
    "axes.edgecolor": "#8a909c",
    "axes.labelcolor": "#1b2029",
    "axes.prop_cycle": f"cycler('color', {list(SERIES['light'])})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.size": 9.0,
    "grid.color": "#e3e0d8",
    "text.parse_math": False,  # a token "$" is a dollar
    "xtick.color": "#5b6472",
    "ytick.color": "#5b6472",
}


class Block(ABC):
    """One thing to show. Concrete blocks are leaves: `class Table(Block, kind="table")`."""

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type["Block"]]] = {}

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if kind:
            cls.kind = kind
            Block.kinds[kind] = cls

    @abstractmethod
    def html(self, level: int) -> str:
        """The block as HTML; `level` is that of its heading, if it has one (2 for `<h2>`)."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The block as plain text, at most about 100 columns wide."""

    @property
    @abstractmethod
    def rich(self) -> Any:
        """The block as something that rich prints."""

    @property
    @abstractmethod
    def table(self) -> list[Row]:
        """The block's data as rows, all with the same keys; empty if it has none."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The block's data as JSON types, with its `kind`."""

    def __repr__(self) -> str:
        first_line = self.text.partition("\n")[0]
        return f"<{type(self).__name__}: {clip(first_line, 60)}>"

    def __rich__(self) -> Any:
        return self.rich

    def _repr_html_(self) -> str:
        return fragment(self.html(2))


class Drawable(Block):
    """A block that matplotlib can draw."""

    @abstractmethod
    def draw(self, axes: Any) -> None:
        """Draws the block into matplotlib axes."""

    def figure(self) -> Any:
        """A matplotlib Figure with the block in it; no window, no global state.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        matplotlib = need("matplotlib", extra="plots", purpose="figure()")
        figures = need("matplotlib.figure", extra="plots", purpose="figure()")
        with matplotlib.rc_context(_MATPLOTLIB_STYLE):
            figure = figures.Figure(figsize=(6.4, 3.6), layout="constrained")
            self.draw(figure.add_subplot())
        return figure


def block_from_json(data: Mapping[str, Any]) -> Block:
    """The block that `to_json` wrote.

    Raises:
        ArtifactError: the kind is unknown, or the data does not fit it.
    """
    fields = {name: _decoded(value) for name, value in data.items()}
    kind = str(fields.pop("kind", None))
    if kind not in Block.kinds:
        raise ArtifactError(
            explain(
                where="report, block",
                expected=f"a kind of block ({', '.join(sorted(Block.kinds))})",
                got=repr(kind),
                hint=did_you_mean(kind, Block.kinds),
            )
        )
    if "blocks" in fields:
        fields["blocks"] = [block_from_json(block) for block in fields["blocks"]]
    try:
        return Block.kinds[kind](**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            explain(where=f"report, block '{kind}'", expected="its fields", got=str(error))
        ) from error


def fields_json(block: Any) -> dict[str, Any]:
    """`to_json` of a block whose fields are plain values and blocks."""
    fields = {each.name: getattr(block, each.name) for each in dataclasses.fields(block)}
    return {"kind": block.kind} | {name: _encoded(value) for name, value in fields.items()}


def vector(values: ArrayLike, *, where: str) -> tuple[float, ...]:
    """A flat tuple of floats from anything array-like.

    Raises:
        InputError: it is not one-dimensional, or holds something else than numbers.
    """
    try:
        return tuple(float(value) for value in _as_list(values))
    except (TypeError, ValueError) as error:
        got = f"{type(values).__name__} ({error})"
        raise InputError(explain(where=where, expected="a list of numbers", got=got)) from error


def matrix(values: ArrayLike, *, where: str) -> tuple[tuple[float, ...], ...]:
    """Rows of floats, all of the same length.

    Raises:
        InputError: the rows differ in length, or it is not two-dimensional.
    """
    rows = tuple(vector(row, where=f"{where}, row {i}") for i, row in enumerate(_as_list(values)))
    check_lengths(rows, len(rows[0]) if rows else 0, where=where, what="values")
    return rows


def as_rows(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Row]:
    """Rows as dicts; a name that comes again is numbered, so that no column is lost.

    >>> as_rows(["layer", "layer"], [(3, 12)])
    [{'layer': 3, 'layer 2': 12}]
    """
    keys: list[str] = []
    for name in names:
        numbered = (f"{name} {number}" for number in count(2))
        keys.append(name if name not in keys else next(k for k in numbered if k not in keys))
    return [dict(zip(keys, row, strict=True)) for row in rows]


def names_of(labels: ArrayLike) -> tuple[str, ...]:
    """Labels as strings, from a list, an array or a tensor."""
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    return tuple(map(str, labels))


def check_lengths(rows: Sequence[Sequence[Any]], length: int, *, where: str, what: str) -> None:
    """Raises InputError if a row does not hold `length` of `what`."""
    for i, row in enumerate(rows):
        if len(row) != length:
            raise InputError(
                explain(where=f"{where}, row {i}", expected=f"{length} {what}", got=str(len(row)))
            )


def check_choice(value: str, choices: Sequence[str], *, where: str) -> None:
    """Raises InputError if `value` is none of `choices`."""
    if value not in choices:
        expected = f"one of {', '.join(map(repr, choices))}"
        raise InputError(explain(where=where, expected=expected, got=repr(value)))


def put(block: Block, **fields: Any) -> None:
    """Sets fields of a frozen block, in its `__post_init__` only."""
    for name, value in fields.items():
        object.__setattr__(block, name, value)


def draw_title(axes: Any, caption: str) -> None:
    """Writes a caption above matplotlib axes, in lines that fit the figure."""
    across = int(axes.figure.get_size_inches()[0] * 12)  # letters
    axes.set_title(fill(printable(caption), across))


def plain(text: str) -> Any:
    """`text` for rich, without its markup."""
    from rich.text import Text

    return Text(text)


def _as_list(values: ArrayLike) -> list[Any]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | Mapping):
        raise TypeError(f"a {type(values).__name__} is not a list of numbers")
    return list(values)


def _encoded(value: Any) -> Any:
    if isinstance(value, Block):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _encoded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        names = {math.inf: "Infinity", -math.inf: "-Infinity"}
        return {"float": names.get(value, "NaN")}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and value["float"] in _UNUSUAL:
            return float(value["float"])
        return {key: _decoded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value
