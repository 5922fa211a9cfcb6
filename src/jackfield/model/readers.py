"""Readers: which modules read a site, told by the role table's equations.

    readers(model, "layers.3.mlp_in")     model.layers.3.mlp.gate_proj, model.layers.3.mlp.up_proj
    readers(model, "layers.3.z")          model.layers.3.self_attn.o_proj

An equation such as `mlp_out = mlp.down_proj(mlp_post)` says that `mlp.down_proj` is called on
mlp_post. Projections that give q, k and v side by side have no equation; they are the modules at
whose output these sites lie. A module's own input (`….o_proj:in`) is read by that module.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jackfield.core.errors import ModelError, SiteError, explain
from jackfield.model.equations import Scope, Term, fitting, lookup, parse

if TYPE_CHECKING:
    from jackfield.model.model import Model

_PROJECTED = ("q_proj", "k_proj", "v_proj")


def readers(model: "Model", name: str) -> list[str]:
    """Paths of the modules of its block that are called on a site, as they are called.

    Raises:
        SiteError: no such site, or it is not one that modules of a block read.
    """
    site = model.sites[name]
    if site.name.endswith("]"):
        raise SiteError(explain(where=model.name, expected="a whole site", got=site.name))
    path, _, side = site.name.rpartition(":")
    if side == "in":
        return [path]
    if model.family is None or (site.layer is None and site.role != "final_norm"):
        expected = "a site inside a block, final_norm, or the input of a module (path:in)"
        raise SiteError(explain(where=model.name, expected=expected, got=name))
    if site.layer is None:
        return _in_block(model, "", [model.family.logits or ""], "final_norm")
    block = f"{model.sites.base}{model.family.blocks}.{site.layer}"
    found = _in_block(model, block, list(model.family.equations.values()), site.role)
    if site.role == "attn_in":
        outputs = [model.sites[f"layers.{site.layer}.{role}"].point for role in _PROJECTED]
        found += [point.path for point in outputs if point.side == "out"]
    return list(dict.fromkeys(found))


def linear_readers(model: "Model", name: str) -> dict[str, nn.Module]:
    """The readers of a site by path, where all of them are linear.

    Raises:
        SiteError: one is not (a norm, an activation function, a mixture of experts), or there is
            none.
    """
    found = {path: model.module.get_submodule(path) for path in readers(model, name)}
    others = [f"{path} ({type(m).__name__})" for path, m in found.items() if not is_linear(m)]
    if others or not found:
        raise SiteError(
            explain(
                where=f"{model.name}, {name}",
                expected="a site that linear modules read",
                got=", ".join(others) or "one that no module of its block reads",
                hint="attn_in, z, mlp_in and mlp_post are such, outside mixtures of experts.",
            )
        )
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module is `nn.Linear` or the transposed `Conv1D` of transformers."""
    return isinstance(module, nn.Linear) or _is_transposed(module)


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """The weight of a linear module with a column for each input.

    Raises:
        ModelError: it is not in memory (accelerate brings it only when it is used).
    """
    weight = module.get_parameter("weight").detach()
    if weight.is_meta:
        expected = "a weight in memory"
        raise ModelError(
            explain(where=repr(module), expected=expected, got="one on the meta device")
        )
    return weight.T if _is_transposed(module) else weight


def stacked(modules: dict[str, nn.Module]) -> Float[Tensor, "out in"]:
    """The matrices of linear modules that read one site, one below the other."""
    return torch.cat([matrix(module) for module in modules.values()])


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _in_block(model: "Model", block: str, equations: list[str], role: str) -> list[str]:
    """Paths of what equations over one block call on `role`."""
    part = lookup(model.module, block)
    layer = block.rpartition(".")[2]
    known = [site.role for site in model.sites if not block or str(site.layer) == layer]
    scope = Scope(part, dict.fromkeys(known, torch.empty(0)), model.config)
    chosen = [fitting(equation, scope) for equation in equations if equation]
    names = [name for each in chosen if each for name in _called_on(parse(each), role)]
    return [
        f"{block}.{name}".lstrip(".")
        for name in dict.fromkeys(names)
        if isinstance(lookup(part, name), nn.Module)
    ]


def _called_on(term: Term, role: str) -> Iterator[str]:
    """Names that are called on `role` itself, heads side by side or apart."""
    for part in term.parts:
        yield from _called_on(part, role)
    if term.kind == "call" and _inside(term.parts[0]) == role:
        yield term.name.rstrip("?")


def _inside(term: Term) -> Any:
    shaped = term.kind == "call" and term.name in ("join", "split")
    inner = term.parts[0] if shaped else term
    return inner.name if inner.kind == "name" else None
