"""Where: on which tokens something acts. Positions are absolute in a row; padding is not counted.

    "all"         every token                    "last"       position n−1, fixed
    "prompt"      positions below n−1            "generated"  positions from n−1 on
    "sinks"       the model's sink positions     "~sinks"     all others
    3, [0, 5], slice(2, 8)                       positions; −1 is the last of the prompt
    Tokens((id, …)), Rows((0, 2)), a bool tensor [batch, position]

`n` is the number of prompt tokens in the row. The last prompt position makes the first new token,
so it counts as generated. Combine with `&`, `|`, `~`, also in text: "generated & ~sinks".
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from jackfield.core.errors import EditError, did_you_mean, explain

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Coordinates:
    """Which token stands at each place of an activation.

    Attributes:
        positions: [batch, position] absolute index in the row, −1 for padding.
        lengths: [batch] prompt tokens in each row (n).
        tokens: [batch, position] token ids, None where a model has none.
        sinks: positions of the model's attention sinks.
        spans: [batch, position] the role of each token in a chat, as an index into `roles`.
    """

    positions: "Tensor"
    lengths: "Tensor"
    tokens: "Tensor | None" = None
    sinks: tuple[int, ...] = ()
    spans: "Tensor | None" = None
    roles: tuple[str, ...] = ()

    @property
    def real(self) -> "Tensor":
        """[batch, position] True where a token stands, False for padding."""
        return self.positions >= 0


class Where(ABC):
    """A set of tokens. Compare: two `where` are equal when they are the same rule."""

    @abstractmethod
    def mask(self, at: Coordinates) -> "Tensor":
        """[batch, position] True on the chosen tokens; padding is never chosen."""

    def __and__(self, other: Any) -> "Where":
        return Both(self, where(other))

    def __or__(self, other: Any) -> "Where":
        return Either(self, where(other))

    def __invert__(self) -> "Where":
        return Except(self)


@dataclass(frozen=True)
class All(Where):
    """Every token."""

    def mask(self, at: Coordinates) -> "Tensor":
        return at.real


@dataclass(frozen=True)
class Phase(Where):
    """One of "prompt", "generated", "last": see the head of this file."""

    name: str

    def mask(self, at: Coordinates) -> "Tensor":
        first_made = at.lengths[:, None] - 1
        if self.name == "prompt":
            return at.real & (at.positions < first_made)
        if self.name == "generated":
            return at.real & (at.positions >= first_made)
        return at.real & (at.positions == first_made)


@dataclass(frozen=True)
class Sinks(Where):
    """The positions that soak up attention, by the model's fixed profile."""

    def mask(self, at: Coordinates) -> "Tensor":
        import torch

        sinks = torch.tensor(at.sinks, device=at.positions.device, dtype=at.positions.dtype)
        return torch.isin(at.positions, sinks) & at.real


@dataclass(frozen=True)
class Positions(Where):
    """Absolute positions; a negative one counts from the end of the prompt (−1 = last)."""

    indices: tuple[int, ...]

    def mask(self, at: Coordinates) -> "Tensor":
        import torch

        indices = torch.tensor(self.indices, dtype=torch.long, device=at.positions.device)
        wanted = torch.where(indices < 0, at.lengths[:, None] + indices, indices)
        return (at.positions[:, :, None] == wanted[:, None, :]).any(-1) & at.real


@dataclass(frozen=True)
class Span(Where):
    """Positions from `start` up to, not including, `stop` (None: to the end).

    Negative bounds count from the end of the prompt, as in `Positions`.
    """

    start: int
    stop: int | None = None

    def mask(self, at: Coordinates) -> "Tensor":
        inside = at.real & (at.positions >= _bound(self.start, at))
        return inside if self.stop is None else inside & (at.positions < _bound(self.stop, at))


@dataclass(frozen=True)
class Tokens(Where):
    """Places where one of these token ids stands."""

    ids: tuple[int, ...]

    def mask(self, at: Coordinates) -> "Tensor":
        import torch

        if at.tokens is None:
            raise EditError(
                explain(where="where=Tokens", expected="a model that reads token ids", got="none")
            )
        return torch.isin(at.tokens, torch.tensor(self.ids, device=at.tokens.device)) & at.real


@dataclass(frozen=True)
class Rows(Where):
    """Whole rows of the batch."""

    indices: tuple[int, ...]

    def mask(self, at: Coordinates) -> "Tensor":
        import torch

        batch = at.positions.shape[0]
        outside = [index for index in self.indices if not -batch <= index < batch]
        if outside:
            raise EditError(
                explain(where="where=Rows", expected=f"rows of {batch}", got=str(outside))
            )
        chosen = torch.zeros(batch, dtype=torch.bool, device=at.positions.device)
        chosen[list(self.indices)] = True
        return at.real & chosen[:, None]


@dataclass(frozen=True)
class Role(Where):
    """The tokens of one role of a chat ("user", "assistant", "system"); give the run messages."""

    name: str

    def mask(self, at: Coordinates) -> "Tensor":
        if at.spans is None or self.name not in at.roles:
            known = ", ".join(at.roles) or "no chat: give the run a list of messages"
            if at.roles and at.spans is None:
                known = "a chat template that changes earlier messages, so that spans are unknown"
            raise EditError(
                explain(where=f"where=Role({self.name!r})", expected="a role", got=known)
            )
        return at.real & (at.spans == at.roles.index(self.name))


@dataclass(frozen=True, eq=False)
class Mask(Where):
    """A bool tensor [batch, position] in the coordinates of the given input."""

    values: "Tensor"

    def mask(self, at: Coordinates) -> "Tensor":
        if self.values.shape != at.positions.shape:
            raise EditError(
                explain(
                    where="where=mask",
                    expected=f"[batch, position] = {list(at.positions.shape)}",
                    got=str(list(self.values.shape)),
                    hint="A mask fits one input; use a phase or positions when generating.",
                )
            )
        return self.values.to(at.positions.device) & at.real


@dataclass(frozen=True)
class Both(Where):
    """Tokens in both sets."""

    left: Where
    right: Where

    def mask(self, at: Coordinates) -> "Tensor":
        return self.left.mask(at) & self.right.mask(at)


@dataclass(frozen=True)
class Either(Where):
    """Tokens in at least one set."""

    left: Where
    right: Where

    def mask(self, at: Coordinates) -> "Tensor":
        return self.left.mask(at) | self.right.mask(at)


@dataclass(frozen=True)
class Except(Where):
    """Tokens that are not in the set."""

    inner: Where

    def mask(self, at: Coordinates) -> "Tensor":
        return at.real & ~self.inner.mask(at)


ALL = All()
_NAMES: dict[str, Where] = {
    "all": ALL,
    "sinks": Sinks(),
    **{name: Phase(name) for name in ("prompt", "generated", "last")},
}


def where(value: Any) -> Where:
    """Makes a `Where` of what a user may write; see the head of this file.

    >>> where("generated & ~sinks")
    Both(left=Phase(name='generated'), right=Except(inner=Sinks()))
    >>> where(3)
    Positions(indices=(3,))
    """
    if isinstance(value, Where):
        return value
    if isinstance(value, str):
        return _parse(value)
    if isinstance(value, slice) and value.step in (None, 1):
        return Span(value.start or 0, value.stop)
    if _is_index(value):
        return Positions((value,))
    if isinstance(value, (list, tuple)) and all(map(_is_index, value)):
        return Positions(tuple(value))
    if str(getattr(value, "dtype", "")) == "torch.bool" and value.dim() == 2:
        return Mask(value)
    raise EditError(
        explain(
            where="where",
            expected=f"one of {', '.join(_NAMES)}, positions, a slice or a bool [batch, position]",
            got=repr(value),
        )
    )


def depends_on_row(rule: Where) -> bool:
    """Whether the rule names rows of a batch (reordering the batch would break it)."""
    if isinstance(rule, (Rows, Mask)):
        return True
    return any(depends_on_row(part) for part in _parts(rule))


def depends_on_prompt(rule: Where) -> bool:
    """Whether the rule asks where the prompt ends (a row of several documents has no one end)."""
    bounds: tuple[int | None, ...] = ()
    if isinstance(rule, Positions):
        bounds = rule.indices
    if isinstance(rule, Span):
        bounds = (rule.start, rule.stop)
    if isinstance(rule, Phase) or any(bound is not None and bound < 0 for bound in bounds):
        return True
    return any(depends_on_prompt(part) for part in _parts(rule))


def to_json(rule: Where) -> dict[str, Any]:
    """The rule as JSON types.

    Raises:
        EditError: the rule holds a mask, which belongs to one input only.
    """
    if isinstance(rule, Mask):
        raise EditError(
            "where=mask: a mask belongs to one input and cannot be saved. Use positions."
        )
    data: dict[str, Any] = {"kind": type(rule).__name__}
    for field in fields(rule):  # type: ignore[arg-type]
        value = getattr(rule, field.name)
        data[field.name] = to_json(value) if isinstance(value, Where) else value
    return data


def from_json(data: dict[str, Any]) -> Where:
    """Rebuilds a rule from `to_json`."""
    kinds = {kind.__name__: kind for kind in Where.__subclasses__()}
    values = {name: _value(value) for name, value in data.items() if name != "kind"}
    return kinds[data["kind"]](**values)


def _bound(index: int, at: Coordinates) -> "Tensor | int":
    """A bound of a span as a position in each row."""
    return index if index >= 0 else at.lengths[:, None] + index


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return from_json(value)
    return tuple(value) if isinstance(value, list) else value


def _parts(rule: Where) -> list[Where]:
    values = [getattr(rule, field.name) for field in fields(rule)]  # type: ignore[arg-type]
    return [value for value in values if isinstance(value, Where)]


def _parse(text: str) -> Where:
    """`|` binds weaker than `&`, `~` strongest; no brackets (use objects for those)."""
    for symbol, joined in (("|", Either), ("&", Both)):
        left, found, right = text.partition(symbol)
        if found:
            return joined(_parse(left), _parse(right))
    name = text.strip()
    if name.startswith("~"):
        return Except(_parse(name[1:]))
    if name not in _NAMES:
        raise EditError(
            explain(
                where="where",
                expected=f"one of {', '.join(_NAMES)}",
                got=repr(name),
                hint=did_you_mean(name, _NAMES),
            )
        )
    return _NAMES[name]
