"""Random-filtered difference: a mean difference without what random tokens vary along.

    v = mean⁺ − mean⁻                              as `MeanDifference`
    B [k, d]: the first k principal directions of the activation on random tokens
    v ← v − Bᵀ B v

What an activation does on random tokens it does on any text: the directions that vary most there
carry position, frequency, the kind of token. LangFIR (arXiv 2604.03532) filters latents of a
dictionary so; this is the same thought without a dictionary, and our own.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.fitted import Method
from jackfield.steering.contrast import Pooling, difference, read_contrast
from jackfield.steering.directions import direction_of
from jackfield.steering.features.random_texts import random_texts
from jackfield.steering.steering_vector import SteeringVector
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TEXTS = 16  # in one forward


@config
class RandomFilteredDifference(Method):
    """The difference of means, orthogonal to what random tokens vary along.

    Attributes:
        components: k, how many principal directions are taken out.
        random: how many random sequences.
        length: tokens in each.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens are read.
        splits: random halvings for d′ and the cosine.
        seed: of the halvings, and of the random tokens.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> method = RandomFilteredDifference(components=4)
    >>> method.fit(world.model, **sides, at="layers.1.resid_post").vector.shape
    torch.Size([32])
    """

    components: int = setting(default=8, ge=1)
    random: int = setting(default=64, ge=1)
    length: int = setting(default=24, ge=2)
    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"
    splits: int = setting(default=20, ge=1)
    seed: int = 0

    def fit(
        self, model: "Model", *, positive: Any, negative: Any, at: str, progress: bool = False
    ) -> SteeringVector:
        """Fits the direction at one site.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not.
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: no texts, sides that do not differ, or more components than the width or
                the random tokens allow.
            SiteError: a site of another shape, or several.
        """
        names = model.sites.select(at)
        if len(names) > 1:
            got = f"{at}, which are {len(names)}"
            raise SiteError(explain(where=f"{model.name}, {at}", expected="one site", got=got))
        read = read_contrast(
            model, positive, negative, at, tokens=self.tokens, where=self.where, progress=progress
        )
        basis = self._basis(model, read.sites[0])

        def filtered(plus: Tensor, minus: Tensor) -> Tensor:
            found = difference(plus, minus)
            return found - (found @ basis.T) @ basis

        return direction_of(self, model, read, read.sites[0], filtered)

    def _basis(self, model: "Model", site: str) -> Float[Tensor, "k d"]:
        """The principal directions of the activation on random tokens, float64."""
        rows = _rows(model, random_texts(model, self.random, self.length, self.seed), site, self)
        if self.components >= min(rows.shape):
            raise InputError(
                explain(
                    where=f"{model.name}, {site}",
                    expected=f"fewer components than the {len(rows)} random tokens and the "
                    f"{rows.shape[1]} units",
                    got=str(self.components),
                )
            )
        return torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False).Vh[: self.components]


def _rows(
    model: "Model", texts: Tensor, site: str, method: RandomFilteredDifference
) -> Float[Tensor, "row d"]:
    """The activation on those of the random tokens that `where` chooses."""
    found = []
    for part in texts.split(_TEXTS):
        run = model.run(part, sites=[site], logits=False)
        found.append(run[site][chosen_tokens(model, run, method.where)].cpu().double())
    return torch.cat(found)
