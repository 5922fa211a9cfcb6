"""Crosscoder: one sparse code for several sites, decoded to each (Lindsey et al. 2024).

    z = rule(Σ_s (x_s − b_s) W_enc,sᵀ + b_enc)                            [row, latent]
    x̂_s = z W_dec,s + b_s                                for each site s, x_s [row, d_s]
    L = Σ_s ‖x_s − x̂_s‖² / V  +  the sparsity of the rule

    sparsity     rule                                      in L
    "l1"         relu                                      λ Σ_i z_i Σ_s ‖W_dec,s,i‖ / √V
    "batch_topk" the k · rows largest of z_i Σ_s ‖W_dec,s,i‖   α AuxK, as in `BatchTopK`

Sites are layers of one model, or the same layer of two models run on the same tokens. A feature
that stays through the layers is learned once; how long its decoder is at each site says where it
is. Each site is scaled to mean square d_s in training, V is the sum of their variances.

Source: Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing"
(Anthropic: l1); Minder et al. 2025, "Overcoming sparsity artifacts in crosscoders", arXiv
2504.02922 (BatchTopK). Departures: the encoder subtracts b_s first, and a latent's decoder rows
together are kept at length 1; both only write the same functions otherwise. What else departs is
as in `ReLU` and `BatchTopK`.
"""

from typing import Literal

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.batch_topk import BatchTopKObjective
from jackfield.dictionaries.crosscoder_dictionary import CrosscoderDictionary
from jackfield.dictionaries.objective import Objective
from jackfield.dictionaries.relu import ReLUObjective
from jackfield.dictionaries.sparse_method import SparseMethod, Wiring, check_k
from jackfield.streams.protocol import check_site


@config
class Crosscoder(SparseMethod[CrosscoderDictionary]):
    """Config of the crosscoder; see `SparseMethod` for the settings of the training.

    Attributes:
        sites: at least two, in the order of the forward; all of the stream's if none are given.
        sparsity: "batch_topk" or "l1".
        k: latents kept on a row, on average over a batch.
        aux: α, the weight of the auxiliary loss; 0 turns it off.
        k_aux: latents in it; the power of two nearest to half of all d_s if not given.
        l1: λ, the weight of the penalty.
        rise: share of the run in which λ rises from 0.
        wake: weight of the loss that raises dead latents, with "l1".

    >>> import torch
    >>> from jackfield.streams import Stream
    >>> stream = Stream.from_tensor({"a": torch.randn(512, 6), "b": torch.randn(512, 8)})
    >>> config = Crosscoder(latents=16, k=2, rows=1024, batch=128)
    >>> config.fit(stream, progress=False).shares.shape
    torch.Size([16, 2])
    """

    sites: tuple[str, ...] = setting(default=())
    sparsity: Literal["batch_topk", "l1"] = setting(default="batch_topk")
    k: int = setting(default=32, ge=1)
    aux: float = setting(default=1 / 32, ge=0)
    k_aux: int | None = setting(default=None, ge=1)
    l1: float = setting(default=0.1, ge=0)
    rise: float = setting(default=0.05, ge=0, le=1)
    wake: float = setting(default=1e-4, ge=0)

    def wiring(self, sites: tuple[str, ...]) -> Wiring:
        chosen = self.sites or sites
        for site in chosen:
            check_site(site, sites, where="Crosscoder.fit")
        if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
            expected, got = "at least two sites, each once", ", ".join(chosen)
            raise InputError(explain(where="Crosscoder.fit", expected=expected, got=got))
        return Wiring(chosen, chosen, self._objective())

    def _objective(self) -> Objective:
        if self.sparsity == "l1":
            return ReLUObjective(self.l1, self.rise, self.wake, unit=True)
        check_k(self.k, self.latents, where="Crosscoder")
        return BatchTopKObjective(self.k, self.aux, self.k_aux)
