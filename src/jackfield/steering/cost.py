"""What steering costs: how far it moves a model's predictions, and how fluent its text stays.

    KL(steered ‖ unsteered) = Σ p_s (log p_s − log p_u)          nats, at each token of given texts
    NLL = −1/n Σ log p_u(token)                                  nats a token, of generated text
    distinct-2 = distinct bigrams / bigrams                      of generated text, 0 to 1

NLL is that of the *unsteered* model. A text that repeats itself has a low NLL, so it is shown with
distinct-2 (Li et al. 2016, arXiv 1510.03055), which is then low as well. KL as a measure of
control: 2504.19483.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from jackfield.edits import Edit
from jackfield.model.generation_steps import ends_of
from jackfield.steering.unsteered import Unsteered

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True)
class KLCost:
    """KL(steered ‖ unsteered) in nats a token: mean and 95th percentile over `tokens` tokens."""

    mean: float
    p95: float
    tokens: int


@dataclass(frozen=True)
class Fluency:
    """Of generated texts: `nll` in nats a token under the unsteered model, and `distinct2`.

    Each is the mean over texts; NaN where no text has the one or two tokens it needs.
    """

    nll: float
    distinct2: float


def kl_costs(model: "Model", variants: Sequence[Sequence[Edit]], texts: Any) -> list[KLCost]:
    """The KL of each list of edits to the unedited model, on the tokens of `texts`.

    Sink positions are not counted: nothing reads their predictions.

    Args:
        model: a language model with known blocks; edits act in its blocks.
        variants: lists of edits.
        texts: texts, or token ids [text, position].
    """
    unsteered = Unsteered(model, texts, [edit for edits in variants for edit in edits])
    return [kl_cost(unsteered, edits) for edits in variants]


def kl_cost(unsteered: Unsteered, edits: Sequence[Edit]) -> KLCost:
    """The KL of edits to the unedited model, on the texts that `unsteered` has run."""
    found = []
    for plain, steered in unsteered.beside(edits):
        log_p = steered.log_softmax(dim=-1)
        kl = (log_p.exp() * (log_p - plain.log_softmax(dim=-1))).sum(dim=-1)
        found.append(kl.clamp(min=0).cpu())  # rounding goes below 0
    values = torch.cat(found)
    return KLCost(float(values.mean()), float(values.quantile(0.95)), len(values))


def fluency(model: "Model", prompts: Any, tokens: Int[Tensor, "text new"]) -> Fluency:
    """How fluent generated tokens are to the unsteered model.

    Args:
        model: the model that generated them.
        prompts: as given to `model.generate`.
        tokens: `Generation.tokens`.
    """
    made = model.inputs(prompts, padding="left", answer=True)
    assert made.tokens is not None
    assert made.mask is not None
    tokens = tokens.to(made.tokens.device)
    real = until_end(model, tokens)
    ids = torch.cat([made.tokens, tokens], dim=1)
    mask = torch.cat([made.mask, real], dim=1)
    run = model.run({"input_ids": ids, "attention_mask": mask.long()})
    before = run.logits[:, made.tokens.shape[1] - 1 : -1].float().log_softmax(dim=-1)
    said = before.gather(-1, tokens[..., None])[..., 0]
    rows = zip(said, tokens, real, strict=True)
    pairs = [(-s[r].mean(), _distinct2(t[r].tolist())) for s, t, r in rows]
    nll, distinct = (torch.tensor([float(pair[i]) for pair in pairs]) for i in (0, 1))
    return Fluency(float(nll.nanmean()), float(distinct.nanmean()))


def until_end(model: "Model", tokens: Int[Tensor, "text new"]) -> Bool[Tensor, "text new"]:
    """True up to a row's end of sequence; generation pads behind it."""
    ended = torch.isin(tokens, ends_of(model).to(tokens)).long().cumsum(dim=1)
    return ended == 0


def _distinct2(ids: Sequence[int]) -> float:
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else float("nan")
