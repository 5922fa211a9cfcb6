"""Matryoshka: nested dictionaries in one, each of which must rebuild the row alone (2503.17547).

    z = the k · rows largest of relu((x − b_dec) W_encᵀ + b_enc) in the batch         [row, latent]
    x̂_m = z[:m] W_dec[:m] + b_dec
    L = Σ_m ‖x − x̂_m‖² / V  +  α ‖e − z_aux W_dec‖² / ‖e − ē‖²,    e = x − x̂ of all latents

over the widths m = m_1 < … < latents. The first latents, in every sum, learn what is general; the
last ones what is special. There is one code, by BatchTopK over all latents; at inference a
threshold, as in `BatchTopK`.

Source: Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders",
arXiv 2503.17547. The sum over widths is plain, as in the paper (a library's mean of it makes the
auxiliary loss weigh more by that factor). What else departs is as in `TopK`.
"""

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, explain
from jackfield.dictionaries.batch_topk import BatchTopKObjective
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.dictionaries.sparse_method import SparseMethod, Wiring, check_k, one_site

_LEVELS = 5  # nested dictionaries if widths are not given, each twice as wide as the one before


@config
class Matryoshka(SparseMethod[SparseDictionary]):
    """Config of the Matryoshka sparse autoencoder; `SparseMethod` has the training's settings.

    Attributes:
        k: latents kept on a row, on average over a batch.
        widths: of the nested dictionaries, rising, the last one `latents`; if none are given,
            latents / 16, / 8, / 4, / 2 and latents.
        aux: α, the weight of the auxiliary loss; 0 turns it off.
        k_aux: latents in it; the power of two nearest to d / 2 if not given.

    >>> import torch
    >>> from jackfield.streams import Stream
    >>> stream = Stream.from_tensor(torch.randn(512, 8), site="x")
    >>> config = Matryoshka(latents=16, widths=(4, 16), k=2, rows=1024, batch=128)
    >>> config.fit(stream, progress=False)
    SparseDictionary(Matryoshka at x: 16 latents of 8, threshold)
    """

    k: int = setting(default=32, ge=1)
    widths: tuple[int, ...] = setting(default=())
    aux: float = setting(default=1 / 32, ge=0)
    k_aux: int | None = setting(default=None, ge=1)

    def wiring(self, sites: tuple[str, ...]) -> Wiring:
        check_k(self.k, self.latents, where="Matryoshka")
        site = one_site(sites, where="Matryoshka.fit")
        objective = BatchTopKObjective(self.k, self.aux, self.k_aux, self.nested)
        return Wiring(site, site, objective)

    @property
    def nested(self) -> tuple[int, ...]:
        """The widths of the nested dictionaries.

        Raises:
            ConfigError: they do not rise from 1 or more to `latents`.
        """
        halves = {self.latents >> level for level in range(_LEVELS)} - {0}
        widths = self.widths or tuple(sorted(halves))
        if list(widths) != sorted({*widths}) or widths[0] < 1 or widths[-1] != self.latents:
            expected = f"rising widths that end with latents = {self.latents}"
            raise ConfigError(explain(where="Matryoshka", expected=expected, got=str(widths)))
        return widths
