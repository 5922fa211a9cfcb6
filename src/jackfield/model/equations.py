"""Equations: what a site equals, as the role table writes it, evaluated on tensors and modules.

    mlp.act_fn(mlp_pre) * mlp.up_proj(mlp_in)

A name is a site of the block, or an attribute (`logit_scale`); a dotted name with brackets is a
module, called on its own; "?" after it means that it may be missing (then nothing is done). There
is `+`, `*`, `|` ("or else", for a block that lacks a module of what stands before it), and:

    join, split        heads [..., head, d_head] side by side [..., head · d_head], and apart
    half0, half1       the two halves of the last axis
    rotary             turned by position: nothing at position 0; NaN, for "not said", elsewhere
    clip, softcap      by the config's clip_qkv and final_logit_softcapping, where it has them
    choice             the indices of the best k
    first              the first position
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jackfield.model.views import first

_TOKEN = re.compile(r"\s*([\w.]+\??|[()+*])")
_FUNCTIONS = ("join", "split", "half0", "half1", "rotary", "clip", "softcap", "choice", "first")


@dataclass(frozen=True)
class Scope:
    """What the words of an equation stand for.

    Attributes:
        module: where paths begin: a block, or the whole model.
        values: site role → its value.
        config: the text config; d_head: the width of a head.
        start: [batch, position] True at position 0 of each row.
    """

    module: nn.Module
    values: Mapping[str, Tensor]
    config: Any = None
    d_head: int | None = None
    start: Tensor | None = None


@dataclass(frozen=True)
class Term:
    """A node: a name, a call `name(inside)`, or a sum or product of its parts."""

    kind: str
    name: str = ""
    parts: tuple["Term", ...] = ()


def parse(equation: str) -> Term:
    """The equation as a tree.

    Raises:
        ValueError: it is not one.

    >>> parse("a + b").kind, [part.name for part in parse("a + b").parts]
    ('+', ['a', 'b'])
    """
    tokens = _TOKEN.findall(equation)
    if "".join(tokens) != re.sub(r"\s+", "", equation):
        raise ValueError(f"not an equation: {equation}")
    term, rest = _sum(tokens)
    if rest:
        raise ValueError(f"not an equation: {equation}")
    return term


def names_in(equation: str) -> tuple[set[str], set[str]]:
    """The plain names and the module paths that an equation uses.

    >>> names_in("attn.c_proj(join(z))")
    ({'z'}, {'attn.c_proj'})
    """
    terms = list(_walk(parse(equation)))
    plain = {term.name for term in terms if term.kind == "name"}
    called = {term.name for term in terms if term.kind == "call"}
    return plain, called - set(_FUNCTIONS)


def fitting(equation: str, scope: Scope) -> str | None:
    """The first alternative whose sites were read and whose modules exist, None if none has."""
    for part in equation.split("|"):
        names, paths = names_in(part)
        known = all(n in scope.values or lookup(scope.module, n) is not None for n in names)
        if known and all(p.endswith("?") or lookup(scope.module, p) is not None for p in paths):
            return part
    return None


def evaluate(equation: str, scope: Scope) -> Tensor:
    """The value of an equation without alternatives; places of which it says nothing are NaN."""
    value = _evaluate(parse(equation), scope)
    assert isinstance(value, Tensor)
    return value


def lookup(module: Any, path: str) -> Any:
    """What lies at a dotted path of attributes, None where a part is missing."""
    for part in path.split(".") if path else ():
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def _sum(tokens: list[str]) -> tuple[Term, list[str]]:
    return _chain(tokens, "+", lambda rest: _chain(rest, "*", _factor))


def _chain(tokens: list[str], sign: str, inner: Any) -> tuple[Term, list[str]]:
    part, rest = inner(tokens)
    parts = [part]
    while rest and rest[0] == sign:
        part, rest = inner(rest[1:])
        parts.append(part)
    return (parts[0] if len(parts) == 1 else Term(sign, parts=tuple(parts))), rest


def _factor(tokens: list[str]) -> tuple[Term, list[str]]:
    if not tokens or tokens[0] in "()+*":
        raise ValueError(f"a name is missing before {' '.join(tokens) or 'the end'}")
    name, rest = tokens[0], tokens[1:]
    if not rest or rest[0] != "(":
        return Term("name", name), rest
    inside, rest = _sum(rest[1:])
    if not rest or rest[0] != ")":
        raise ValueError(f"a bracket of {name} is open")
    return Term("call", name, (inside,)), rest[1:]


def _walk(term: Term) -> Iterator[Term]:
    yield term
    for part in term.parts:
        yield from _walk(part)


def _evaluate(term: Term, scope: Scope) -> Any:
    if term.kind == "name":
        known = term.name in scope.values
        return scope.values[term.name] if known else lookup(scope.module, term.name)
    parts = [_evaluate(part, scope) for part in term.parts]
    if term.kind == "call":
        return _call(term.name, parts[0], scope)
    value = parts[0]
    for part in parts[1:]:
        value = value + part if term.kind == "+" else value * part
    return value


def _call(name: str, x: Tensor, scope: Scope) -> Tensor:
    if name in _FUNCTIONS:
        return _function(name, x, scope)
    module = lookup(scope.module, name.rstrip("?"))
    if module is None and name.endswith("?"):
        return x
    made = first(module(x))
    flat = made.dim() == 2 and x.dim() == 3
    return made.unflatten(0, x.shape[:2]) if flat else made


def _function(name: str, x: Tensor, scope: Scope) -> Tensor:
    if name == "join":
        return x.flatten(-2)
    if name == "split":
        return x.unflatten(-1, (-1, scope.d_head))
    if name in ("half0", "half1"):
        return x.chunk(2, dim=-1)[int(name[-1])]
    if name == "rotary":
        return _only_at(scope.start, x)
    if name == "clip":
        limit = getattr(scope.config, "clip_qkv", None)
        return x if limit is None else x.clamp(-limit, limit)
    if name == "softcap":
        cap = getattr(scope.config, "final_logit_softcapping", None)
        return x if cap is None else torch.tanh(x / cap) * cap
    if name == "choice":
        return x.topk(scope.config.num_experts_per_tok, dim=-1).indices
    return x[:, 0]


def _only_at(start: Tensor | None, x: Tensor) -> Tensor:
    assert start is not None
    said = start.reshape(*start.shape, *([1] * (x.dim() - start.dim())))
    return x.masked_fill(~said, torch.nan)
