"""A trace: what one block and the modules after the blocks were given and gave, in one forward."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jackfield.model.attention import Call, tapped
from jackfield.model.views import first

if TYPE_CHECKING:
    from jackfield.model.doctor.subject import Subject

NEAR = 1e-4  # relative difference up to which two tensors of the trace count as the same


@dataclass(frozen=True)
class Seen:
    """One call of a module: its path, the first tensor it was given, and the first it gave."""

    path: str
    module: nn.Module
    given: Tensor
    out: Tensor

    @property
    def is_leaf(self) -> bool:
        """Whether the module has no parts."""
        return next(self.module.children(), None) is None

    @property
    def is_linear(self) -> bool:
        """Whether it is one matrix."""
        weight = getattr(self.module, "weight", None)
        return self.is_leaf and isinstance(weight, Tensor) and weight.dim() == 2

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm: a leaf that keeps the shape, and is called so or has a gain."""
        weight = getattr(self.module, "weight", None)
        gain = isinstance(weight, Tensor) and not self.is_linear
        named = "norm" in type(self.module).__name__.lower()
        return self.is_leaf and self.given.shape == self.out.shape and (gain or named)


@dataclass
class Trace:
    """What was seen.

    Attributes:
        entry, exit: resid_pre and resid_post of the block; last: resid_post of the last block.
        output: the first tensor that the model returned.
        calls: modules of the block, in the order of their calls; after: modules after the blocks.
        attention: the path of the module that calls the attention interface, None if none does.
        inside: q, k, v as it was given them [batch, position, head, d_head]; z: what it gave.
        returns_tuple: whether the block returns a tuple.
    """

    entry: Tensor
    exit: Tensor
    last: Tensor
    output: Tensor
    calls: list[Seen]
    after: list[Seen]
    attention: str | None
    inside: dict[str, Tensor] = field(default_factory=dict)
    z: Tensor | None = None
    returns_tuple: bool = False

    @property
    def d_head(self) -> int | None:
        """The width of a head, None where attention cannot be tapped."""
        return None if self.z is None else self.z.shape[-1]

    def near(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors are the same up to rounding (and to b·t in one axis)."""
        if a.shape != b.shape:
            if a.numel() != b.numel() or a.shape[-1] != b.shape[-1]:
                return False
            a = a.reshape(b.shape)
        scale = float(b.abs().max())
        return scale > 0 and float((a - b).abs().max()) <= NEAR * scale

    def outputs(self) -> list[Seen]:
        """Outputs as wide as the stream: of equal ones the outermost that was called last."""
        kept: list[Seen] = []
        for call in sorted(self.calls, key=lambda each: each.path.count(".")):
            fits = self.is_wide(call.out)
            known = next((i for i, k in enumerate(kept) if self.near(k.out, call.out)), None)
            if fits and known is None:
                kept.append(call)
            elif fits and known is not None and kept[known].path.count(".") == call.path.count("."):
                kept[known] = call
        return [call for call in self.calls if any(call is each for each in kept)]

    def is_wide(self, x: Tensor) -> bool:
        """Whether a tensor is of the stream's shape, or that with b·t in one axis."""
        return x.shape[-1] == self.entry.shape[-1] and x.numel() == self.entry.numel()

    def wide(self, x: Tensor) -> Tensor:
        """It in the stream's shape."""
        return x.reshape(self.entry.shape)

    def pairs(self) -> Iterator[tuple[Seen, Seen]]:
        """Two outputs, the earlier one first."""
        yield from combinations(self.outputs(), 2)

    def place(self, call: Seen, side: str) -> str:
        """A module's input or output as the role table writes it."""
        x = call.given if side == "in" else call.out
        return f"{call.path}:{side}" + (" flat" if x.dim() < self.entry.dim() else "")

    def beside_attention(self) -> list[Seen]:
        """Calls of modules that are no norm and no part of attention, the outermost first."""
        kept = [c for c in self.calls if not c.is_norm and "att" not in c.path.lower()]
        return sorted(kept, key=lambda each: each.path.count("."))

    def call(self, path: str | None) -> Seen | None:
        """The call of the module at a path."""
        return next((each for each in self.calls if each.path == path), None)

    def outermost(self, x: Tensor) -> str:
        """The path, with the fewest parts, of a module that gave x."""
        paths = [call.path for call in self.calls if self.near(call.out, x)]
        return min(paths, key=lambda path: path.count("."))

    def largest(self, x: Tensor) -> Seen | None:
        """Of the modules that gave x the one with the most parameters, the outermost first."""
        made = [call for call in self.calls if self.near(call.out, x)]
        size = [sum(p.numel() for p in call.module.parameters()) for call in made]
        ranked = sorted(zip(size, made, strict=True), key=lambda e: (-e[0], e[1].path.count(".")))
        return ranked[0][1] if ranked else None

    def linear_making(self, x: Tensor) -> Seen | None:
        """The matrix whose output is x."""
        return next((c for c in self.calls if c.is_linear and self.near(c.out, x)), None)

    def linears(self, *, reading: Tensor) -> Iterator[Seen]:
        """The matrices that were given this tensor."""
        yield from (c for c in self.calls if c.is_linear and self.near(c.given, reading))

    def activations(self) -> Iterator[Seen]:
        """Leaves without parameters that change what they are given."""
        for call in self.calls:
            bare = call.is_leaf and next(call.module.parameters(), None) is None
            if bare and call.given.shape == call.out.shape and not self.near(call.out, call.given):
                yield call

    def norms_after(self, linear: Seen | None) -> Iterator[Seen]:
        """Leaves that keep the shape and change the value, of this matrix's output or of any."""
        for call in self.calls:
            fits = linear is None or call.given.numel() == linear.out.numel()
            if call.is_norm and fits and not self.near(call.out, call.given):
                yield call

    def norm_making(self, x: Tensor) -> Seen | None:
        """The norm whose output is x."""
        return next((call for call in self.norms_after(None) if self.near(call.out, x)), None)

    def repeats(self, call: Seen) -> bool:
        """Whether the module, called on its own on what it was given, gives the same again."""
        try:
            return self.near(first(call.module(call.given)), call.out)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False

    def last_norm(self) -> Seen | None:
        """The norm that makes what leaves the block."""
        return self.norm_making(self.exit)

    def after_norm(self, call: Seen) -> tuple[str, Seen]:
        """The text "norm({})" and the call whose output it was given, or "{}" and the call."""
        norm = self.norm_making(call.out)
        if norm is None:
            return "{}", call
        inner = [each for each in self.calls if self.near(each.out, norm.given)]
        return (f"{norm.path}({{}})", inner[0]) if inner else ("{}", call)


def trace(patient: "Subject") -> Trace | None:
    """Runs the model once; None where the blocks do not hand the stream on, one to the next."""
    blocks, path = patient.model.blocks, patient.model.family.blocks  # type: ignore[union-attr]
    middle = len(blocks) // 2  # the first block is in some models a little different
    block, module = blocks[middle], patient.model.module
    whole: list[tuple[Tensor, Any]] = []
    calls: list[Seen] = []
    after: list[Seen] = []
    taken: dict[str, Any] = {}
    outside = [(n, m) for n, m in module.named_modules() if n and not f"{n}.".startswith(f"{path}.")
               and not path.startswith(n)]  # fmt: skip
    with ExitStack() as stack:
        for each in blocks:
            stack.callback(_watch(each, lambda x, out: whole.append((x, out))))
        for into, parts in ((calls, [p for p in block.named_modules() if p[0]]), (after, outside)):
            for name, part in parts:
                stack.callback(_watch(part, _noting(into, name, part)))
        stack.enter_context(tapped({part: _tap(taken) for part in block.modules()}))
        output = first(_plain(patient.run().output))
    if len(whole) != len(blocks) or not _handed_on(whole):
        return None
    (entry, out), last = whole[middle], first(whole[-1][1])
    names = {part: name for name, part in block.named_modules()}
    return Trace(
        entry=entry,
        exit=first(out),
        last=last,
        output=output,
        calls=_once(calls),
        after=_once(after),
        attention=names.get(taken.get("module")),
        inside={part: taken[part] for part in ("q", "k", "v") if part in taken},
        z=taken.get("z"),
        returns_tuple=isinstance(out, tuple),
    )


def _watch(part: nn.Module, note: Any) -> Any:
    """A hook that notes the first tensor given and what came; returns what removes it."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if given is not None:
            note(given, out)

    return part.register_forward_hook(hook, with_kwargs=True).remove


def _noting(into: list[Seen], name: str, part: nn.Module) -> Any:
    def note(given: Tensor, out: Any) -> None:
        value = out[0] if isinstance(out, (tuple, list)) and out else out
        if isinstance(value, Tensor) and value.is_floating_point() and given.is_floating_point():
            into.append(Seen(name, part, given.clone(), value.clone()))

    return note


def _tap(taken: dict[str, Any]) -> Any:
    def handle(inner: Any, call: Call) -> Any:
        z, weights = inner(call.module, call.query, call.key, call.value, call.mask, **call.options)
        inside = {"q": call.query, "k": call.key, "v": call.value}
        taken.update({part: value.transpose(1, 2).clone() for part, value in inside.items()})
        taken.update(module=call.module, z=z.clone())
        return z, weights

    return handle


def _handed_on(whole: list[tuple[Tensor, Any]]) -> bool:
    """Whether each block is given what the one before it gave."""
    outs = [first(out) for _, out in whole]
    given = [x for x, _ in whole]
    return all(torch.equal(a, b) for a, b in zip(outs, given[1:], strict=False)) and all(
        out.dim() == 3 and out.shape == given[0].shape for out in outs
    )


def _once(calls: list[Seen]) -> list[Seen]:
    paths = [call.path for call in calls]
    return [call for call in calls if paths.count(call.path) == 1]


def _plain(output: Any) -> Any:
    return output.logits if hasattr(output, "logits") else output
