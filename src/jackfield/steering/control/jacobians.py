"""Jacobians of blocks: how the last token's way through each block answers to a small push.

    A_t = mean over texts of ∂f_t(x)/∂x   [d, d]      f_t: block t, at the last token of the text

The other tokens of the text stay as they are: they are in the cache, and one token is run through
one block, with a backward for each of its d outputs, many at once. Texts are added up one by one,
so the memory is one [d, d] a layer, however many texts there are.

Local linearity of blocks, and their averages as the dynamics of a controller: 2604.19018.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress

if TYPE_CHECKING:
    from jackfield.model.model import Model

_OUTPUTS = 256  # backwards at once


def block_jacobians(
    model: "Model",
    texts: Sequence[Any],
    layers: Sequence[int],
    *,
    context: int = 24,
    progress: bool = False,
) -> dict[int, Float[Tensor, "d d"]]:
    """The mean Jacobian of some blocks at the last token, float32.

    Args:
        model: a language model with known blocks that keeps a cache.
        texts: texts, chats or token ids, each a text of its own.
        layers: which blocks.
        context: tokens of a text that are kept, from its beginning; the last of them is "the
            last token".
        progress: show a live line.

    Raises:
        InputError: no texts, a text of fewer than two tokens, or a Jacobian that is not finite.
    """
    if not len(texts):
        where = f"{model.name}, Jacobians"
        raise InputError(explain(where=where, expected="at least one text", got="none"))
    sums = {layer: torch.zeros(model.d_model, model.d_model) for layer in layers}
    total = len(texts) * len(sums)
    with Progress("Jacobians", total=total, unit="blocks", enabled=progress) as shown:
        for text in texts:
            last = _LastToken(model, text, list(sums), context)
            for layer, held in sums.items():
                held += last.jacobian(layer)
                shown.update(1)
    return {layer: held / len(texts) for layer, held in sums.items()}


class _LastToken:
    """One text but for its last token in a cache, and that token before each block."""

    def __init__(self, model: "Model", text: Any, layers: list[int], context: int) -> None:
        made = model.inputs(text[None] if isinstance(text, Tensor) else text)
        assert made.tokens is not None
        assert made.mask is not None
        ids = made.tokens[made.mask][:context]
        if len(ids) < 2:
            where = f"{model.name}, Jacobians"
            raise InputError(explain(where=where, expected="two tokens or more", got=f"{len(ids)}"))
        self.model, self.last = model, ids[None, -1:]
        self.past = model.run(ids[None, :-1], cache=True).past
        sites = [f"layers.{layer}.resid_pre" for layer in layers]
        run = model.run(self.last, sites=sites, past=self.past, logits=False)
        self.x = {layer: run[site] for layer, site in zip(layers, sites, strict=True)}

    def jacobian(self, layer: int) -> Float[Tensor, "d d"]:
        """∂ output / ∂ input of a block at the token; J[i, j] is output i by input j."""
        start, stop = f"layers.{layer}.resid_pre", f"layers.{layer}.resid_post"
        x = self.x[layer].detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones know no batched backward
            run = self.model.run(
                self.last, sites=[stop], start={start: x}, past=self.past, grad=True, logits=False
            )
            y = run[stop].flatten()
            found = torch.cat([_pulled(y, x, rows) for rows in _units(y)])
        if not bool(torch.isfinite(found).all()):
            where = f"{self.model.name}, layers.{layer}, Jacobian"
            raise InputError(explain(where=where, expected="finite numbers", got="NaN or Inf"))
        return found.float().cpu()


def _units(y: Tensor) -> tuple[Tensor, ...]:
    """The unit vectors of the outputs, some at a time."""
    return torch.eye(len(y), dtype=y.dtype, device=y.device).split(_OUTPUTS)


def _pulled(y: Tensor, x: Tensor, rows: Tensor) -> Float[Tensor, "rows d"]:
    """Products rows · J, by one batched backward."""
    (found,) = torch.autograd.grad(y, x, rows, is_grads_batched=True, retain_graph=True)
    return found.flatten(1)
