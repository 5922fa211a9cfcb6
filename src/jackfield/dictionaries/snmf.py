"""SNMF: MLP activations as non-negative amounts of sparse directions of either sign (2506.10920).

    X ≈ G F,      G >= 0 [row, latent],      F [latent, d] of either sign, most entries 0

A latent is a group of neurons that act together, some up and some down; what it writes into the
residual stream is `directions @ W_down`. One round, for rows X [row, d] of one stream:

    F ← (GᵀG + 1e-6)⁻¹ GᵀX;  of each latent only the largest |F|, a share `keep`, stay  (winner
        take all);  columns of G to length 1, F the other way
    G ← G ⊙ √((P⁺ + G Q⁻) / (P⁻ + G Q⁺ + 1e-6)),    P = X Fᵀ,  Q = F Fᵀ,  A^± = (|A| ± A) / 2

Without `keep` no round raises the error (Ding, Li and Jordan 2010); taking winners breaks the
proof, so the error of every round is kept, `figures["rises"]` counts the rounds in which it rose,
and the best F is what is returned.

Shafran et al. 2025, "Decomposing MLP activations into interpretable features via semi-nonnegative
matrix factorization", arXiv 2506.10920. Departures: a row that was not in the fit has no G in the
paper; here every row's code is the best z >= 0 for F (`nonnegative_code`), and the reported FVU is
with these codes. Their last stage of a hierarchy, Adam on all levels at once without G >= 0, is
left out. All rows stay in memory (8 · row · d bytes).
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.factor_method import FactorMethod, Found, check_latents, doubles
from jackfield.dictionaries.factors import Factors, nearest
from jackfield.dictionaries.kmeans import plus_plus
from jackfield.streams import Stream

_TINY = 1e-6  # in the two denominators, as in the authors' code
_LLOYD = 15  # steps of k-means for the start "kmeans", as in the authors' code


@config
class SNMF(FactorMethod):
    """Config of semi-nonnegative matrix factorisation; see `FactorMethod` for the other settings.

    Attributes:
        start: "random" (G uniform), "kmeans" (F the centroids, G which is nearest) or "svd" (G the
            positive part of the left singular vectors).
        keep: share of the entries of each direction that stay; 1 for all.
        rounds: at most so many.
        tolerance, patience: stop when the best error fell by less than this share of it in so many
            rounds.

    >>> x = torch.tensor([[1.0, -1.0, 0.0], [2.0, -2.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 1.0]])
    >>> snmf = SNMF(latents=2, keep=0.7).fit(Stream.from_tensor(x))
    >>> snmf.figures["FVU"] < 1e-6, snmf.signed
    (True, False)
    """

    start: Literal["random", "kmeans", "svd"] = setting(default="random")
    keep: float = setting(default=0.01, gt=0, le=1)
    rounds: int = setting(default=500, ge=1)
    tolerance: float = setting(default=1e-4, ge=0)
    patience: int = setting(default=100, ge=1)

    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        (site,) = stream.sites
        X = torch.cat([doubles(batch, site, where="SNMF") for batch in stream])
        check_latents(self.latents, len(X), "the rows", where="SNMF.fit")
        G, best, history = self._first(X), torch.zeros_like(X[: self.latents]), []
        errors: list[float] = []
        for step in range(1, self.rounds + 1):
            F, G, error = self._round(X, G)
            best = F if not errors or error < min(errors) else best
            errors.append(error)
            history.append({"pass": float(step), "error": error / len(X)})
            if self._settled(errors):
                break
        rises = sum(after > before for before, after in pairwise(errors))
        used = best.any(dim=1)
        if not used.all():
            got = f"{int((~used).sum())} directions that are 0"
            where, hint = f"SNMF at {site}", "Ask for fewer latents, or start='kmeans'."
            raise InputError(explain(where=where, expected="rows for all", got=got, hint=hint))
        figures, centre = {"rises": float(rises)}, torch.zeros_like(X[0])
        return Found("nonnegative", best, best, centre, figures, history)

    def over(self, below: Factors) -> Factors:
        """The next level of a hierarchy: this many directions whose sums are those of `below`.

        Its rows are the directions of `below`, each as long as its latent is large on average
        (`sizes`); `encode(below.directions)` says how much of which parent is in each child.

        Raises:
            ConfigError, InputError: as `fit`.
        """
        return self.fit(Stream.from_tensor(below.directions * below.sizes[:, None], below.site))

    def _first(self, X: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        """The first G."""
        draw = torch.Generator().manual_seed(self.seed)
        if self.start == "random":
            return torch.rand(len(X), self.latents, generator=draw, dtype=X.dtype)
        if self.start == "svd":
            check_latents(self.latents, min(X.shape), "the smaller side", where="SNMF, start='svd'")
            U, S, _ = torch.linalg.svd(X, full_matrices=False)
            return (U * S.sqrt())[:, : self.latents].relu() + _TINY
        centroids = plus_plus(X, self.latents, seed=self.seed)
        for _ in range(_LLOYD):
            chosen = torch.nn.functional.one_hot(nearest(X, centroids), self.latents).to(X)
            counts = chosen.sum(dim=0)[:, None]
            centroids = torch.where(counts > 0, chosen.T @ X / counts.clamp_min(1), centroids)
        return torch.nn.functional.one_hot(nearest(X, centroids), self.latents).to(X) + _TINY

    def _round(self, X: Tensor, G: Tensor) -> tuple[Tensor, Tensor, float]:
        """F and G after one round, and ‖X − G F‖²."""
        ridge = _TINY * torch.eye(self.latents, dtype=X.dtype, device=X.device)
        F = winners(torch.linalg.solve(G.T @ G + ridge, G.T @ X), self.keep)
        length = G.norm(dim=0).clamp_min(torch.finfo(G.dtype).tiny)
        F, G = F * length[:, None], G / length
        P, Q = X @ F.T, F @ F.T
        above, below = P.relu() + G @ (-Q).relu(), (-P).relu() + G @ Q.relu()
        G = G * (above / (below + _TINY)).sqrt()
        error = X.square().sum() - 2 * (G * P).sum() + (Q * (G.T @ G)).sum()
        return F, G, float(error)

    def _settled(self, errors: list[float]) -> bool:
        if len(errors) <= self.patience:
            return False
        before, now = min(errors[: -self.patience]), min(errors)
        return before - now < self.tolerance * before


def winners(F: Float[Tensor, "latent d"], keep: float) -> Float[Tensor, "latent d"]:
    """Of each row the largest entries by size, at least one, as a share of d; the others 0.

    >>> winners(torch.tensor([[3.0, -4.0, 1.0, 0.5]]), 0.5)
    tensor([[ 3., -4.,  0.,  0.]])
    """
    kept = F.abs().topk(max(1, round(keep * F.shape[1])), dim=1).indices
    return torch.zeros_like(F).scatter(1, kept, F.gather(1, kept))
