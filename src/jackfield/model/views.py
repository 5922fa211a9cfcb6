"""Views: how the tensor that passes a hook is seen as the site, and put back after an edit.

Each is a pair of functions. `get` gives the site's tensor; `put` gives the raw value with the
site replaced, never writing into the given one.

    heads         […, head · d_head]           seen as [..., head, d_head]
    joined:0|1|2  […, all q | all k | all v]   one of the three, by heads (k, v may have fewer)
    grouped:0|1|2 […, (q … q k v) per KV head] one of the three, by heads
    halves:0|1    […, gate | up]               one of the two
    flat          [batch · position, d]        seen as [batch, position, d]
    router, router_late, router_choice         parts of what a router returns
    clone         with any of them: the model changes the tensor in place after the hook
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jackfield.core.errors import SiteError, explain


@dataclass(frozen=True)
class Frame:
    """What a view may need to know: the module, head width, [batch, position], query heads."""

    module: Any
    d_head: int | None
    shape: tuple[int, int] | None
    heads: int | None = None


@dataclass(frozen=True)
class View:
    """`get(raw, frame)` → site; `put(raw, new, frame)` → raw; None where it cannot be written.

    `copies`: the model changes the tensor in place later, so it must be given one of its own.
    """

    get: Callable[[Any, Frame], Tensor]
    put: Callable[[Any, Tensor, Frame], Any] | None
    copies: bool = False


def view(names: str) -> View:
    """The view that the role table calls so ("" is the tensor as it is)."""
    words = [word for word in names.split() if word != "clone"]
    recipe, _, index = (words[0] if words else "").partition(":")
    made = _VIEWS[recipe](int(index)) if index else _VIEWS[recipe]()
    return replace(made, copies="clone" in names)


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

    return View(get, put if inner.put else None, inner.copies)


Route = Callable[[Tensor, Any, torch.dtype], tuple[Tensor, Tensor]]


def first(raw: Any) -> Tensor:
    """The first tensor of what a module returned.

    Raises:
        SiteError: it returned something else.
    """
    found = raw[0] if isinstance(raw, (tuple, list)) and raw else raw
    found = next(iter(raw.values()), raw) if isinstance(raw, OrderedDict) else found
    if not isinstance(found, Tensor):
        expected = "a module that returns a tensor, or several with the first one to be read"
        got = type(found).__name__
        raise SiteError(explain(where="a module's output", expected=expected, got=got))
    return found


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


def _heads() -> View:
    """[…, head · d_head] seen as [..., head, d_head]."""
    return View(
        lambda raw, frame: first(raw).unflatten(-1, (-1, frame.d_head)),
        lambda raw, new, _: with_first(raw, new.flatten(-2)),
    )


def _heads_first() -> View:
    """[batch, head, position, d_head], as attention functions are given it."""
    return View(lambda raw, _: raw.transpose(1, 2), lambda raw, new, _: new.transpose(1, 2))


def _joined(part: int) -> View:
    """All of q, all of k, all of v side by side: one of them as [..., head, d_head]."""

    def parts(raw: Any, frame: Frame) -> list[Tensor]:
        x, query = first(raw), _heads_of(frame) * (frame.d_head or 1)
        others = (x.shape[-1] - query) // 2
        return list(x.split([query, others, others], dim=-1))

    def get(raw: Any, frame: Frame) -> Tensor:
        return parts(raw, frame)[part].unflatten(-1, (-1, frame.d_head))

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        changed = parts(raw, frame)
        changed[part] = new.flatten(-2)
        return with_first(raw, torch.cat(changed, dim=-1))

    return View(get, put)


def _grouped(part: int) -> View:
    """For each KV head its queries, its key, its value: one of them as [..., head, d_head]."""
    chosen = (slice(None, -2), slice(-2, -1), slice(-1, None))

    def split(raw: Any, frame: Frame) -> Tensor:
        x = first(raw).unflatten(-1, (-1, frame.d_head))
        groups = (x.shape[-2] - _heads_of(frame)) // 2
        return x.unflatten(-2, (groups, -1))

    def get(raw: Any, frame: Frame) -> Tensor:
        return split(raw, frame)[..., chosen[part], :].flatten(-3, -2)

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        old = split(raw, frame)
        parts = [old[..., place, :] for place in chosen]
        parts[part] = new.reshape(parts[part].shape)
        return with_first(raw, torch.cat(parts, dim=-2).flatten(-3))

    return View(get, put)


def _halves(part: int) -> View:
    """Gate and up side by side, [..., 2 · d_mlp]: one of them."""

    def put(raw: Any, new: Tensor, _: Frame) -> Any:
        parts = list(first(raw).chunk(2, dim=-1))
        parts[part] = new
        return with_first(raw, torch.cat(parts, dim=-1))

    return View(lambda raw, _: first(raw).chunk(2, dim=-1)[part], put)


def _flat() -> View:
    """[batch · position, d] seen as [batch, position, d]; left alone where it has both axes."""

    def get(raw: Any, frame: Frame) -> Tensor:
        x = first(raw)
        return x if x.dim() > 2 else x.unflatten(0, _shape(frame))

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        return with_first(raw, new if first(raw).dim() > 2 else new.flatten(0, 1))

    return View(get, put)


def _router(route: Route) -> View:
    """Expert logits [batch, position, expert]; a write chooses the experts anew from them."""

    def put(raw: Any, new: Tensor, frame: Frame) -> Any:
        logits = new.flatten(0, 1)
        return (logits, *route(logits, frame.module, raw[1].dtype), *raw[3:])

    return View(lambda raw, frame: raw[0].unflatten(0, _shape(frame)), put)


def _router_choice() -> View:
    """The chosen experts [batch, position, k], best first. Write the router to change them."""
    return View(lambda raw, frame: raw[2].unflatten(0, _shape(frame)), None)


def route(logits: Tensor, router: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and indices of the top k experts: of the softmax over all, as Mixtral has it."""
    shares = torch.softmax(logits.float(), dim=-1)
    weights, chosen = torch.topk(shares, router.top_k, dim=-1)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(dtype), chosen


def route_late(logits: Tensor, router: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same with the softmax over the chosen ones only, as GPT-OSS has it."""
    best, chosen = torch.topk(logits, router.top_k, dim=-1)
    return torch.softmax(best, dim=-1, dtype=best.dtype).to(dtype), chosen


def _heads_of(frame: Frame) -> int:
    if frame.heads is None:
        expected = "a config with num_attention_heads"
        raise SiteError(explain(where="a fused projection", expected=expected, got="none"))
    return frame.heads


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
    "heads": _heads,
    "heads_first": _heads_first,
    "joined": _joined,
    "grouped": _grouped,
    "halves": _halves,
    "flat": _flat,
    "router": lambda: _router(route),
    "router_late": lambda: _router(route_late),
    "router_choice": _router_choice,
}
