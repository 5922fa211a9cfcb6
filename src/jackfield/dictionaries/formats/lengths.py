"""Lengths: foreign weights with decoder rows of length 1, so that codes are in units of x.

With n_i = ‖W_dec,i‖, a rule of thresholds gives the same x̂ by

    W_enc,i ← n_i W_enc,i,    b_enc,i ← n_i b_enc,i,    θ_i ← n_i θ_i,    W_dec,i ← W_dec,i / n_i

and our code is theirs times n_i. A rule of the k largest stays the same only if it ranks by
n_i p_i (SAELens' `rescale_acts_by_decoder_norm`, whose codes are n_i p_i already). If it ranks by
p_i, other latents would be kept: such a dictionary keeps the lengths of its rows (sparsify's
transcoders have some), and codes are theirs. Where rows have length 1 already, to rounding, nothing
is changed. Folding rounds: a p_i that is θ_i to the last bit or two may come to lie on the other
side of it (on rows of 576 dimensions, about once in a million codes).
"""

import torch
from torch import Tensor

from jackfield.dictionaries.sparse_dictionary import SparseDictionary

Weights = dict[str, Tensor]

_ROUNDING = 1e-5  # lengths this near to 1 are 1


def folded(weights: Weights, *, ranks_by_length: bool) -> Weights:
    """The weights with decoder rows of length 1; rows of length 0 stay.

    Args:
        weights: as in `SparseDictionary`; without "threshold" the rule is that of the k largest.
        ranks_by_length: whether that rule ranks a latent by its code times its row's length.
    """
    n = weights["decoder"].norm(dim=1)
    n = torch.where(n > 0, n, 1.0)
    near = bool(((n - 1).abs() < _ROUNDING).all())
    if near if "threshold" in weights else not ranks_by_length:
        return weights
    longer = {"encoder": n[:, None], "encoder_bias": n, "threshold": n}
    scaled = {name: weights[name] * by for name, by in longer.items() if name in weights}
    return weights | scaled | {"decoder": weights["decoder"] / n[:, None]}


def gated(encoder: Tensor, b_gate: Tensor, b_mag: Tensor, r_mag: Tensor) -> Weights:
    """The encoder, its bias and the thresholds of a gated autoencoder.

    The gate π + b_gate > 0 is open where q = π e^r + b_mag > b_mag − e^r b_gate; see `Gated`.
    """
    scale = r_mag.exp()
    threshold = (b_mag - scale * b_gate).relu()
    return {"encoder": encoder * scale[:, None], "encoder_bias": b_mag, "threshold": threshold}


def bias_about(dictionary: SparseDictionary, centre: Tensor) -> Tensor:
    """The encoder's bias if another centre is taken off the rows first: [latent].

    p = (x − c) W_encᵀ + b = (x − c′) W_encᵀ + (b + W_enc (c′ − c))
    """
    if torch.equal(dictionary.centre, centre):
        return dictionary.encoder_bias
    moved = centre.double() - dictionary.centre.double()
    bias = dictionary.encoder_bias.double() + dictionary.encoder.double() @ moved
    return bias.to(dictionary.encoder_bias)
