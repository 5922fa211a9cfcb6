"""What a direction of the residual stream is made by: neurons, and the outputs of heads.

    neuron   cos(direction, its column of the down-projection), the largest in size
    head     |P direction|² / |direction|², P the projection onto what the head can write
             (the columns of its part of the output projection); a random direction has d_head / d

Only layers that write before the site are looked at. A norm behind the projection (Gemma, OLMo 2)
is left out, as is a head's value matrix: its rank is that of the output part as a rule.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import ModelError, SiteError
from jackfield.dictionaries.effects import RESIDUAL, to_residual
from jackfield.model.readers import linear_readers, matrix

if TYPE_CHECKING:
    from jackfield.model.model import Model

KEPT = 3  # neurons and heads kept of each direction
_AT_ONCE = 2048  # directions multiplied together


def alignment(
    directions: Float[Tensor, "latent d"], site: str, model: "Model"
) -> dict[str, Tensor]:
    """The neurons and heads that are most aligned with each direction.

    Returns:
        neuron_layers, neurons, neuron_cosines and head_layers, heads, head_shares, each
        [latent, up to 3]; without the neurons or heads of a model in which they are not found.
    """
    unit = F.normalize(to_residual(directions, site, model).float().cpu())
    role, layer = site.rpartition(".")[2], model.sites[site].layer
    if layer is None or role not in (*RESIDUAL, "z"):
        return {}
    heads = layer + (role not in ("resid_pre", "mlp_out"))
    neurons = layer + (role in ("resid_post", "mlp_out"))
    return _neurons(unit, neurons, model) | _heads(unit, heads, model)


def head_outputs(model: "Model", layer: int) -> Float[Tensor, "head d_head d"]:
    """What a unit of each coordinate of z adds to the residual stream.

    Raises:
        SiteError, ModelError: the layer has no linear output projection that reads z.
    """
    (module,) = linear_readers(model, f"layers.{layer}.z").values()
    assert model.n_heads is not None
    return matrix(module).float().cpu().T.unflatten(0, (model.n_heads, -1))


def _neurons(unit: Tensor, layers: int, model: "Model") -> dict[str, Tensor]:
    best: list[Tensor] = []
    for layer in range(layers):
        try:
            (module,) = linear_readers(model, f"layers.{layer}.mlp_post").values()
            outputs = F.normalize(matrix(module).float().cpu(), dim=0)
        except (SiteError, ModelError, ValueError):  # a mixture of experts, or no such site
            continue
        scores = torch.cat([part @ outputs for part in unit.split(_AT_ONCE)])
        best = _best(best, scores, layer)
    names = ("neuron_layers", "neurons", "neuron_cosines")
    return dict(zip(names, best, strict=False))


def _heads(unit: Tensor, layers: int, model: "Model") -> dict[str, Tensor]:
    best: list[Tensor] = []
    for layer in range(layers):
        try:
            outputs = head_outputs(model, layer)
        except (SiteError, ModelError, ValueError):
            continue
        bases = [torch.linalg.qr(head.T).Q for head in outputs]
        shares = torch.stack([(unit @ basis).square().sum(dim=1) for basis in bases], dim=1)
        best = _best(best, shares, layer)
    return dict(zip(("head_layers", "heads", "head_shares"), best, strict=False))


def _best(best: list[Tensor], scores: Tensor, layer: int) -> list[Tensor]:
    """Layer, number and score [latent, kept] of the largest so far in size."""
    number = scores.abs().topk(min(KEPT, scores.shape[1]), dim=1).indices
    new = [torch.full_like(number, layer), number, scores.gather(1, number)]
    both = [torch.cat(pair, dim=1) for pair in zip(best, new, strict=True)] if best else new
    order = both[2].abs().sort(dim=1, descending=True, stable=True).indices[:, :KEPT]
    return [part.gather(1, order) for part in both]
