"""NMF: activations that are never negative, as sums of parts that are never negative.

    X ≈ Z D,      Z >= 0 [row, latent],      D >= 0 [latent, d],      ‖X − Z D‖² the least

Nothing can be taken away again, so the parts are additive: which neurons fire together. For
activations after a ReLU; rows with negative entries are refused (`SNMF` takes those).

Lee and Seung 1999, "Learning the parts of objects by non-negative matrix factorization"; Gillis
2014, arXiv 1401.5226 (the alternation and its convergence). Each pass over the stream finds the
codes of all rows for D as it stands (`nonnegative_code`), sums ZᵀZ and ZᵀX, and then improves D row
by row (HALS), which needs these sums only:

    D_j ← max(0, D_j + ((ZᵀX)_j − (ZᵀZ)_j D) / (ZᵀZ)_jj)

Departure from Lee and Seung's multiplicative steps, which lock at 0: neither half of the step can
raise the error, no row stays in memory, and batches do not matter. First parts: rows of the data
drawn as in `KMeans`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.factor_method import FactorMethod, Found, check_latents, doubles
from jackfield.dictionaries.factors import nonnegative_code
from jackfield.dictionaries.kmeans import plus_plus
from jackfield.streams import Batch, Sink, Stream

_SWEEPS = 10  # over the parts after each pass
_ROUNDS = 100  # of the codes in a pass: what is left is less than what a step gains


@config
class NMF(FactorMethod):
    """Config of non-negative matrix factorisation; see `FactorMethod` for the other settings.

    Attributes:
        passes: at most so many steps, each a pass over the stream.
        tolerance: stop when a step lowers the error by less than this share of it.

    >>> x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [4.0, 2.0]])
    >>> nmf = NMF(latents=2).fit(Stream.from_tensor(x))
    >>> nmf.figures["FVU"] < 1e-6, bool((nmf.directions >= 0).all())
    (True, True)
    """

    passes: int = setting(default=100, ge=1)
    tolerance: float = setting(default=1e-3, ge=0)

    def factorise(self, stream: Stream, first: Float[Tensor, "row d"], progress: bool) -> Found:
        distinct = first[first.any(dim=1)].unique(dim=0)
        check_latents(self.latents, len(distinct), "the distinct rows at first", where="NMF.fit")
        D = _unit(plus_plus(distinct, self.latents, seed=self.seed))
        history: list[dict[str, float]] = []
        for step in range(1, self.passes + 1):
            seen = stream.into(_Sums(stream.sites[0], D), progress=progress)
            history.append({"pass": step, "error": seen.error / seen.rows})
            D = _improved(D, seen.codes, seen.rows_by_code)
            if step > 1 and history[-2]["error"] - history[-1]["error"] <= (
                self.tolerance * history[-2]["error"]
            ):
                break
        return Found("nonnegative", D, D, torch.zeros_like(D[0]), history=history)


class _Sums(Sink["_Sums"]):
    """Sums ZᵀZ (`codes`), ZᵀX (`rows_by_code`) and the error; its own result."""

    def __init__(self, site: str, D: Float[Tensor, "latent d"]) -> None:
        self._site, self._D = site, D
        self.codes, self.rows_by_code = D.new_zeros(len(D), len(D)), torch.zeros_like(D)
        self.error, self.rows = 0.0, 0

    @property
    def sites(self) -> tuple[str, ...]:
        return (self._site,)

    def update(self, batch: Batch) -> None:
        where = f"NMF at {self._site}"
        x = doubles(batch, self._site, where="NMF")
        if (x < 0).any():
            expected, got = "activations that are never negative", f"{float(x.min()):.3g}"
            hint = "Fit after a ReLU, or use SNMF."
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
        codes = nonnegative_code(x, self._D, _ROUNDS)
        self.codes += codes.T @ codes
        self.rows_by_code += codes.T @ x
        self.error += float((x - codes @ self._D).square().sum())
        self.rows += len(x)

    def finish(self) -> "_Sums":
        return self


def _improved(
    D: Float[Tensor, "latent d"],
    codes: Float[Tensor, "latent latent"],
    rows_by_code: Float[Tensor, "latent d"],
) -> Float[Tensor, "latent d"]:
    """D after some sweeps, rows of length 1; a row that no row uses, or that would be 0, stays."""
    new = D.clone()
    for _ in range(_SWEEPS):
        for j in codes.diagonal().nonzero().flatten().tolist():
            row = (new[j] + (rows_by_code[j] - codes[j] @ new) / codes[j, j]).relu()
            new[j] = row if row.any() else new[j]
    return _unit(new)


def _unit(D: Float[Tensor, "latent d"]) -> Float[Tensor, "latent d"]:
    return D / D.norm(dim=1, keepdim=True)
