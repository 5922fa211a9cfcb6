"""Which output tokens a latent moves: in the texts it fires on, and by the direct path alone.

In its texts, by ablation: at the last token of each text, p is the next token's probability,

    effect = mean over texts of  p(token) − p(token | the latent silenced there)

which counts everything that the later blocks make of it. The direct path leaves all of them out:

    direct = unembed(√d · w) − unembed(0),   then minus its mean over the vocabulary

w is the direction, and unembed the model's own final norm and head. A norm ignores the length of
its input, so there is no scale to choose (√d keeps the norm's epsilon out); subtracting unembed(0)
takes off the biases of norm and head; the mean is what softmax ignores. In the last blocks it says
much the same as the ablation, in the middle ones of a small model little.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.edits import Edit
from jackfield.model.inputs import pad

if TYPE_CHECKING:
    from jackfield.model.model import Model

_RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def effect_by_ablation(
    dictionary: Dictionary, latent: int, model: "Model", texts: Sequence[Sequence[int]]
) -> Float[Tensor, " vocab"]:
    """What a latent adds to the probability of each next token, on average over texts.

    Args:
        dictionary: whose latent.
        latent: which one is silenced, at the last token of each text.
        model: a language model with the dictionary's site.
        texts: token ids; a begin token is put before those that lack it, so that the model's sink
            is not one of theirs.
    """
    begin = getattr(model.tokenizer, "bos_token_id", None)
    rows = [text if begin is None or text[0] == begin else [begin, *text] for text in texts]
    tokens, mask = pad(rows, side="right", value=0)
    call = {"input_ids": tokens, "attention_mask": mask.long()}
    last = mask.sum(dim=1) - 1

    def chances(edits: list[Edit]) -> Tensor:
        logits = model.run(call, edits=edits).logits
        return logits[torch.arange(len(rows)), last].float().softmax(dim=-1).cpu()

    return (chances([]) - chances(dictionary.ablate(latent, where="last"))).mean(dim=0)


def direct_effect(dictionary: Dictionary, latent: int, model: "Model") -> Float[Tensor, " vocab"]:
    """What a latent's direction alone adds to the logits, up to a positive factor.

    Raises:
        InputError: the site is not a part of the residual stream.
    """
    if dictionary.site.rpartition(".")[2] not in _RESIDUAL:
        expected = f"a site in the residual stream ({', '.join(_RESIDUAL)})"
        raise InputError(explain(where="direct effect", expected=expected, got=dictionary.site))
    direction = dictionary.directions[latent]
    pair = torch.stack([direction * len(direction) ** 0.5, torch.zeros_like(direction)])
    with torch.no_grad():
        there, nothing = model.unembed(pair.to(model.device, model.dtype)).float().cpu()
    effect = there - nothing
    return effect - effect.mean()
