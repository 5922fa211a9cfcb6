"""Transcoder: rebuilds the output of a part of the model from its input, sparsely (2406.11944).

    z = the k largest of relu((x − c) W_encᵀ + b_enc)                     [row, latent]
    ŷ = z W_dec + b_dec  (+ x W_skip)
    L = ‖y − ŷ‖² / V  +  α ‖e − z_aux W_dec‖² / ‖e − ē‖²,     e = y − ŷ, without gradient

x [row, d_in] is read at one site (`mlp_in`), y [row, d] at another (`mlp_out`), c is the centre of
x and stays as it is. An MLP's own neurons are many and all fire; a transcoder's latents are more
still, and k of them fire, so that what the MLP does to one token can be told. With `skip` a linear
map carries what is linear, and the latents explain the rest. Its edits act at the second site and
read the first: `splice` puts ŷ in the place of the MLP's output.

Source: Dunefsky et al. 2024, "Transcoders find interpretable LLM feature circuits", arXiv
2406.11944 (there with L1); Paulo et al. 2025, arXiv 2501.18823 (TopK and the skip). W_skip begins
at 0. Each encoder row begins near the input of a row, the decoder row near its output; what else
departs is as in `TopK`.
"""

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, explain
from jackfield.dictionaries.sparse_dictionary import SparseDictionary
from jackfield.dictionaries.sparse_method import SparseMethod, Wiring, check_k
from jackfield.dictionaries.topk import TopKObjective
from jackfield.streams.protocol import check_site


@config
class Transcoder(SparseMethod[SparseDictionary]):
    """Config of the transcoder; see `SparseMethod` for the settings of the training.

    Attributes:
        reads: the site that is encoded.
        writes: the site that is rebuilt, a later one.
        skip: a linear map from what is read to what is rebuilt, beside the latents.
        k: latents kept on each row.
        aux: α, the weight of the auxiliary loss; 0 turns it off.
        k_aux: latents in it; the power of two nearest to d / 2 if not given.

    >>> import torch
    >>> from jackfield.streams import Stream
    >>> stream = Stream.from_tensor({"in": torch.randn(512, 6), "out": torch.randn(512, 8)})
    >>> config = Transcoder(reads="in", writes="out", latents=16, k=2, rows=1024, batch=128)
    >>> config.fit(stream, progress=False)
    SparseDictionary(Transcoder at out: 16 latents of 8, k=2)
    """

    reads: str = setting()
    writes: str = setting()
    skip: bool = setting(default=False)
    k: int = setting(default=32, ge=1)
    aux: float = setting(default=1 / 32, ge=0)
    k_aux: int | None = setting(default=None, ge=1)

    def wiring(self, sites: tuple[str, ...]) -> Wiring:
        check_k(self.k, self.latents, where="Transcoder")
        for site in (self.reads, self.writes):
            check_site(site, sites, where="Transcoder.fit")
        if self.reads == self.writes:
            expected = "another site to rebuild than the one it reads"
            raise ConfigError(explain(where="Transcoder", expected=expected, got=self.writes))
        objective = TopKObjective(self.k, self.aux, self.k_aux)
        return Wiring((self.reads,), (self.writes,), objective, skip=self.skip)
