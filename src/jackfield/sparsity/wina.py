"""WINA: leave out the inputs of linear layers that matter least, by size times weight (2505.19427).

A site x is read by linear modules; W [out, d] are their matrices, one below the other, and
c_i = ‖W[:, i]‖₂ is the length of the column that x_i multiplies. Of each token only these are kept:

    top-k        the K = ⌊d · (1 − sparsity)⌋ units with the largest score |x_i| c_i
    threshold    the units with |x_i| c_i > t;  t is the `sparsity`-quantile of the scores over all
                 units and tokens of a calibration stream, one for each site

Why this score: what leaving units out changes in the layer's output has the squared length

    ‖W (x − m∘x)‖² = Σ_{i dropped} x_i² c_i² + cross terms c_i·c_j,

so where the columns are orthogonal the sum is exact and top-k is the best choice of K units.
No training. With `weights=False` all c_i are 1, which is TEAL's score (2408.14690).

Chen et al. 2025, arXiv 2505.19427. Where we depart: the norms are right at every site. The released
code sets them to 1 for all modules but `k_proj` and `gate_proj`; here every module that reads the
site counts, each matrix with its own columns. There is no rotation of the weights that makes
columns orthogonal (the paper's second part), and every site has the same sparsity.

At z all heads are ranked together, as the output projection reads them side by side. Which modules
read a site is told by the role table (`jackfield.model.readers`); a mixture of experts is refused.
"""

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.fitted import Method
from jackfield.model.readers import is_linear, linear_readers, matrix, stacked
from jackfield.sparsity.calibration import Deviations, ScoreQuantiles
from jackfield.sparsity.sparse_inputs import SiteRule, SparseInputs
from jackfield.streams import Stream

if TYPE_CHECKING:
    from jackfield.model.model import Model

SITES = ("layers.*.attn_in", "layers.*.z", "layers.*.mlp_in", "layers.*.mlp_post")


@config
class WINA(Method):
    """Config of weight-informed sparsity.

    Attributes:
        sparsity: the share of the units that is left out, at every site.
        sites: which sites; each must be read by linear modules (a module's input, `path:in`, too).
        rule: "topk" keeps as many units on every token, "threshold" as many on average.
        weights: use the column norms; without them the score is |x_i| alone (TEAL).

    >>> from jackfield.testing import tiny_llama
    >>> fitted = WINA(sparsity=0.5, sites=("layers.*.mlp_post",)).fit(tiny_llama())
    >>> fitted
    SparseInputs(tiny: 3 sites, 50.0% kept)
    >>> len(fitted.edits(where="all")), f"{fitted.saved:.1%}"
    (3, '8.8%')
    """

    sparsity: float = setting(default=0.5, ge=0, lt=1)
    sites: tuple[str, ...] = SITES
    rule: Literal["topk", "threshold"] = "topk"
    weights: bool = True

    def fit(
        self, model: "Model", stream: Stream | None = None, *, progress: bool = False
    ) -> SparseInputs:
        """Reads the weights; calibrates and measures on a stream if there is one.

        Args:
            model: a model whose blocks are known, or any with `path:in` sites.
            stream: rows [row, d] of all the sites, such as `model.stream(corpus, wina.sites)`. The
                threshold rule needs it. With it the report shows each site's error; top-k goes
                through it once, the threshold rule twice.
            progress: show a line with rows/s and the time left.

        Raises:
            ConfigError: the threshold rule without a stream.
            SiteError: a site that the model or the stream lacks, or that no linear module reads.
            InputError: weights or activations that are not finite.
        """
        if self.rule == "threshold" and stream is None:
            expected = "a stream to take the threshold from"
            where = "WINA.fit, rule='threshold'"
            raise ConfigError(explain(where=where, expected=expected, got="none"))
        rules = {site: self._rule(model, site) for site in model.sites.select(list(self.sites))}
        if stream is not None:
            if self.rule == "threshold":
                found = stream.into(ScoreQuantiles(rules, self.sparsity), progress=progress)
                rules = {site: rule.with_threshold(found[site]) for site, rule in rules.items()}
            matrices = {site: stacked(linear_readers(model, site)) for site in rules}
            rules = stream.into(Deviations(rules, matrices), progress=progress)
        return SparseInputs(to_json(self), rules, model=model.name, linear=_linear_size(model))

    def _rule(self, model: "Model", site: str) -> SiteRule:
        """The rule of one site, before any calibration."""
        found = linear_readers(model, site)
        W = stacked(found)
        norms = W.float().norm(dim=0)
        if not norms.isfinite().all():
            where = f"{model.name}, {', '.join(found)}"
            raise InputError(explain(where=where, expected="finite weights", got="NaN or Inf"))
        width = W.shape[1]
        return SiteRule(
            width=width,
            outputs=W.shape[0],
            readers=tuple(found),
            k=int(width * (1 - self.sparsity)),
            together=_together(model, site),
            norms=_shaped(norms, model, site) if self.weights else None,
        )


def _together(model: "Model", site: str) -> int:
    """How many of the site's last axes the readers see side by side."""
    return 2 if "head" in model.sites[site].axes else 1


def _shaped(norms: Tensor, model: "Model", site: str) -> Tensor:
    """[d], or [head, d_head] at a site with heads."""
    return norms.unflatten(0, (-1, model.d_head)) if _together(model, site) == 2 else norms


def _linear_size(model: "Model") -> int:
    """Multiply-adds a token in all linear modules of the model, the head included."""
    return sum(matrix(part).numel() for part in model.module.modules() if is_linear(part))
