"""Views: how the tensor that passes a hook is seen as the site, and put back after an edit.

Each is a pair of functions. `get` gives the site's tensor; `put` gives the raw value with the
site replaced, never writing into the given one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import SiteError, explain


@dataclass(frozen=True)
class Frame:
    """What a view may need to know: the module, its head width, and [batch, position]."""

    module: Any
    d_head: int | None
    shape: tuple[int, int] | None


@dataclass(frozen=True)
class View:
    """`get(raw, frame)` → site; `put(raw, new, frame)` → raw; None where it cannot be written."""

    get: Callable[[Any, Frame], Tensor]
    put: Callable[[Any, Tensor, Frame], Any] | None


def view(name: str) -> View:
    """The view called `name` in the role table ("" is the tensor as it is)."""
    recipe, _, index = name.partition(":")
    return _VIEWS[recipe](int(index)) if index else _VIEWS[recipe]()


def select(inner: View, axes: tuple[str, ...], selection: tuple[tuple[str, int], ...]) -> View:
    """`inner`, narrowed to one index on each named axis (the axis goes)."""
    places = tuple((axes.index(axis), index) for axis, index in selection)

    def index(x: Tensor) -> tuple[Any, ...]:
        chosen = dict(places)
        return tuple(chosen.get(dim, slice(None)) for dim in range(x.dim()))

    def get(raw: Any, frame: Frame) -> Tensor:
        x = inner.get(raw, frame)
        try:
            return x[index(x)]
        except IndexError:
            got = ", ".join(f"{axis}={i}" for axis, i in selection)
            sizes = ", ".join(f"{axes[dim]}={x.shape[dim]}" for dim, _ in places)
            raise SiteError(
                explain(where="selection", expected=f"an index within {sizes}", got=got)
            ) from None

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        assert inner.put is not None
        x = inner.get(raw, frame).clone()
        x[index(x)] = new
        return inner.put(raw, x, frame)

    return View(get, put if inner.put else None)


def first(raw: Any) -> Tensor:
    """The first tensor of what a module returned."""
    return raw if isinstance(raw, Tensor) else raw[0]  # type: ignore[no-any-return]


def with_first(raw: Any, new: Tensor) -> Any:
    """`raw` with its first tensor replaced."""
    if isinstance(raw, Tensor):
        return new
    return type(raw)((new, *raw[1:])) if isinstance(raw, (tuple, list)) else _with_field(raw, new)


def _with_field(raw: Any, new: Tensor) -> Any:
    """A `ModelOutput` with its first field replaced."""
    changed = type(raw)(**raw)
    changed[next(iter(raw.keys()))] = new
    return changed


def _whole() -> View:
    return View(lambda raw, _: first(raw), lambda raw, new, _: with_first(raw, new))


def _clone() -> View:
    """For a value that the model changes in place after the hook."""
    return View(lambda raw, _: first(raw).clone(), lambda raw, new, _: with_first(raw, new))


def _heads() -> View:
    """[…, head · d_head] seen as [..., head, d_head]."""
    return View(
        lambda raw, frame: first(raw).unflatten(-1, (-1, frame.d_head)),
        lambda raw, new, _: with_first(raw, new.flatten(-2)),
    )


def _heads_first() -> View:
    """[batch, head, position, d_head], as attention functions are given it."""
    return View(lambda raw, _: raw.transpose(1, 2), lambda raw, new, _: new.transpose(1, 2))


def _thirds(part: int) -> View:
    """q, k and v side by side, [..., 3 · head · d_head]: the part as [..., head, d_head]."""

    def get(raw: Any, frame: Frame) -> Tensor:
        return first(raw).chunk(3, dim=-1)[part].unflatten(-1, (-1, frame.d_head))

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        parts = list(first(raw).chunk(3, dim=-1))
        parts[part] = new.flatten(-2)
        return with_first(raw, torch.cat(parts, dim=-1))

    return View(get, put)


def _interleaved(part: int) -> View:
    """q, k and v of each head side by side, [..., head · 3 · d_head]."""

    def split(raw: Any, frame: Frame) -> Tensor:
        return first(raw).unflatten(-1, (-1, 3, frame.d_head))

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        parts = list(split(raw, frame).unbind(-2))
        parts[part] = new
        return with_first(raw, torch.stack(parts, dim=-2).flatten(-3))

    return View(lambda raw, frame: split(raw, frame)[..., part, :], put)


def _flat() -> View:
    """[batch · position, d] seen as [batch, position, d]; left alone where it has both axes."""

    def get(raw: Any, frame: Frame) -> Tensor:
        x = first(raw)
        return x if x.dim() > 2 else x.unflatten(0, _shape(frame))

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        return with_first(raw, new if first(raw).dim() > 2 else new.flatten(0, 1))

    return View(get, put)


def _router() -> View:
    """Expert logits [batch, position, expert]; a write chooses the experts anew from them."""

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        logits = new.flatten(0, 1)
        return (logits, *route(logits, frame.module, raw[1].dtype), *raw[3:])

    return View(lambda raw, frame: raw[0].unflatten(0, _shape(frame)), put)


def _router_choice() -> View:
    """The chosen experts [batch, position, k], best first. Write the router to change them."""
    return View(lambda raw, frame: raw[2].unflatten(0, _shape(frame)), None)


def route(logits: Tensor, router: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and indices of the top k experts, as the router itself computes them."""
    shares = torch.softmax(logits.float(), dim=-1)
    weights, chosen = torch.topk(shares, router.top_k, dim=-1)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(dtype), chosen


def _shape(frame: Frame) -> tuple[int, int]:
    if frame.shape is None:
        raise SiteError(
            explain(
                where="a site without batch and position axes",
                expected="a call of the whole model, which tells them",
                got="a call of a part",
            )
        )
    return frame.shape


_VIEWS: dict[str, Callable[..., View]] = {
    "": _whole,
    "clone": _clone,
    "heads": _heads,
    "heads_first": _heads_first,
    "thirds": _thirds,
    "interleaved": _interleaved,
    "flat": _flat,
    "router": _router,
    "router_choice": _router_choice,
}
