"""Manifold steering: move along the curve on which an ordered concept lies, not across it.

    μ_c   mean activation [d] at the last token of the prompts whose answer is class c
    γ     a cubic spline through the centroids in their first k principal components,
          closed for a cycle
    u     = argmin_u ‖P(h − μ̄) − γ(u)‖            where the activation is on the curve
    h′    = h + Pᵀ(γ(u*) − γ(u))                    what is off the curve stays

Wurgaft et al. 2026, Manifold steering reveals the shared geometry of neural network representation
and behavior (arXiv 2605.05115); with a metric learned in the place of centroids: 2605.24942. Our
reading: k is not confirmed, and 5 here; we keep the part of the activation that is off the curve.
What comes of it in the answers is compared with the straight line in `manifold_paths.py`.

In a high dimension any centroid is near to what it is the mean of. So how well prompts lie at their
class is measured on curves that were fitted without them, in up to ten folds; each fold takes of a
class every tenth prompt, none of a class that has one only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, explain
from jackfield.core.fitted import Method
from jackfield.steering.axes.reading import read_groups
from jackfield.steering.manifolds.activation_manifold import ActivationManifold
from jackfield.steering.manifolds.curve import Curve
from jackfield.steering.manifolds.ordered_task import OrderedTask

if TYPE_CHECKING:
    from jackfield.model.model import Model

_FOLDS = 10


@config
class ManifoldSteering(Method):
    """A curve through class centroids.

    Attributes:
        components: k, principal components of the centroids in which the curve lies; no more than
            there are classes less one.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> words, answers = (3, 4, 5, 6), tuple(i % 4 for i in range(24))
    >>> task = OrderedTask("four", words, True, world.tokens, answers)
    >>> found = ManifoldSteering(components=2).fit(world.model, task=task, at="layers.1.resid_post")
    >>> found.curve.length, found.basis.shape
    (4, torch.Size([2, 32]))
    """

    components: int = setting(default=5, ge=1)

    def fit(
        self, model: "Model", *, task: OrderedTask, at: str, progress: bool = False
    ) -> ActivationManifold:
        """Fits the curve at one site.

        Args:
            model: the model to steer.
            task: prompts of each class; better only those that the model gets right
                (`task.known(model)`).
            at: a site [batch, position, d] such as layers.15.resid_post.
            progress: show a live line.

        Raises:
            InputError: fewer than three classes, a class without a prompt, or centroids that are
                all the same.
            SiteError: several sites, or one of another shape.
        """
        where = f"{model.name}, ManifoldSteering"
        if len(task.words) < 3:
            expected, got = "at least three classes", str(len(task.words))
            raise InputError(explain(where=where, expected=expected, got=got))
        groups = [task.of_class(index) for index in range(len(task.words))]
        empty = [name for name, each in zip(task.labels(), groups, strict=True) if not len(each)]
        if empty:
            expected, got = "a prompt for each class", f"none for {', '.join(empty)}"
            raise InputError(explain(where=where, expected=expected, got=got))
        read = read_groups(model, groups, at, tokens="last", where="last", progress=progress)
        drawn = self._drawn(read.rows, read.site, cyclic=task.cyclic)
        return ActivationManifold(
            basis=drawn.basis.float().contiguous(),
            centre=drawn.centre.float(),
            curve=drawn.curve.to(drawn.basis.float()),
            labels=task.labels(),
            at=read.site,
            share=drawn.share,
            near=self._near(read.rows, read.site, cyclic=task.cyclic),
            counts=tuple(map(len, read.rows)),
            residual_norm=read.norm,
            model=model.name,
            method={"name": "ManifoldSteering", **to_json(self)},
        )  # fmt: skip

    def _drawn(self, rows: Sequence[Tensor], site: str, *, cyclic: bool) -> "_Drawn":
        """The curve of some prompts [prompt, d] of each class."""
        centroids = torch.stack([each.mean(dim=0) for each in rows])
        centre = centroids.mean(dim=0)
        _, sizes, axes = torch.linalg.svd(centroids - centre, full_matrices=False)
        if not bool(sizes[0] > 1e-9 * centroids.norm()):
            expected = "centroids that differ"
            raise InputError(explain(where=site, expected=expected, got="equal means"))
        kept = min(self.components, len(centroids) - 1, len(axes))
        share = float(sizes[:kept].square().sum() / sizes.square().sum())
        curve = Curve.through((centroids - centre) @ axes[:kept].T, cyclic=cyclic)
        return _Drawn(centre, axes[:kept], curve, share)

    def _near(self, rows: Sequence[Tensor], site: str, *, cyclic: bool) -> tuple[float | None, ...]:
        """For each class the share of its prompts that lie at it, on curves of the other ones."""
        found: list[list[Tensor]] = [[] for _ in rows]
        for held in _folds([len(each) for each in rows]):
            kept = [each[~out] for each, out in zip(rows, held, strict=True)]
            drawn = self._drawn(kept, site, cyclic=cyclic)
            for index, (each, out) in enumerate(zip(rows, held, strict=True)):
                found[index].append(drawn.near(each[out], index))
        joined = [torch.cat(each) if each else torch.zeros(0) for each in found]
        return tuple(float(each.double().mean()) if len(each) else None for each in joined)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A centre [d], orthonormal rows [k, d], the curve in them, and their share of the variance."""

    centre: Float[Tensor, " d"]
    basis: Float[Tensor, "k d"]
    curve: Curve
    share: float

    def near(self, x: Float[Tensor, "row d"], index: int) -> Bool[Tensor, " row"]:
        """Whether activations lie within half a class of one."""
        u = self.curve.nearest((x - self.centre) @ self.basis.T)
        return self.curve.way(u, index).abs() <= 0.5


def _folds(counts: Sequence[int]) -> Iterator[list[Bool[Tensor, " row"]]]:
    """For each fold the prompts of each class that it leaves out; at least one is kept."""
    for fold in range(min(_FOLDS, max(counts))):
        yield [(torch.arange(n) % min(_FOLDS, n) == fold) & torch.tensor(n > 1) for n in counts]
