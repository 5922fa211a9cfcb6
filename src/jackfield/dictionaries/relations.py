"""What latents have to do with each other and with the model; an index's part without a pass."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, ModelError, SiteError
from jackfield.dictionaries.alignment import alignment
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.effects import strongest_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TOKENS, _NEAREST = 8, 8  # kept of each latent
_AT_ONCE = 1024  # latents compared together


def nearest_latents(directions: Float[Tensor, "latent d"]) -> dict[str, Tensor]:
    """The latents with the largest cosines: nearest and cosines, each [latent, up to 8]."""
    unit = directions.detach().float().cpu()
    unit, n = unit / unit.norm(dim=1, keepdim=True).clamp_min(1e-12), min(_NEAREST, len(unit) - 1)
    near: list[tuple[Tensor, Tensor]] = []
    for first in range(0, len(unit), _AT_ONCE):
        cosines = unit[first : first + _AT_ONCE] @ unit.T
        own = torch.arange(len(cosines))
        cosines[own, own + first] = -2.0
        best = cosines.topk(n, dim=1)
        near.append((best.indices, best.values))
    indices, values = (torch.cat(parts) for parts in zip(*near, strict=True))
    return {"nearest": indices, "cosines": values}


def made_and_moved(dictionary: Dictionary, model: "Model | None") -> dict[str, Tensor]:
    """Promoted tokens, neurons and heads; nothing without a model, or away from its residual."""
    if model is None:
        return {}
    try:
        found = strongest_tokens(dictionary.directions, dictionary.site, model, _TOKENS)
        return found | alignment(dictionary.directions, dictionary.site, model)
    except (InputError, ModelError, SiteError):  # another site; no head
        return {}


def names_for(model: "Model | None", found: dict[str, Tensor]) -> dict[str, Any]:
    """What the index says of the model once it is opened without it."""
    note: dict[str, Any] = {"labels": {}, "vocabulary": {}}
    if model is not None and "promoted" in found:
        ids = torch.cat([found[name].flatten() for name in ("promoted", "suppressed")])
        known = ids.unique().tolist()
        note["vocabulary"] = dict(zip(map(str, known), model.token_strings(known), strict=True))
        note["head_share"] = (model.d_head or 0) / model.d_model
    return note
