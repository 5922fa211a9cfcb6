"""LangFIR: the latents of a language, those that fire on its texts but not on random tokens.

    F_target = {f: fires on at least τ of a text's tokens, on average over the texts}
    F_random = {f: fires on at least τ_r of a random sequence's tokens}
    S = F_target without F_random
    steer    x + s Σ_{f∈S} ā_f W_f                ā_f: the mean code on the texts
    ablate   x − Σ_{f∈S} z_f W_f                  S is silenced, all else is kept

Most latents that fire on a language's texts fire on any text. Random tokens show which, without
texts of other languages. The filter is not about languages: any kind of text will do.

Wong, Sajjad and Siddique 2026, LangFIR, arXiv 2604.03532, of which we know the abstract: that
random tokens filter the latents, that few are left, and that ablating them raises the
cross-entropy of that language only. Our reading: frequency is counted over tokens, both
thresholds, the weights ā_f, the length of the random sequences. Special tokens are not drawn.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.steering.features.dictionary import FeatureDictionary, read_codes
from jackfield.steering.features.lengths import lengths
from jackfield.steering.features.random_texts import random_texts
from jackfield.steering.features.steered_features import SteeredFeatures, added

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class LangFIR(Method):
    """Latents that fire on some texts and not on random tokens.

    Attributes:
        fires: τ, on which share of the texts' tokens a latent fires at least.
        random_fires: τ_r, and on which of the random tokens it fires less than that.
        random: how many random sequences.
        length: tokens in each.
        seed: of them.
        where: which tokens are read.

    >>> from jackfield.dictionaries import TopK
    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> sae = TopK(latents=48, k=4, rows=600, batch=64).fit(world.stream(), progress=False)
    >>> method = LangFIR(fires=0.1, random_fires=0.1)
    >>> found = method.fit(world.model, texts=world.tokens, dictionary=sae)
    >>> all(share >= 0.1 for share in found.figures["fires on the texts"])
    True
    """

    fires: float = setting(default=0.1, gt=0, le=1)
    random_fires: float = setting(default=0.05, gt=0, le=1)
    random: int = setting(default=100, ge=1)
    length: int = setting(default=24, ge=2)
    seed: int = 0
    where: str | int | tuple[int, ...] = "~sinks"

    def fit(
        self,
        model: "Model",
        *,
        texts: Any,
        dictionary: FeatureDictionary,
        progress: bool = False,
    ) -> SteeredFeatures:
        """Finds the latents.

        Args:
            model: the model to steer.
            texts: of the language: strings, chats, or token ids [text, position]; about 100.
            dictionary: a fitted dictionary of one of the model's sites [batch, position, d].
            progress: show a live line.

        Raises:
            InputError: no texts, no latent that passes, or a dictionary of another width.
            SiteError: a dictionary of a site that the model has not, or of another shape.
        """
        drawn = random_texts(model, self.random, self.length, self.seed)
        target, chance = (
            read_codes(model, dictionary, each, where=self.where, progress=progress)
            for each in (texts, drawn)
        )
        often, anyway = (each.firing.mean(dim=0) for each in (target, chance))
        passes = (often >= self.fires) & (anyway < self.random_fires)
        where = f"{model.name}, {dictionary.site}"
        self._check(passes, often, where)
        chosen = passes.nonzero().flatten()
        latents, weights = tuple(chosen.tolist()), target.means.mean(dim=0)[chosen].float()
        vector = added(dictionary, latents, weights)
        # of the texts alone: random tokens are longer or shorter, and no text that is steered
        norm, sigma = lengths(model, texts, texts, dictionary.site, vector, where=self.where)
        return SteeredFeatures(
            dictionary=dictionary,
            latents=latents,
            weights=weights,
            values=weights,
            act="add",
            residual_norm=norm,
            sigma=sigma,
            figures={
                "fires on the texts": tuple(often[chosen].tolist()),
                "fires on random tokens": tuple(anyway[chosen].tolist()),
                "mean code": tuple(weights.tolist()),
            },
            method={"name": type(self).__name__, **to_json(self)},
            model=model.name,
        )

    def _check(self, passes: Tensor, often: Tensor, where: str) -> None:
        if bool(passes.any()):
            return
        target = int((often >= self.fires).sum())
        raise InputError(
            explain(
                where=where,
                expected=f"a latent on {self.fires:.0%} of the texts' tokens, and on less than "
                f"{self.random_fires:.0%} of random ones",
                got=f"{target} of the first kind, and none of both",
                hint="Lower `fires`, or take a dictionary that was fitted on such texts.",
            )
        )
