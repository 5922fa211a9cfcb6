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
from jackfield.model.readers import linear_readers, matrix

if TYPE_CHECKING:
    from jackfield.model.model import Model

RESIDUAL = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_AT_ONCE = 256  # directions whose logits are in memory together


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
        InputError: the site is not a part of the residual stream, nor one that writes to it.
    """
    return direct_effects(dictionary.directions[latent][None], dictionary.site, model)[0]


def direct_effects(
    directions: Float[Tensor, "latent d"], site: str, model: "Model"
) -> Float[Tensor, "latent vocab"]:
    """What each direction alone adds to the logits; in memory for all of them.

    Raises:
        InputError: as `direct_effect`.
    """
    rows = to_residual(directions, site, model)
    rows = torch.cat([rows * rows.shape[1] ** 0.5, torch.zeros_like(rows[:1])])
    with torch.no_grad():
        logits = model.unembed(rows.to(model.device, model.dtype)).float().cpu()
    effects = logits[:-1] - logits[-1]
    return effects - effects.mean(dim=1, keepdim=True)


def strongest_tokens(
    directions: Float[Tensor, "latent d"], site: str, model: "Model", n: int
) -> dict[str, Tensor]:
    """The tokens that each direction promotes and suppresses most.

    Returns:
        promoted, promoted_by, suppressed and suppressed_by, each [latent, n], strongest first.
    """
    found = [_ends(direct_effects(part, site, model), n) for part in directions.split(_AT_ONCE)]
    names = ("promoted", "promoted_by", "suppressed", "suppressed_by")
    return {
        name: torch.cat(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)
    }


def to_residual(
    directions: Float[Tensor, "latent d_in"], site: str, model: "Model"
) -> Float[Tensor, "latent d"]:
    """Directions as they stand in the residual stream; those of z go through the output projection.

    Raises:
        InputError: the site is neither a part of the residual stream nor z.
    """
    role = site.rpartition(".")[2]
    if role == "z":
        (module,) = linear_readers(model, site).values()
        return directions @ matrix(module).T.to(directions)
    if role not in RESIDUAL:
        expected = f"a site in the residual stream ({', '.join(RESIDUAL)}), or z"
        raise InputError(explain(where="direct effect", expected=expected, got=site))
    return directions


def _ends(effects: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = min(n, effects.shape[1])
    high, low = effects.topk(n, dim=1), effects.topk(n, dim=1, largest=False)
    return high.indices, high.values, low.indices, low.values
