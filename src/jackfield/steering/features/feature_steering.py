"""Feature steering: the few latents of a dictionary that tell two sides of texts apart.

    z̄⁺_f, z̄⁻_f               the mean code of latent f over the tokens of a text, and over texts
    score_f = z̄⁺_f − z̄⁻_f      ("difference"), or that over the spread within a side ("d_prime")
    the k latents of the largest |score| are steered, those of the negative side the other way:

    "add"    x + s Σ_f (z̄⁺_f − z̄⁻_f) W_f
    "set"    x + s Σ_f (z̄⁺_f − z_f) W_f          a latent of the negative side is all but silenced

With all latents "add" is the mean difference as the dictionary sees it, dec(z̄⁺) − dec(z̄⁻); fewer
latents are a part of it that can be read. Choosing latents by the difference of means is that of
ActivationReasoning (ml-research); setting them with the dictionary's error kept is that of
Templeton et al. 2024, Scaling monosemanticity. Wu et al. 2025 (AxBench, arXiv 2501.17148) found
adding single latents weaker than a mean difference.

Departures: both sides' latents are taken, and the weights are differences of means rather than the
largest code that was ever seen.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.steering.contrast import Pooling
from jackfield.steering.features.dictionary import Codes, FeatureDictionary, read_codes
from jackfield.steering.features.lengths import lengths
from jackfield.steering.features.steered_features import Act, SteeredFeatures, added

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class FeatureSteering(Method):
    """The latents that separate two sides of texts, added or set.

    Attributes:
        features: k, how many latents at most; those without a difference are never taken.
        score: the "difference" of the mean codes, or "d_prime", that in standard deviations of the
            texts within a side, which prefers latents that are sure to latents that are large.
        act: "add" the directions, or "set" the codes.
        tokens: what stands for a text: the mean of its tokens ("all") or its last one ("last").
        where: which tokens are read.

    >>> from jackfield.dictionaries import TopK
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sae = TopK(latents=48, k=4, rows=600, batch=64).fit(world.stream(), progress=False)
    >>> sides = {"positive": world.tokens, "negative": world.other}
    >>> found = FeatureSteering(features=3).fit(world.model, **sides, dictionary=sae)
    >>> len(found.latents), found.vector.shape
    (3, torch.Size([32]))
    """

    features: int = setting(default=10, ge=1)
    score: Literal["difference", "d_prime"] = "difference"
    act: Act = "add"
    tokens: Pooling = "all"
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self,
        model: "Model",
        *,
        positive: Any,
        negative: Any,
        dictionary: FeatureDictionary,
        latents: Sequence[int] | None = None,
        progress: bool = False,
    ) -> SteeredFeatures:
        """Chooses the latents.

        Args:
            model: the model to steer.
            positive: texts that have the property: strings, chats, or token ids [text, position].
            negative: texts that have not.
            dictionary: a fitted dictionary of one of the model's sites [batch, position, d].
            latents: those to steer, if they are known; then only their weights are fitted.
            progress: show a live line.

        Raises:
            InputError: no texts, sides whose codes do not differ, latents that are not there, or a
                dictionary of another width.
            SiteError: a dictionary of a site that the model has not, or of another shape.
        """
        where = f"{model.name}, {dictionary.site}"
        plus, minus = (
            read_codes(
                model, dictionary, side, tokens=self.tokens, where=self.where, progress=progress
            )
            for side in (positive, negative)
        )
        scores = self._scores(plus, minus, where)
        named = _named(latents, len(scores), where) if latents is not None else None
        chosen = _largest(scores, self.features, where) if named is None else named
        means = plus.means.mean(dim=0)[chosen], minus.means.mean(dim=0)[chosen]
        weights = (means[0] - means[1]).float()
        if not bool(weights.any()):
            expected = "latents whose mean codes differ between the sides"
            raise InputError(explain(where=where, expected=expected, got="equal means"))
        listed = tuple(chosen.tolist())
        vector = added(dictionary, listed, weights)
        norm, sigma = lengths(
            model, positive, negative, dictionary.site, vector, self.tokens, self.where
        )
        return SteeredFeatures(
            dictionary=dictionary,
            latents=listed,
            weights=weights,
            values=means[0].float(),
            act=self.act,
            residual_norm=norm,
            sigma=sigma,
            figures={
                "score": tuple(scores[chosen].tolist()),
                "mean code, positive": tuple(means[0].tolist()),
                "mean code, negative": tuple(means[1].tolist()),
                "fires, positive": tuple(plus.firing.mean(dim=0)[chosen].tolist()),
                "fires, negative": tuple(minus.firing.mean(dim=0)[chosen].tolist()),
            },
            method={"name": type(self).__name__, **to_json(self)},
            model=model.name,
        )

    def _scores(self, plus: Codes, minus: Codes, where: str) -> Float[Tensor, " latent"]:
        gap = plus.means.mean(dim=0) - minus.means.mean(dim=0)
        if self.score == "difference":
            return gap
        counts = (len(plus.means), len(minus.means))
        if min(counts) < 2:
            got = f"{counts[0]} and {counts[1]}"
            raise InputError(explain(where=where, expected="two texts a side, for d′", got=got))
        spread = ((plus.means.var(dim=0) + minus.means.var(dim=0)) / 2).sqrt()
        return torch.where(gap == 0, 0.0, gap / spread.clamp(min=1e-6))


def _largest(scores: Float[Tensor, " latent"], count: int, where: str) -> Int[Tensor, " f"]:
    """The latents of the largest |score|, but none of 0."""
    order = scores.abs().argsort(descending=True, stable=True)[:count]
    found = order[scores[order] != 0]
    if not len(found):
        expected = "sides whose codes differ"
        raise InputError(explain(where=where, expected=expected, got="equal mean codes"))
    return found


def _named(latents: Sequence[int], count: int, where: str) -> Int[Tensor, " f"]:
    wrong = [each for each in latents if not 0 <= each < count]
    if wrong or not len(latents) or len(set(latents)) < len(latents):
        expected = f"latents from 0 to {count - 1}, each once"
        got = ", ".join(map(str, latents)) or "none"
        raise InputError(explain(where=where, expected=expected, got=got))
    return torch.tensor(list(latents))
