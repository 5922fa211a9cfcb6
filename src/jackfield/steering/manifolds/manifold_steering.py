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
"""

from typing import TYPE_CHECKING

import torch
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
        centroids = torch.stack([rows.mean(dim=0) for rows in read.rows])
        centre, basis, share = self._subspace(centroids, read.site)
        curve = Curve.through((centroids - centre) @ basis.T, cyclic=task.cyclic)
        return ActivationManifold(
            basis=basis.float().contiguous(),
            centre=centre.float(),
            curve=curve.to(basis.float()),
            labels=task.labels(),
            at=read.site,
            share=share,
            near=tuple(_near(curve, (rows - centre) @ basis.T, i) for i, rows in
                       enumerate(read.rows)),
            counts=tuple(map(len, read.rows)),
            residual_norm=read.norm,
            model=model.name,
            method={"name": "ManifoldSteering", **to_json(self)},
        )  # fmt: skip

    def _subspace(self, centroids: Tensor, site: str) -> tuple[Tensor, Tensor, float]:
        """Centre [d], orthonormal rows [k, d], and the share of the centroids' variance in them."""
        centre = centroids.mean(dim=0)
        _, sizes, rows = torch.linalg.svd(centroids - centre, full_matrices=False)
        if not bool(sizes[0] > 1e-9 * centroids.norm()):
            expected = "centroids that differ"
            raise InputError(explain(where=site, expected=expected, got="equal means"))
        kept = min(self.components, len(centroids) - 1, len(rows))
        return centre, rows[:kept], float(sizes[:kept].square().sum() / sizes.square().sum())


def _near(curve: Curve, z: Tensor, index: int) -> float:
    """The share of a class's prompts whose place on the curve is within half a class of it."""
    return float((curve.way(curve.nearest(z), index).abs() <= 0.5).double().mean())
