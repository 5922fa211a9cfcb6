"""A hallucination score from concepts: do the latents of a prompt tell how far the answer is off?

Each text is its mean code over its tokens, z̄ [latent]; a linear rule predicts a score given for
its answer, such as 1 for a wrong one. With thousands of latents and few texts the rule is one of
partial least squares (PLS): z̄ standardised to u, and for each of a few components

    w ∝ uᵀ y,    t = u w,    y ← y − t (tᵀy / tᵀt),    u ← u − t (tᵀu / tᵀt)

Every text is predicted by a rule fitted without it, nor any of its group (two prompts about one
country are no independent evidence). Two figures, each with a bootstrap interval over groups:

    R²      1 − Σ (y − ŷ)² / Σ (y − mean of the texts fitted on)²        0: no better than the mean
    AUROC   the chance that a text scored above the median (a wrong one, of right and wrong) is
            predicted above one that is not

Beside the concepts: the same rule on the mean activation (what there is to find at the site), on a
number of one's own for each text such as how sure the model was (what costs nothing), and on scores
shuffled among groups (what comes of chance: R² below 0, AUROC one half).

That concept patterns of the input predict hallucination: Suresh et al. 2025 (arXiv 2509.06938). The
details here, mean codes, PLS, folds and controls among them, are our reading of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result, Study
from jackfield.dictionaries.dictionary import Dictionary
from jackfield.dictionaries.judging.labelled import of_one_site, pooled
from jackfield.reports import Report, Table
from jackfield.reports.intervals import tails
from jackfield.streams import Stream

_SHOWN = 10  # latents in the report


@config
class HallucinationScore(Study):
    """Predicts a score of each text from its concepts, held out.

    Attributes:
        components: of the partial least squares.
        folds: parts of the groups, each predicted from the others.
        samples: of the bootstrap over groups.
        seed: of the folds, the shuffle and the bootstrap.

    >>> from jackfield.dictionaries import PCA
    >>> x = torch.randn(60, 4)  # [text, d]
    >>> stream = Stream.from_tensor(x, site="x", documents=torch.arange(60))
    >>> found = HallucinationScore().run(PCA(latents=4).fit(stream), stream, x[:, 0])
    >>> found.r2()[0] > 0.9 > found.r2("shuffled")[0]
    True
    """

    components: int = setting(default=2, ge=1)
    folds: int = setting(default=5, ge=2)
    samples: int = setting(default=1000, ge=10)
    seed: int = 0

    def run(
        self,
        dictionary: Dictionary,
        stream: Stream,
        scores: Sequence[float] | Tensor,
        *,
        baseline: Sequence[float] | Tensor | None = None,
        groups: Sequence[int] | Tensor | None = None,
    ) -> "PredictedScores":
        """Measures.

        Args:
            dictionary: an autoencoder.
            stream: rows of its site, such as `model.stream(prompts, sites=[dictionary.site])`.
            scores: of document 0, 1, … of the stream; higher is farther off.
            baseline: a number for each document that a rule may read in the place of concepts.
            groups: which documents belong together; each by itself if not given.

        Raises:
            InputError: documents without a score, scores that are all equal or not finite, fewer
                groups than folds, or rows that are not finite.
        """
        of_one_site(dictionary, "HallucinationScore")
        documents, x, codes = pooled(dictionary, stream)
        y = _of(documents, scores, "scores", dictionary.site)
        own = documents if groups is None else _of(documents, groups, "groups", dictionary.site)
        group = own.unique(return_inverse=True)[1]
        if int(group.max()) + 1 < self.folds or not bool(y.std() > 0):
            expected = f"scores that differ, in {self.folds} groups or more"
            got = f"{len(y.unique())} values in {int(group.max()) + 1} groups"
            where = f"HallucinationScore at {dictionary.site}"
            raise InputError(explain(where=where, expected=expected, got=got))
        draw = torch.Generator().manual_seed(self.seed)
        fold = torch.randperm(int(group.max()) + 1, generator=draw)[group] % self.folds
        read = {"concepts": codes, "activation": x}
        if baseline is not None:
            read["baseline"] = _of(documents, baseline, "baseline", dictionary.site)[:, None]
        mixed = y[_shuffled(group, draw)]
        predicted = [self._held_out(each, y, fold) for each in read.values()]
        targets = [y] * len(read) + [mixed]
        predicted.append(self._held_out(codes, mixed, fold))
        means = [_means(each, fold) for each in targets]
        truth, given, mean = (torch.stack(each) for each in (targets, predicted, means))
        draws = _draws(group, self.samples, draw)
        return PredictedScores(
            (*read, "shuffled"), truth, given, mean, draws,
            fit_pls(codes, y, self.components).weight, dictionary.site,
        )  # fmt: skip

    def _held_out(self, x: Tensor, y: Tensor, fold: Tensor) -> Float[Tensor, " text"]:
        """Each text's prediction by a rule fitted on other folds."""
        predicted = torch.empty_like(y)
        for each in fold.unique():
            out = fold == each
            predicted[out] = fit_pls(x[~out], y[~out], self.components).predict(x[out])
        return predicted


@dataclass(frozen=True, eq=False, repr=False)
class PredictedScores(Result):
    """Held-out predictions, by what they were made from.

    Attributes:
        names: "concepts", "activation", "baseline" if there was one, "shuffled".
        truth: [name, text] the scores; for "shuffled" as they were shuffled.
        predicted: [name, text] held out.
        mean: [name, text] the mean score that each text's rule was fitted on.
        draws: [sample, text] how often each text is in a bootstrap sample.
        weights: [latent] of the rule fitted on all texts, a unit being a standard deviation.
        site: where.
    """

    names: tuple[str, ...]
    truth: Float[Tensor, "name text"]
    predicted: Float[Tensor, "name text"]
    mean: Float[Tensor, "name text"]
    draws: Int[Tensor, "sample text"]
    weights: Float[Tensor, " latent"]
    site: str

    def r2(self, name: str = "concepts") -> tuple[float, float, float]:
        """R², and the ends of its 95 % interval."""
        i = self.names.index(name)
        missed = (self.truth[i] - self.predicted[i]).square()
        spread = (self.truth[i] - self.mean[i]).square()
        weight = self.draws.to(missed)
        drawn = 1 - weight @ missed / (weight @ spread)
        return _with_interval(1 - missed.sum() / spread.sum(), drawn)

    def auroc(self, name: str = "concepts") -> tuple[float, float, float]:
        """AUROC, and the ends of its 95 % interval."""
        i = self.names.index(name)
        high = _high(self.truth[i])
        wins = _wins(self.predicted[i], high)
        weight = self.draws.to(wins)
        above, below = weight[:, high], weight[:, ~high]
        drawn = ((above @ wins) * below).sum(dim=1) / (above.sum(dim=1) * below.sum(dim=1))
        return _with_interval(wins.mean(), drawn[drawn.isfinite()])

    def report(self) -> Report:
        """Both figures by what was read, and the latents that tell the most."""
        columns = ["read", "R2", "R2 from", "R2 to", "AUROC", "AUROC from", "AUROC to"]
        rows = [[name, *self.r2(name), *self.auroc(name)] for name in self.names]
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3f"))
        order = self.weights.abs().argsort(descending=True)[:_SHOWN].tolist()
        latents = Table(
            ["latent", "weight"],
            [[i, float(self.weights[i])] for i in order],
            caption="Change of the score with one standard deviation of a latent's mean code.",
            formats={"weight": ".4f"},
        )
        title = f"Hallucination score from concepts at {self.site}"
        return Report(title, [table, latents], summary=repr(self))

    def __repr__(self) -> str:
        told = "; ".join(
            f"{name} R² {r2:.3f} [{low:.3f}, {high:.3f}], AUROC {self.auroc(name)[0]:.3f}"
            for name in self.names
            for r2, low, high in [self.r2(name)]
        )
        return f"Scores of {self.truth.shape[1]} texts, held out, from: {told}."


@dataclass(frozen=True, eq=False)
class Pls:
    """A linear rule on standardised columns: `mean_y + (x − mean) / deviation · weight`."""

    weight: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]
    mean_y: Float[Tensor, ""]

    def predict(self, x: Float[Tensor, "row d"]) -> Float[Tensor, " row"]:
        """The rule's numbers."""
        return self.mean_y + (x - self.mean) / self.deviation @ self.weight


def fit_pls(x: Float[Tensor, "row d"], y: Float[Tensor, " row"], components: int) -> Pls:
    """Partial least squares of one number (PLS1, Wold et al.); a constant column gets weight 0.

    With as many components as columns it is least squares; it stops where nothing is left.
    """
    x, y = x.double(), y.double()
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    varies = deviation > 1e-12 * (1 + mean.abs())
    deviation = deviation.where(varies, 1.0)
    u = ((x - mean) / deviation).where(varies, 0.0)
    left, directions, loadings, slopes = y - y.mean(), [], [], []
    floor = 1e-12 * float(u.norm() * left.norm())
    for _ in range(components):
        direction = u.T @ left
        if float(direction.norm()) <= floor:
            break
        direction = direction / direction.norm()
        t = u @ direction
        loading, slope = u.T @ t / (t @ t), left @ t / (t @ t)
        u, left = u - t[:, None] * loading, left - slope * t
        directions.append(direction)
        loadings.append(loading)
        slopes.append(slope)
    weight = torch.zeros_like(mean)
    if directions:
        W, P = torch.stack(directions, dim=1), torch.stack(loadings, dim=1)
        weight = W @ torch.linalg.solve(P.T @ W, torch.stack(slopes))
    return Pls(weight, mean, deviation, y.mean())


def _of(documents: Tensor, values: Sequence[float] | Tensor, what: str, site: str) -> Tensor:
    """The values of the documents that were read."""
    given = torch.as_tensor(values)
    where = f"HallucinationScore at {site}"
    if given.dim() != 1 or int(documents[-1]) >= len(given):
        expected, got = f"{what} for document {int(documents[-1])}", str(list(given.shape))
        raise InputError(explain(where=where, expected=expected, got=got))
    chosen = given[documents].double()
    if not bool(chosen.isfinite().all()):
        raise InputError(explain(where=where, expected=f"finite {what}", got="NaN or Inf"))
    return chosen


def _shuffled(group: Tensor, draw: torch.Generator) -> Int[Tensor, " text"]:
    """For each text another one whose score it gets: whole groups change places, as far as they are
    of the same size; a text keeps its number within the group.
    """  # noqa: D205
    members = [(group == each).nonzero()[:, 0] for each in range(int(group.max()) + 1)]
    order = torch.randperm(len(members), generator=draw).tolist()
    source = torch.empty_like(group)
    for own, other in zip(members, (members[i] for i in order), strict=True):
        source[own] = other[torch.arange(len(own)) % len(other)]
    return source


def _means(y: Tensor, fold: Tensor) -> Float[Tensor, " text"]:
    means = torch.empty_like(y)
    for each in fold.unique():
        means[fold == each] = y[fold != each].mean()
    return means


def _draws(group: Tensor, samples: int, draw: torch.Generator) -> Int[Tensor, "sample text"]:
    """How often each text is in each sample of groups with replacement."""
    count = int(group.max()) + 1
    drawn = torch.randint(count, (samples, count), generator=draw)
    often = torch.zeros(samples, count, dtype=torch.int64)
    return often.scatter_add_(1, drawn, torch.ones_like(drawn))[:, group]


def _high(y: Float[Tensor, " text"]) -> Bool[Tensor, " text"]:
    """Those above the median, or at the top where half of them are."""
    return y > torch.minimum(y.median(), y[y < y.max()].max())


def _wins(values: Tensor, high: Bool[Tensor, " text"]) -> Float[Tensor, "high low"]:
    """1 where a high text is above a low one, ½ where they are equal."""
    difference = values[high][:, None] - values[~high]
    return (difference > 0).double() + 0.5 * (difference == 0).double()


def _with_interval(value: Tensor, drawn: Tensor) -> tuple[float, float, float]:
    low, high = tails(drawn).tolist()
    return float(value), low, high
